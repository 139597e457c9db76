/** Methods of text, as `str` has them. */
import { bind, type Param } from './bind.ts';
import type { CharacterClass, Side } from './characters.ts';
import {
  capitalize,
  caseFold,
  charCount,
  charSlice,
  charsBefore,
  escapeHtml,
  isAll,
  isLower,
  isPrintable,
  isTitle,
  isUpper,
  SPACE,
  splitLines,
  strip,
  swapCase,
  titleCase,
} from './characters.ts';
import { keyOf, truth } from './compare.ts';
import type { Budget } from './fault.ts';
import { Fault, unfit } from './fault.ts';
import { formatText } from './format.ts';
import { escaped } from './operators.ts';
import { joinTexts, listOf, smallInt, textArg } from './sequence.ts';
import type { Args, Value } from './values.ts';
import { Dict, Markup, native, Tuple, textOf, typeName } from './values.ts';

/** `wrap` gives results the kind of the text itself: safe text stays safe. */
interface Self {
  readonly text: string;
  readonly safe: boolean;
  readonly budget: Budget;
  wrap(text: string): Value;
}

type Method = (self: Self, args: Args) => Value;

function method(
  name: string,
  params: readonly Param[],
  body: (self: Self, values: Value[]) => Value,
): [string, Method] {
  return [name, (self, args) => body(self, bind(name, args, params))];
}

/** Text to text. What goes through it character by character takes its time. */
function mapping(name: string, map: (text: string) => string, byCharacter = false): [string, Method] {
  return method(name, [], (self) => {
    self.budget.text(self.text.length * 3);
    if (byCharacter) self.budget.step(self.text.length);
    return self.wrap(map(self.text));
  });
}

function asking(name: string, test: (text: string) => boolean): [string, Method] {
  return method(name, [], ({ text, budget }) => {
    budget.step(text.length);
    return test(text);
  });
}

function ofClass(name: CharacterClass): [string, Method] {
  return asking(`is${name}`, (text) => isAll(name, text));
}

function stripping(name: string, side: Side): [string, Method] {
  return method(name, [['(chars)', null]], (self, [chars = null]) => {
    self.budget.text(self.text.length);
    return self.wrap(strip(self.text, side, chars === null ? undefined : textArg(chars)));
  });
}

/** A part of the text by code points, as `find`, `count` and `startswith` limit themselves to. */
function window(
  text: string,
  start: Value,
  stop: Value,
): { readonly part: string; readonly before: number } | undefined {
  if (start === null && stop === null) return { part: text, before: 0 };
  const count = charCount(text);
  const place = (at: Value, otherwise: number): number => {
    if (at === null) return otherwise;
    const index = smallInt(at);
    return Math.max(0, index < 0 ? index + count : index);
  };
  const from = place(start, 0);
  const to = Math.min(place(stop, count), count);
  return from > to ? undefined : { part: charSlice(text, from, to), before: from };
}

const WINDOW: readonly Param[] = ['(sub)', ['(start)', null], ['(end)', null]];

function finding(name: string, last: boolean, missing: (() => never) | undefined): [string, Method] {
  return method(name, WINDOW, ({ text, budget }, [sub = null, start = null, stop = null]) => {
    const wanted = textArg(sub);
    budget.text(text.length);
    const within = window(text, start, stop);
    const at = within ? (last ? within.part.lastIndexOf(wanted) : within.part.indexOf(wanted)) : -1;
    if (at < 0 || !within) return missing ? missing() : -1;
    return within.before + charsBefore(within.part, at);
  });
}

function notFound(): never {
  throw new Fault('substring not found');
}

