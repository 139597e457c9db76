/** JSON as Python writes and reads it: with space after commas, and with integers and fractions told apart. */
import { order } from './compare.ts';
import { floatText } from './decimals.ts';
import type { Budget } from './fault.ts';
import { MAX_TEXT, unfit } from './fault.ts';
import { intText } from './show.ts';
import type { List, Value } from './values.ts';
import { Dict, Float, int, isList, Tuple, textOf, typeName } from './values.ts';

/** Containers within containers. */
const MAX_DEPTH = 256;
const MAX_INDENT = 256;

export interface JsonFormat {
  readonly ascii: boolean;
  /** What every level is indented by; without it all stands on one line. */
  readonly indent: string | undefined;
  readonly itemSeparator: string;
  readonly keySeparator: string;
  readonly sortKeys: boolean;
}

/** `json.dumps`. */
export function writeJson(value: Value, format: JsonFormat, budget: Budget): string {
  if ((format.indent?.length ?? 0) > MAX_INDENT) throw unfit(`expected an indent of at most ${MAX_INDENT}`);
  const writer = new Writer(format, budget);
  writer.value(value, 1);
  return writer.text();
}

class Writer {
  readonly #format: JsonFormat;
  readonly #budget: Budget;
  readonly #parts: string[] = [];
  #length = 0;

  constructor(format: JsonFormat, budget: Budget) {
    this.#format = format;
    this.#budget = budget;
  }

  text(): string {
    return this.#parts.join('');
  }

  value(value: Value, depth: number): void {
    this.#budget.step();
    const plain = scalar(value, this.#format);
    const items: List | undefined = isList(value) ? value : value instanceof Tuple ? value.items : undefined;
    if (plain !== undefined) this.#put(plain);
    else if (items) this.#block('[]', items, depth, (item) => this.value(item, depth + 1));
    else if (value instanceof Dict) this.#dict(value, depth);
    else throw unfit(`Object of type ${typeName(value)} is not JSON serializable`);
  }

  #dict(dict: Dict, depth: number): void {
    const entries = [...dict.items()];
    if (this.#format.sortKeys) entries.sort(([a], [b]) => order(a, b, '<', this.#budget));
    this.#block('{}', entries, depth, ([key, item]) => {
      this.#put(keyText(key, this.#format) + this.#format.keySeparator);
      this.value(item, depth + 1);
    });
  }

  #block<T>(brackets: string, items: readonly T[], depth: number, write: (item: T) => void): void {
    if (depth > MAX_DEPTH) throw unfit(`expected values nested at most ${MAX_DEPTH} deep`);
    this.#put(items.length === 0 ? brackets : brackets.slice(0, 1));
    items.forEach((item, i) => {
      this.#put((i > 0 ? this.#format.itemSeparator : '') + this.#lineBreak(depth));
      write(item);
    });
    if (items.length > 0) this.#put(this.#lineBreak(depth - 1) + brackets.slice(1));
  }

  #lineBreak(depth: number): string {
    const { indent } = this.#format;
    return indent === undefined ? '' : `\n${indent.repeat(depth)}`;
  }

  #put(text: string): void {
    this.#length += text.length;
    this.#budget.text(this.#length > MAX_TEXT ? this.#length : text.length);
    this.#parts.push(text);
  }
}

function scalar(value: Value, format: JsonFormat): string | undefined {
  const text = textOf(value);
  if (text !== undefined) return quoted(text, format.ascii);
  if (value === null) return 'null';
  if (typeof value === 'boolean') return String(value);
  if (typeof value === 'number' || typeof value === 'bigint') return intText(value);
  return value instanceof Float ? jsonFloat(value.value) : undefined;
}

function jsonFloat(value: number): string {
  if (Number.isNaN(value)) return 'NaN';
  return Number.isFinite(value) ? floatText(value) : value > 0 ? 'Infinity' : '-Infinity';
}

function keyText(key: Value, format: JsonFormat): string {
  const text = textOf(key);
  if (text !== undefined) return quoted(text, format.ascii);
  const plain = scalar(key, format);
  if (plain === undefined) throw unfit(`keys must be str, int, float, bool or None, not ${typeName(key)}`);
  return `"${plain}"`;
}

function quoted(text: string, ascii: boolean): string {
  const json = JSON.stringify(text);
  if (!ascii) return json;
  return json.replace(/[^ -~]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

const NUMBER = /-?(?:0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?/y;
const STRING = /"(?:[^"\\]|\\.)*"/y;
const WORD = /true|false|null/y;
const SPACE = /[ \t\n\r]*/y;

/** The value of a JSON text, or `undefined` for a text that is none. */
export function readJson(text: string): Value | undefined {
  try {
    JSON.parse(text);
  } catch {
    return undefined;
  }
  return new Reader(text).value(0);
}

/** Reads text that is known to be JSON. */
class Reader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  value(depth: number): Value {
    if (depth > MAX_DEPTH) throw unfit(`expected values nested at most ${MAX_DEPTH} deep`);
    this.#take(SPACE);
    switch (this.#text[this.#at]) {
      case '"':
        return this.#string();
      case '[':
        return this.#list(depth);
      case '{':
        return this.#dict(depth);
    }
    const word = this.#take(WORD)?.[0];
    if (word !== undefined) return word === 'null' ? null : word === 'true';
    const [digits = '0', fraction, exponent] = this.#take(NUMBER) ?? [];
    return fraction === undefined && exponent === undefined ? int(BigInt(digits)) : new Float(Number(digits));
  }

  #take(pattern: RegExp): RegExpExecArray | undefined {
    pattern.lastIndex = this.#at;
    const match = pattern.exec(this.#text);
    this.#at += match?.[0].length ?? 0;
    return match ?? undefined;
  }

  #string(): string {
    return JSON.parse(this.#take(STRING)?.[0] ?? '""') as string;
  }

  /** Steps over a mark; says whether it was there. */
  #skip(mark: string): boolean {
    this.#take(SPACE);
    const there = this.#text[this.#at] === mark;
    if (there) this.#at++;
    return there;
  }

  #list(depth: number): Value {
    const items: Value[] = [];
    this.#skip('[');
    if (this.#skip(']')) return items;
    do items.push(this.value(depth + 1));
    while (this.#skip(','));
    this.#skip(']');
    return items;
  }

  #dict(depth: number): Value {
    const dict = new Dict();
    this.#skip('{');
    if (this.#skip('}')) return dict;
    do {
      this.#take(SPACE);
      const key = this.#string();
      this.#skip(':');
      dict.setText(key, this.value(depth + 1));
    } while (this.#skip(','));
    this.#skip('}');
    return dict;
  }
}
