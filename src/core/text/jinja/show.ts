/** Values as text: Python's `str` and `repr`. */
import { isPrintable } from './characters.ts';
import { floatText } from './decimals.ts';
import type { Budget } from './fault.ts';
import { unfit } from './fault.ts';
import type { Int, Value } from './values.ts';
import { isList, typeName } from './values.ts';

/** Python refuses to print longer integers. */
const MAX_INT_DIGITS = 4300;

export function intText(value: Int): string {
  const text = value.toString();
  if (text.length > MAX_INT_DIGITS + 1) {
    throw unfit(`Exceeds the limit (${MAX_INT_DIGITS} digits) for integer string conversion`);
  }
  return text;
}

/** `str(value)`. */
export function str(value: Value, budget: Budget): string {
  if (typeof value === 'string') return value;
  if (value === null || typeof value !== 'object' || isList(value)) return repr(value, budget);
  if (value.kind === 'markup') return value.text;
  return value.kind === 'undefined' ? '' : repr(value, budget);
}

/** `repr(value)`. */
export function repr(value: Value, budget: Budget): string {
  budget.step();
  switch (typeof value) {
    case 'string':
      return quoted(value, budget);
    case 'boolean':
      return value ? 'True' : 'False';
    case 'number':
    case 'bigint':
      return intText(value);
  }
  if (value === null) return 'None';
  if (isList(value)) return `[${joined(value, budget)}]`;
  switch (value.kind) {
    case 'float':
      return floatText(value.value);
    case 'tuple':
      return `(${joined(value.items, budget)}${value.items.length === 1 ? ',' : ''})`;
    case 'dict':
      return dictText(value.items(), budget);
    case 'markup':
      return `Markup(${quoted(value.text, budget)})`;
    case 'range':
      return `range(${value.start}, ${value.stop}${value.step === 1 ? '' : `, ${value.step}`})`;
    case 'view': {
      const items = [...value.dict.items()].map(([key, item]) =>
        value.part === 'items'
          ? `(${repr(key, budget)}, ${repr(item, budget)})`
          : repr(value.part === 'keys' ? key : item, budget),
      );
      return `dict_${value.part}([${whole(items, budget)}])`;
    }
    case 'namespace':
      return `<Namespace ${dictText(value.values.entries(), budget)}>`;
    case 'iter':
      return `<${value.typeName} object>`;
    case 'undefined':
      return 'Undefined';
    case 'thing':
      return value.repr();
    default:
      throw unfit(`no text for ${typeName(value satisfies never)}`);
  }
}

function joined(items: readonly Value[], budget: Budget): string {
  return whole(
    items.map((item) => repr(item, budget)),
    budget,
  );
}

function dictText(items: Iterable<readonly [Value, Value]>, budget: Budget): string {
  const parts: string[] = [];
  for (const [key, value] of items) parts.push(`${repr(key, budget)}: ${repr(value, budget)}`);
  return `{${whole(parts, budget)}}`;
}

function whole(parts: readonly string[], budget: Budget): string {
  budget.text(parts.reduce((sum, part) => sum + part.length + 2, 0));
  return parts.join(', ');
}

const ESCAPES: Readonly<Record<string, string>> = { '\n': '\\n', '\r': '\\r', '\t': '\\t', '\\': '\\\\' };
const TO_ESCAPE = /[\\\p{C}\p{Z}]/gu;

/** A text in quotes: single ones, unless it holds such and no double ones. */
function quoted(text: string, budget: Budget): string {
  budget.text(text.length);
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const safe = text.replace(TO_ESCAPE, (c) => (isPrintable(c) && c !== '\\' ? c : (ESCAPES[c] ?? codeEscape(c))));
  return quote + (quote === "'" ? safe.replaceAll("'", "\\'") : safe) + quote;
}

/** `\x0a`, `\u2028` or `\U000e0001`. */
export function codeEscape(character: string): string {
  const code = character.codePointAt(0) as number;
  if (code < 0x100) return `\\x${code.toString(16).padStart(2, '0')}`;
  return code < 0x10000 ? `\\u${code.toString(16).padStart(4, '0')}` : `\\U${code.toString(16).padStart(8, '0')}`;
}

/** `ascii(value)`: everything beyond ASCII escaped. */
export function ascii(value: Value, budget: Budget): string {
  return repr(value, budget).replace(/[^\0-\x7f]/gu, codeEscape);
}