function edge(name: 'startswith' | 'endswith'): [string, Method] {
  return method(name, WINDOW, ({ text, budget }, [sub = null, start = null, stop = null]) => {
    budget.text(text.length);
    const within = window(text, start, stop);
    const options = sub instanceof Tuple ? sub.items : [sub];
    return options.some((option) => {
      const wanted = textOf(option);
      if (wanted === undefined) {
        throw unfit(`${name} first arg must be str or a tuple of str, not ${typeName(option)}`);
      }
      return within?.part[name === 'startswith' ? 'startsWith' : 'endsWith'](wanted) ?? false;
    });
  });
}

function counted({ text, budget }: Self, [sub = null, start = null, stop = null]: Value[]): Value {
  const wanted = textArg(sub);
  budget.text(text.length);
  const within = window(text, start, stop);
  if (!within) return 0;
  if (wanted === '') return charCount(within.part) + 1;
  let count = 0;
  for (let at = within.part.indexOf(wanted); at >= 0; at = within.part.indexOf(wanted, at + wanted.length)) count++;
  budget.step(count);
  return count;
}

/** Splits at space or at a separator, from the left or the right, at most `limit` times. */
export function splitText(text: string, separator: string | null, limit: number, last: boolean): string[] {
  if (separator === '') throw new Fault('empty separator');
  if (separator === null) return last ? wordsRight(text, limit) : wordsLeft(text, limit);
  const pieces = text.split(separator);
  if (limit < 0 || pieces.length <= limit + 1) return pieces;
  return last
    ? [pieces.slice(0, pieces.length - limit).join(separator), ...pieces.slice(pieces.length - limit)]
    : [...pieces.slice(0, limit), pieces.slice(limit).join(separator)];
}

function wordsLeft(text: string, limit: number): string[] {
  const words: string[] = [];
  const word = new RegExp(`[^${SPACE}]+`, 'g');
  for (let match = word.exec(text); match; match = word.exec(text)) {
    if (words.length === limit) {
      words.push(text.slice(match.index));
      break;
    }
    words.push(match[0]);
  }
  return limit === 0 && words.length > 0 ? [strip(text, 'left')] : words;
}

function wordsRight(text: string, limit: number): string[] {
  const all = [...text.matchAll(new RegExp(`[^${SPACE}]+`, 'g'))];
  if (limit < 0 || all.length <= limit) return all.map(([word]) => word);
  const kept = all.slice(all.length - limit);
  const head = strip(text.slice(0, kept[0]?.index ?? text.length), 'right');
  return [head, ...kept.map(([word]) => word)];
}

function splitting(name: string, last: boolean): [string, Method] {
  return method(
    name,
    [
      ['sep', null],
      ['maxsplit', -1],
    ],
    (self, [separator = null, limit = -1]) => {
      self.budget.text(self.text.length);
      const pieces = splitText(self.text, separator === null ? null : textArg(separator), smallInt(limit), last);
      self.budget.items(pieces.length);
      return pieces.map((piece) => self.wrap(piece));
    },
  );
}

function partitioning(name: string, last: boolean): [string, Method] {
  return method(name, ['(sep)'], (self, [sep = null]) => {
    const separator = textArg(sep);
    if (separator === '') throw new Fault('empty separator');
    const at = last ? self.text.lastIndexOf(separator) : self.text.indexOf(separator);
    self.budget.text(self.text.length);
    const parts =
      at >= 0
        ? [self.text.slice(0, at), separator, self.text.slice(at + separator.length)]
        : last
          ? ['', '', self.text]
          : [self.text, '', ''];
    return new Tuple(parts.map((part) => self.wrap(part)));
  });
}

function filling(name: string, before: (gap: number, width: number) => number): [string, Method] {
  return method(name, ['(width)', ['(fillchar)', ' ']], (self, [width = 0, fill = ' ']) => {
    const char = textArg(fill);
    if (charCount(char) !== 1) throw unfit('The fill character must be exactly one character long');
    const columns = smallInt(width);
    const gap = Math.max(0, columns - charCount(self.text));
    self.budget.text(self.text.length + gap * 6);
    const left = before(gap, columns);
    const padding = self.safe ? escapeHtml(char) : char;
    return self.wrap(padding.repeat(left) + self.text + padding.repeat(gap - left));
  });
}

