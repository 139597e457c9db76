/** `str.format` and its little language of fields. */
import { attributeOf, itemOf } from './access.ts';
import { charCount, charSlice } from './characters.ts';
import type { Budget } from './fault.ts';
import { Fault, MAX_TEXT, unfit } from './fault.ts';
import { intDigits, realText } from './numberFormat.ts';
import { ascii, repr, str } from './show.ts';
import type { Args, Int, Value } from './values.ts';
import { Float, isInt, textOf, typeName } from './values.ts';

/** Fields within the specification of a field. */
const MAX_NESTING = 2;
const SPEC =
  /^(?:(?<fill>.)?(?<align>[<>=^]))?(?<sign>[-+ ])?(?<z>z)?(?<alternate>#)?(?<zero>0)?(?<width>\d+)?(?<group>[_,])?(?:\.(?<precision>\d+))?(?<type>[a-zA-Z%])?$/su;

/** Numbers fields that have no number. */
interface Counter {
  next: number;
  numbering?: 'automatic' | 'manual';
}

/** `text.format(...)`. `finish` treats what is put in. */
export function formatText(
  text: string,
  args: Args,
  budget: Budget,
  finish: (value: Value, formatted: string) => string = (_, formatted) => formatted,
): string {
  return fields(text, args, budget, finish, { next: 0 }, MAX_NESTING);
}

function fields(
  text: string,
  args: Args,
  budget: Budget,
  finish: (value: Value, formatted: string) => string,
  counter: Counter,
  depth: number,
): string {
  if (depth === 0) throw new Fault('Max string recursion exceeded');
  let out = '';
  let at = 0;
  let checked = 0;
  while (at < text.length) {
    budget.text(out.length > MAX_TEXT ? out.length : out.length - checked);
    checked = out.length;
    const c = text[at] as string;
    if (c !== '{' && c !== '}') {
      const next = /[{}]/g;
      next.lastIndex = at;
      const end = next.exec(text)?.index ?? text.length;
      out += text.slice(at, end);
      at = end;
    } else if (text[at + 1] === c) {
      out += c;
      at += 2;
    } else if (c === '}') {
      throw new Fault("Single '}' encountered in format string");
    } else {
      const end = fieldEnd(text, at);
      out += field(text.slice(at + 1, end), args, budget, finish, counter, depth);
      at = end + 1;
    }
  }
  return out;
}

function fieldEnd(text: string, start: number): number {
  let depth = 0;
  for (let i = start; i < text.length; i++) {
    if (text[i] === '{') depth++;
    else if (text[i] === '}' && --depth === 0) return i;
  }
  throw new Fault("expected '}' before end of string");
}

function field(
  text: string,
  args: Args,
  budget: Budget,
  finish: (value: Value, formatted: string) => string,
  counter: Counter,
  depth: number,
): string {
  const match = /^((?:[^![\]:{}]|\[[^\]]*\])*)(?:!(.))?(?::(.*))?$/su.exec(text);
  if (!match) throw new Fault(`expected a field as name!conversion:format, got ${JSON.stringify(text)}`);
  const [, name = '', conversion, spec = ''] = match;
  const found = lookUp(name, args, budget, counter);
  const value = converted(found, conversion, budget);
  const inner =
    spec.includes('{') || spec.includes('}') ? fields(spec, args, budget, finish, counter, depth - 1) : spec;
  return finish(value, formatValue(value, inner, budget));
}

function converted(value: Value, conversion: string | undefined, budget: Budget): Value {
  switch (conversion) {
    case undefined:
      return value;
    case 's':
      return str(value, budget);
    case 'r':
      return repr(value, budget);
    case 'a':
      return ascii(value, budget);
    default:
      throw new Fault(`Unknown conversion specifier ${conversion}`);
  }
}

