/** Filters that make text. */
import { bind, type Param } from './bind.ts';
import { capitalize, charCount, charSlice, escapeHtml, SPACE, splitLines, words } from './characters.ts';
import { truth } from './compare.ts';
import type { Budget } from './fault.ts';
import { Fault, unfit } from './fault.ts';
import { attributeGetter } from './getters.ts';
import { writeJson } from './json.ts';
import { realText } from './numberFormat.ts';
import { toNumber } from './numbers.ts';
import { binary, escaped } from './operators.ts';
import { pretty } from './pretty.ts';
import type { Filter, Runtime } from './runtime.ts';
import { each, isIterable, joinTexts, length, listOf, smallInt, textArg } from './sequence.ts';
import { str } from './show.ts';
import { replaceText, splitText, textAttribute } from './textMethods.ts';
import type { Value } from './values.ts';
import { Dict, isList, Markup, Tuple, textOf, Undefined } from './values.ts';
import { wrapText } from './wrap.ts';

type Body = (runtime: Runtime, value: Value, args: Value[]) => Value;

/** A filter with its parameters, the value itself aside. */
export function filter(name: string, params: readonly Param[], body: Body): [string, Filter] {
  return [name, (runtime, value, args) => body(runtime, value, bind(name, args, params))];
}

/** Text of any value; safe text stays safe. */
function soft(value: Value, budget: Budget): string | Markup {
  return value instanceof Markup ? value : str(value, budget);
}

/** A method of text, as a filter for any value. */
function byMethod(name: string, params: readonly Param[] = []): [string, Filter] {
  return filter(name, params, ({ budget }, value, positional) => {
    const method = textAttribute(soft(value, budget), name === 'trim' ? 'strip' : name, budget);
    if (typeof method !== 'object' || method === null || isList(method) || method.kind !== 'thing') throw unfit(name);
    return method.call?.({ positional, named: new Map() }) ?? null;
  });
}

/** Keeps the kind of a text that a filter changes. */
function like(original: Value, text: string): Value {
  return original instanceof Markup ? new Markup(text) : text;
}

const WORD_STARTS = new RegExp(`([-${SPACE}({\\[<]+)`);
const WORD = /[\p{L}\p{N}_]+/gu;

function titled(text: string): string {
  return text
    .split(WORD_STARTS)
    .map((part) => {
      const first = part === '' ? '' : String.fromCodePoint(part.codePointAt(0) as number);
      return first.toUpperCase() + part.slice(first.length).toLowerCase();
    })
    .join('');
}

function indented({ budget }: Runtime, value: Value, [width = 4, first = false, blank = false]: Value[]): Value {
  const indention = textOf(width) ?? str(binary('*', ' ', width, budget), budget);
  const lines = splitLines(`${textArg(value)}\n`);
  budget.text(textArg(value).length + lines.length * (indention.length + 1));
  const kept = lines.map((line, i) => (i > 0 && (line !== '' || truth(blank)) ? indention + line : line));
  return like(value, (truth(first) ? indention : '') + kept.join('\n'));
}

function truncated({ budget }: Runtime, value: Value, args: Value[]): Value {
  const [limit = 255, kill = false, ending = '...', leeway = null] = args;
  const end = textArg(ending);
  const [most, slack] = [smallInt(limit), leeway === null ? 5 : smallInt(leeway)];
  const kept = most - charCount(end);
  if (kept < 0) throw new Fault(`expected length >= ${charCount(end)}, got ${most}`);
  if (slack < 0) throw new Fault(`expected leeway >= 0, got ${slack}`);
  if (length(value, budget) <= most + slack) return value;
  const text = textArg(value);
  budget.text(text.length);
  const head = charSlice(text, 0, kept);
  return like(value, (truth(kill) ? head : (splitText(head, ' ', 1, true)[0] ?? '')) + end);
}

function wrapped({ budget }: Runtime, value: Value, args: Value[]): Value {
  const [width = 79, breakWords = true, separator = null, breakHyphens = true] = args;
  const between = separator === null ? '\n' : textArg(separator);
  const options = { width: smallInt(width), breakWords: truth(breakWords), breakHyphens: truth(breakHyphens) };
  const paragraphs = splitLines(textArg(value)).map((line) =>
    joinTexts(wrapText(line, options, budget), between, budget),
  );
  return joinTexts(paragraphs, between, budget);
}