/** `replace`, at most `limit` times. */
export function replaceText(text: string, old: string, by: string, limit: number, budget: Budget): string {
  budget.text(text.length);
  if (limit === 0) return text;
  const pieces = old === '' ? ['', ...text, ''] : text.split(old);
  const last = limit < 0 ? pieces.length - 1 : Math.min(limit, pieces.length - 1);
  budget.text(text.length + last * Math.max(0, by.length - old.length));
  if (last === pieces.length - 1) return pieces.join(by);
  return [pieces.slice(0, last + 1).join(by), pieces.slice(last + 1).join(old)].join(old);
}

function joined(self: Self, [items = null]: Value[]): Value {
  const parts = listOf(items, self.budget).map((item, i) => {
    if (self.safe) return escaped(item, self.budget);
    const text = textOf(item);
    if (text === undefined) throw unfit(`sequence item ${i}: expected str instance, ${typeName(item)} found`);
    return text;
  });
  return self.wrap(joinTexts(parts, self.text, self.budget));
}

function expandTabs(text: string, size: number): string {
  let column = 0;
  let out = '';
  for (const c of text) {
    const wide = c === '\t' ? (size > 0 ? size - (column % size) : 0) : 1;
    out += c === '\t' ? ' '.repeat(wide) : c;
    column = c === '\n' || c === '\r' ? 0 : column + wide;
  }
  return out;
}

function zeroFilled(self: Self, [width = 0]: Value[]): Value {
  const [, sign = '', digits = ''] = /^([+-]?)(.*)$/s.exec(self.text) ?? [];
  const gap = Math.max(0, smallInt(width) - charCount(self.text));
  self.budget.text(self.text.length + gap);
  return self.wrap(sign + '0'.repeat(gap) + digits);
}

/** A table for `translate`: code points to code points, texts or nothing. */
function translationTable(budget: Budget, [from = null, to = null, gone = null]: Value[]): Value {
  const table = new Dict();
  const put = (char: Value, value: Value): void => {
    const code = typeof char === 'number' ? char : (textArg(char).codePointAt(0) ?? 0);
    table.set(code, code, value);
  };
  if (from instanceof Dict && to === null) {
    for (const [key, value] of from.items()) put(key, value);
    return table;
  }
  const [source, target] = [[...textArg(from)], [...textArg(to)]];
  if (source.length !== target.length) {
    throw new Fault('the first two maketrans arguments must have equal length');
  }
  budget.items(source.length);
  for (const [i, char] of source.entries()) put(char, target[i]?.codePointAt(0) ?? 0);
  if (gone !== null) for (const char of textArg(gone)) put(char, null);
  return table;
}

function translated(self: Self, [table = null]: Value[]): Value {
  if (!(table instanceof Dict)) throw unfit(`expected a table of maketrans, got ${typeName(table)}`);
  const parts = Array.from(self.text, (char) => {
    const found = table.get(keyOf(char.codePointAt(0) ?? 0, self.budget));
    if (found === undefined) return char;
    return found === null ? '' : typeof found === 'number' ? String.fromCodePoint(found) : textArg(found);
  });
  return self.wrap(joinTexts(parts, '', self.budget));
}

/** What `format` puts in: safe texts escape it. */
function insert(self: Self): ((value: Value, text: string) => string) | undefined {
  return self.safe ? (value, text) => (value instanceof Markup ? text : escapeHtml(text)) : undefined;
}

function formatMap(self: Self, [values = null]: Value[]): Value {
  if (!(values instanceof Dict)) throw unfit(`expected a mapping, got ${typeName(values)}`);
  const named = new Map<string, Value>();
  for (const [key, value] of values.items()) if (typeof key === 'string') named.set(key, value);
  return self.wrap(formatText(self.text, { positional: [], named }, self.budget, insert(self)));
}