function lookUp(name: string, args: Args, budget: Budget, counter: Counter): Value {
  const [, first = '', rest = ''] = /^([^.[]*)(.*)$/s.exec(name) ?? [];
  let value: Value | undefined;
  if (name === '' || /^\d+$/.test(first)) {
    if (rest === '') {
      const numbering = name === '' ? 'automatic' : 'manual';
      if (counter.numbering !== undefined && counter.numbering !== numbering) {
        throw new Fault('cannot switch between automatic field numbering and manual field specification');
      }
      counter.numbering = numbering;
    }
    value = args.positional[name === '' ? counter.next++ : Number(first)];
    if (value === undefined) throw new Fault('Replacement index out of range for positional args tuple');
  } else {
    value = args.named.get(first);
    if (value === undefined) throw new Fault(`KeyError: '${first}'`);
  }
  const step = /\.([^.[]+)|\[([^\]]+)\]/y;
  while (step.lastIndex < rest.length) {
    const match = step.exec(rest);
    if (!match) throw new Fault('Empty attribute in format string');
    const [, attribute, index = ''] = match;
    if (attribute !== undefined) value = attributeOf(value, attribute, budget);
    else value = itemOf(value, /^\d+$/.test(index) ? Number(index) : index, budget);
  }
  return value;
}

interface Spec {
  readonly fill: string;
  readonly align: string | undefined;
  readonly sign: string;
  readonly alternate: boolean;
  readonly width: number;
  readonly group: string | undefined;
  readonly precision: number | undefined;
  readonly type: string;
}

/** `format(value, spec)`. */
export function formatValue(value: Value, text: string, budget: Budget): string {
  if (text === '') return str(value, budget);
  const groups = SPEC.exec(text)?.groups;
  if (!groups) throw new Fault(`Invalid format specifier '${text}' for object of type '${typeName(value)}'`);
  const zero = groups.zero !== undefined;
  const content = textOf(value);
  const spec: Spec = {
    fill: groups.fill ?? (zero ? '0' : ' '),
    align: groups.align ?? (zero && content === undefined ? '=' : undefined),
    sign: groups.sign ?? '',
    alternate: groups.alternate !== undefined,
    width: Number(groups.width ?? 0),
    group: groups.group,
    precision: groups.precision === undefined ? undefined : Number(groups.precision),
    type: groups.type ?? '',
  };
  budget.text(spec.width + (spec.precision ?? 0));
  if (content !== undefined) return formatString(content, spec);
  if (value instanceof Float) return formatReal(value.value, spec, budget);
  if (isInt(value)) return formatInt(value, spec, budget);
  if (typeof value === 'boolean') return formatInt(Number(value), spec, budget);
  throw unfit(`unsupported format string passed to ${typeName(value)}.__format__`);
}

function formatString(text: string, spec: Spec): string {
  if (spec.type !== '' && spec.type !== 's')
    throw new Fault(`Unknown format code '${spec.type}' for object of type 'str'`);
  if (spec.sign !== '' || spec.alternate || spec.align === '=' || spec.group !== undefined) {
    throw new Fault('Sign, = alignment, # and grouping are not allowed in string format specifier');
  }
  const shown = spec.precision === undefined ? text : charSlice(text, 0, spec.precision);
  return aligned('', shown, spec, '<');
}

function formatInt(value: Int, spec: Spec, budget: Budget): string {
  if (spec.type !== '' && 'eEfFgG%'.includes(spec.type)) return formatReal(Number(value), spec, budget);
  if (spec.precision !== undefined) throw new Fault('Precision not allowed in integer format specifier');
  if (spec.type === 'c') {
    if (spec.sign !== '' || spec.alternate || spec.group !== undefined) {
      throw new Fault("Sign, # and grouping are not allowed with 'c'");
    }
    const code = Number(value);
    if (code < 0 || code > 0x10ffff) throw new Fault('%c arg not in range(0x110000)');
    return aligned('', String.fromCodePoint(code), spec, '>');
  }
  if (!['', 'b', 'd', 'n', 'o', 'x', 'X'].includes(spec.type)) {
    throw new Fault(`Unknown format code '${spec.type}' for object of type 'int'`);
  }
  if (spec.group === ',' && !['', 'd'].includes(spec.type)) throw new Fault(`Cannot specify ',' with '${spec.type}'.`);
  const { digits, prefix } = intDigits(value, spec.type);
  const head = signOf(value < 0, spec) + (spec.alternate ? prefix : '');
  return number(head, digits, '', spec, ['', 'd', 'n'].includes(spec.type) ? 3 : 4);
}

function formatReal(value: number, spec: Spec, budget: Budget): string {
  if (spec.type !== '' && !'eEfFgGn%'.includes(spec.type)) {
    throw new Fault(`Unknown format code '${spec.type}' for object of type 'float'`);
  }
  const type = spec.type === 'n' ? 'g' : spec.type.toLowerCase();
  const precision = type === '' ? spec.precision : (spec.precision ?? 6);
  const text = realText(value, { type, precision, alternate: spec.alternate }, budget);
  const shown = spec.type === type || spec.type === 'n' ? text : text.toUpperCase();
  const [, digits = '', rest = ''] = /^(\d*)(.*)$/s.exec(shown) ?? [];
  return number(signOf(value < 0 || Object.is(value, -0), spec), digits, rest, spec, 3);
}

function signOf(negative: boolean, spec: Spec): string {
  return negative ? '-' : spec.sign === '-' ? '' : spec.sign;
}

/** Groups the digits before the point, zeros that fill the width among them. */
function number(head: string, digits: string, rest: string, spec: Spec, size: number): string {
  if (spec.group === undefined || digits === '') return aligned(head, digits + rest, spec, '>');
  let filled = digits;
  if (spec.type === 'n') throw new Fault(`Cannot specify '${spec.group}' with 'n'.`);
  if (spec.align === '=' && spec.fill === '0') {
    // As many digits as reach the width with what separates them.
    const room = spec.width - head.length - rest.length;
    filled = digits.padStart(room - Math.floor((room - 1) / (size + 1)), '0');
  }
  const groups: string[] = [];
  for (let end = filled.length; end > 0; end -= size) groups.push(filled.slice(Math.max(0, end - size), end));
  return aligned(head, groups.reverse().join(spec.group) + rest, spec, '>');
}

function aligned(head: string, text: string, spec: Spec, otherwise: string): string {
  const gap = Math.max(0, spec.width - charCount(head + text));
  const fill = (count: number): string => spec.fill.repeat(count);
  switch (spec.align ?? otherwise) {
    case '<':
      return head + text + fill(gap);
    case '^':
      return fill(gap >> 1) + head + text + fill(gap - (gap >> 1));
    case '=':
      return head + fill(gap) + text;
    default:
      return fill(gap) + head + text;
  }
}