const ENTITY = /&(?:#(\d{1,7})|#[xX]([\da-fA-F]{1,6})|(amp|lt|gt|quot|apos|nbsp));?/g;
const ENTITIES: Readonly<Record<string, string>> = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'", nbsp: '\u00a0' };

function unescapeHtml(text: string): string {
  return text.replace(ENTITY, (all, decimal?: string, hex?: string, name?: string) => {
    if (name !== undefined) return ENTITIES[name] ?? all;
    const code = decimal === undefined ? Number.parseInt(hex ?? '', 16) : Number(decimal);
    return code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : '\ufffd';
  });
}

function withoutTags(text: string): string {
  const parts: string[] = [];
  let at = 0;
  for (let start = text.indexOf('<'); start >= 0; start = text.indexOf('<', at)) {
    const mark = text.startsWith('<!--', start) ? '-->' : '>';
    const end = text.indexOf(mark, mark === '-->' ? start + 4 : start);
    if (end < 0) break;
    parts.push(text.slice(at, start));
    at = end + mark.length;
  }
  return unescapeHtml(words(parts.join('') + text.slice(at)).join(' '));
}

/** Percent-encoding of all but letters, digits, `_.-~` and the characters given. */
function urlQuoted(value: Value, safe: string, budget: Budget): string {
  const text = str(value, budget);
  budget.text(text.length * 3);
  const encoded = encodeURIComponent(text).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
  return safe === '' ? encoded.replaceAll('%20', '+') : encoded.replaceAll('%2F', safe);
}

function urlEncoded({ budget }: Runtime, value: Value): Value {
  if (textOf(value) !== undefined || !isIterable(value)) return urlQuoted(value, '/', budget);
  const pairs: Value[] =
    value instanceof Dict ? [...value.items()].map((pair) => new Tuple(pair)) : [...each(value, budget)];
  const parts = pairs.map((pair) => {
    const [key, item, ...more] = listOf(pair, budget);
    if (key === undefined || item === undefined || more.length > 0) throw unfit('urlencode: expected pairs');
    return `${urlQuoted(key, '', budget)}=${urlQuoted(item, '', budget)}`;
  });
  return joinTexts(parts, '&', budget);
}

function attributesOfXml({ budget, autoescape }: Runtime, value: Value, [space = true]: Value[]): Value {
  if (!(value instanceof Dict)) throw unfit('xmlattr: expected a mapping');
  const parts: string[] = [];
  for (const [key, item] of value.items()) {
    if (item === null || item instanceof Undefined) continue;
    const name = textArg(key);
    if (/[\s/>=]/.test(name)) throw new Fault(`Invalid character in attribute name: ${name}`);
    parts.push(`${escaped(key, budget)}="${escaped(item, budget)}"`);
  }
  const text = joinTexts(parts, ' ', budget);
  const spaced = truth(space) && text !== '' ? ` ${text}` : text;
  return autoescape ? new Markup(spaced) : spaced;
}

const UNITS = ['k', 'M', 'G', 'T', 'P', 'E', 'Z', 'Y'];

function fileSize(value: Value, binaryUnits: boolean, budget: Budget): string {
  const bytes = toNumber(value);
  if (bytes === undefined || !Number.isFinite(bytes)) throw unfit('filesizeformat: expected a finite number');
  if (bytes === 1) return '1 Byte';
  const base = binaryUnits ? 1024 : 1000;
  if (bytes < base) return `${Math.trunc(bytes)} Bytes`;
  const found = UNITS.findIndex((_, i) => bytes < base ** (i + 2));
  const at = found < 0 ? UNITS.length - 1 : found;
  const size = realText((base * bytes) / base ** (at + 2), { type: 'f', precision: 1, alternate: false }, budget);
  const unit = UNITS[at] as string;
  return `${size} ${binaryUnits ? `${unit.toUpperCase()}i` : unit}B`;
}

function replaced(
  { budget, autoescape }: Runtime,
  value: Value,
  [old = null, by = null, count = null]: Value[],
): Value {
  const limit = count === null ? -1 : smallInt(count);
  if (!autoescape) return replaceText(str(value, budget), str(old, budget), str(by, budget), limit, budget);
  const safe = value instanceof Markup || old instanceof Markup || by instanceof Markup;
  const text = safe ? escaped(value, budget) : str(value, budget);
  const result = replaceText(text, str(old, budget), safe ? escaped(by, budget) : str(by, budget), limit, budget);
  return safe ? new Markup(result) : result;
}

function joined({ budget, autoescape }: Runtime, value: Value, [separator = '', attribute = null]: Value[]): Value {
  const get = attribute === null ? undefined : attributeGetter(attribute, budget);
  const items = Array.from(each(value, budget), (item) => (get ? get(item) : item));
  const safe = autoescape && [separator, ...items].some((item) => item instanceof Markup);
  const show = safe ? escaped : str;
  const text = joinTexts(
    items.map((item) => show(item, budget)),
    show(separator, budget),
    budget,
  );
  return safe ? new Markup(text) : text;
}

/** Python's `json.dumps`, with all its characters kept and nothing escaped for HTML. */
function toJson({ budget }: Runtime, value: Value, args: Value[]): Value {
  const [ascii = false, indent = null, separators = null, sortKeys = false] = args;
  const step =
    indent === null ? undefined : (textOf(indent) ?? ' '.repeat(Math.min(Math.max(0, smallInt(indent)), 1024)));
  const [item = step === undefined ? ', ' : ',', key = ': '] = separators === null ? [] : listOf(separators, budget);
  const [itemSeparator, keySeparator] = [textArg(item), textArg(key)];
  const format = { ascii: truth(ascii), indent: step, itemSeparator, keySeparator, sortKeys: truth(sortKeys) };
  return writeJson(value, format, budget);
}

export const TEXT_FILTERS: readonly [string, Filter][] = [
  byMethod('upper'),
  byMethod('lower'),
  byMethod('trim', [['chars', null]]),
  byMethod('center', [['width', 80]]),
  filter('capitalize', [], ({ budget }, value) => like(value, capitalize(str(value, budget)))),
  filter('title', [], ({ budget }, value) => titled(str(value, budget))),
  filter('string', [], ({ budget }, value) => soft(value, budget)),
  filter('replace', ['old', 'new', ['count', null]], replaced),
  filter(
    'indent',
    [
      ['width', 4],
      ['first', false],
      ['blank', false],
    ],
    indented,
  ),
  filter(
    'truncate',
    [
      ['length', 255],
      ['killwords', false],
      ['end', '...'],
      ['leeway', null],
    ],
    truncated,
  ),
  filter(
    'wordwrap',
    [
      ['width', 79],
      ['break_long_words', true],
      ['wrapstring', null],
      ['break_on_hyphens', true],
    ],
    wrapped,
  ),
  filter('wordcount', [], ({ budget }, value) => str(value, budget).match(WORD)?.length ?? 0),
  filter('striptags', [], ({ budget }, value) => withoutTags(str(value, budget))),
  ...['e', 'escape'].map((name) => filter(name, [], ({ budget }, value) => new Markup(escaped(value, budget)))),
  filter('forceescape', [], ({ budget }, value) => new Markup(escapeHtml(str(value, budget)))),
  filter('safe', [], ({ budget }, value) => new Markup(str(value, budget))),
  filter(
    'join',
    [
      ['d', ''],
      ['attribute', null],
    ],
    joined,
  ),
  filter('urlencode', [], urlEncoded),
  filter('xmlattr', [['autospace', true]], attributesOfXml),
  filter('filesizeformat', [['binary', false]], ({ budget }, value, [units = false]) =>
    fileSize(value, truth(units), budget),
  ),
  filter('pprint', [], ({ budget }, value) => pretty(value, budget)),
  filter(
    'urlize',
    [
      ['trim_url_limit', null],
      ['nofollow', false],
      ['target', null],
      ['rel', null],
      ['extra_schemes', null],
    ],
    () => {
      throw new Fault('urlize: expected a template that makes no HTML links');
    },
  ),
  filter(
    'tojson',
    [
      ['ensure_ascii', false],
      ['indent', null],
      ['separators', null],
      ['sort_keys', false],
    ],
    toJson,
  ),
  [
    'format',
    ({ budget }, value, { positional, named }) => {
      if (positional.length > 0 && named.size > 0) {
        throw new Fault("can't handle positional and keyword arguments at the same time");
      }
      const values = new Dict();
      for (const [key, item] of named) values.setText(key, item);
      return binary('%', soft(value, budget), named.size > 0 ? values : new Tuple(positional), budget);
    },
  ],
];