const METHODS: ReadonlyMap<string, Method> = new Map<string, Method>([
  mapping('upper', (text) => text.toUpperCase()),
  mapping('lower', (text) => text.toLowerCase()),
  mapping('title', titleCase, true),
  mapping('capitalize', capitalize),
  mapping('swapcase', swapCase, true),
  mapping('casefold', caseFold, true),
  ofClass('alpha'),
  ofClass('alnum'),
  ofClass('decimal'),
  ofClass('digit'),
  ofClass('numeric'),
  ofClass('space'),
  ofClass('identifier'),
  asking('islower', isLower),
  asking('isupper', isUpper),
  asking('istitle', isTitle),
  asking('isascii', (text) => /^[\0-\x7f]*$/.test(text)),
  asking('isprintable', (text) => [...text].every(isPrintable)),
  stripping('strip', 'both'),
  stripping('lstrip', 'left'),
  stripping('rstrip', 'right'),
  finding('find', false, undefined),
  finding('rfind', true, undefined),
  finding('index', false, notFound),
  finding('rindex', true, notFound),
  method('count', WINDOW, counted),
  edge('startswith'),
  edge('endswith'),
  splitting('split', false),
  splitting('rsplit', true),
  partitioning('partition', false),
  partitioning('rpartition', true),
  filling('ljust', () => 0),
  filling('rjust', (gap) => gap),
  filling('center', (gap, width) => (gap >> 1) + (gap & width & 1)),
  method('zfill', ['(width)'], zeroFilled),
  method('join', ['(iterable)'], joined),
  method('splitlines', [['keepends', false]], (self, [keep = false]) => {
    self.budget.text(self.text.length);
    return splitLines(self.text, truth(keep)).map((line) => self.wrap(line));
  }),
  method('replace', ['(old)', '(new)', ['(count)', -1]], (self, [old = null, by = null, limit = -1]) => {
    const text = self.safe ? escaped(by, self.budget) : textArg(by);
    return self.wrap(replaceText(self.text, textArg(old), text, smallInt(limit), self.budget));
  }),
  method('removeprefix', ['(prefix)'], (self, [prefix = null]) => {
    const start = textArg(prefix);
    return self.wrap(self.text.startsWith(start) ? self.text.slice(start.length) : self.text);
  }),
  method('removesuffix', ['(suffix)'], (self, [suffix = null]) => {
    const end = textArg(suffix);
    return self.wrap(self.text.endsWith(end) ? self.text.slice(0, self.text.length - end.length) : self.text);
  }),
  method('expandtabs', [['tabsize', 8]], (self, [size = 8]) => {
    const tabs = self.text.split('\t').length - 1;
    self.budget.text(self.text.length + tabs * Math.max(0, smallInt(size)));
    self.budget.step(self.text.length);
    return self.wrap(expandTabs(self.text, smallInt(size)));
  }),
  method('maketrans', ['(x)', ['(y)', null], ['(z)', null]], ({ budget }, values) => translationTable(budget, values)),
  method('translate', ['(table)'], translated),
  method('format_map', ['(mapping)'], formatMap),
  ['format', (self, args) => self.wrap(formatText(self.text, args, self.budget, insert(self)))],
  method(
    'encode',
    [
      ['encoding', 'utf-8'],
      ['errors', 'strict'],
    ],
    () => {
      throw new Fault('encode: expected a template that needs no bytes; leave the text as it is');
    },
  ),
]);

/** A method of a text. */
export function textAttribute(value: Value, name: string, budget: Budget): Value | undefined {
  const found = METHODS.get(name);
  const text = textOf(value);
  if (!found || text === undefined) return undefined;
  const safe = value instanceof Markup;
  const self: Self = { text, safe, budget, wrap: (result) => (safe ? new Markup(result) : result) };
  return native(name, (args) => found(self, args));
}
