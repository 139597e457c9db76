/** Formatting with `%`, as C and Python do it. */
import { charCount, charSlice } from './characters.ts';
import { keyOf } from './compare.ts';
import type { Budget } from './fault.ts';
import { Fault, MAX_TEXT, unfit } from './fault.ts';
import { intDigits, realText } from './numberFormat.ts';
import { ascii, repr, str } from './show.ts';
import type { Int, Value } from './values.ts';
import { Dict, Float, int, isInt, isList, Range, Tuple, textOf, typeName, Undefined } from './values.ts';

const SPEC = /%(?:\(([^()]*)\))?([-+ #0]*)(\*|\d+)?(?:\.(\*|\d*))?[hlL]?(.)?/gsu;

/** The values of a format, one after the other or by name. */
class Values {
  readonly #all: Value;
  readonly #items: readonly Value[];
  readonly #budget: Budget;
  #next = 0;

  constructor(all: Value, budget: Budget) {
    this.#all = all;
    this.#items = all instanceof Tuple ? all.items : [all];
    this.#budget = budget;
  }
  next(): Value {
    const value = this.#items[this.#next++];
    if (value === undefined) throw new Fault('not enough arguments for format string');
    return value;
  }
  named(name: string): Value {
    if (!(this.#all instanceof Dict)) throw new Fault('format requires a mapping');
    const value = this.#all.get(keyOf(name, this.#budget));
    if (value === undefined) throw new Fault(`KeyError: ${repr(name, this.#budget)}`);
    return value;
  }
  width(text: string | undefined): number | undefined {
    if (text !== '*') return text === undefined ? undefined : Number(text);
    const value = this.next();
    if (typeof value !== 'number') throw new Fault('* wants int');
    return value;
  }
  finish(): void {
    const all = this.#all;
    // What has items counts as a mapping, whose values need not all be used.
    const mapping = isList(all) || all instanceof Dict || all instanceof Range || all instanceof Undefined;
    if (this.#next < this.#items.length && !mapping)
      throw new Fault('not all arguments converted during string formatting');
  }
}

/** `format % values`. `guard` treats texts that are put in. */
export function percentFormat(
  format: string,
  values: Value,
  budget: Budget,
  guard: (text: string) => string = (text) => text,
): string {
  const source = new Values(values, budget);
  let length = format.length;
  budget.text(length);
  const text = format.replace(
    SPEC,
    (all, name?: string, flags = '', widthText?: string, digits?: string, type?: string) => {
      if (type === undefined) throw new Fault('incomplete format');
      if (all === '%%') return '%';
      const given = name === undefined ? undefined : source.named(name);
      const asked = source.width(widthText);
      const precision = source.width(digits === '' ? '0' : digits);
      const value = given === undefined ? source.next() : given;
      const piece = one(value, type, flags, precision, budget, guard);
      const left = flags.includes('-') || (asked ?? 0) < 0;
      const width = Math.abs(asked ?? 0);
      const added = Math.max(width, piece.text.length);
      length += added;
      budget.text(length > MAX_TEXT ? length : added);
      return padded(piece, width, left, flags.includes('0'));
    },
  );
  source.finish();
  return text;
}

interface Piece {
  /** Sign and prefix, which zeros follow. */
  readonly head: string;
  readonly text: string;
  readonly numeric: boolean;
}

function padded({ head, text, numeric }: Piece, width: number, left: boolean, zeros: boolean): string {
  const gap = Math.max(0, width - charCount(head + text));
  if (left) return head + text + ' '.repeat(gap);
  return zeros && numeric ? head + '0'.repeat(gap) + text : ' '.repeat(gap) + head + text;
}

function one(
  value: Value,
  type: string,
  flags: string,
  precision: number | undefined,
  budget: Budget,
  guard: (text: string) => string,
): Piece {
  switch (type) {
    case 's':
    case 'r':
    case 'a': {
      const show = { s: str, r: repr, a: ascii }[type];
      const text = guard(show(value, budget));
      return { head: '', text: precision === undefined ? text : charSlice(text, 0, precision), numeric: false };
    }
    case 'c':
      return { head: '', text: character(value), numeric: false };
    case 'd':
    case 'i':
    case 'u':
    case 'o':
    case 'x':
    case 'X': {
      const number = integer(value, type);
      const { digits, prefix } = intDigits(number, type);
      budget.text(precision ?? 0);
      const head = sign(number < 0, flags) + (flags.includes('#') ? prefix : '');
      return { head, text: digits.padStart(precision ?? 0, '0'), numeric: true };
    }
  }
  if (!'eEfFgG'.includes(type)) throw new Fault(`unsupported format character '${type}'`);
  const number = real(value);
  const negative = number < 0 || Object.is(number, -0);
  const text = realText(
    number,
    { type: type.toLowerCase(), precision: precision ?? 6, alternate: flags.includes('#') },
    budget,
  );
  return { head: sign(negative, flags), text: type === type.toLowerCase() ? text : text.toUpperCase(), numeric: true };
}

function sign(negative: boolean, flags: string): string {
  return negative ? '-' : flags.includes('+') ? '+' : flags.includes(' ') ? ' ' : '';
}

function character(value: Value): string {
  const text = textOf(value);
  if (text !== undefined && charCount(text) === 1) return text;
  if (typeof value !== 'number' && typeof value !== 'boolean') throw new Fault('%c requires int or char');
  const code = Number(value);
  if (code < 0 || code > 0x10ffff) throw new Fault('%c arg not in range(0x110000)');
  return String.fromCodePoint(code);
}

function integer(value: Value, type: string): Int {
  if (typeof value === 'boolean') return Number(value);
  if (isInt(value)) return value;
  if (!(value instanceof Float) || !'diu'.includes(type)) {
    throw unfit(`%${type} format: a real number is required, not ${typeName(value)}`);
  }
  if (!Number.isFinite(value.value)) throw unfit('cannot convert float infinity or NaN to integer');
  return int(BigInt(Math.trunc(value.value)));
}

function real(value: Value): number {
  if (value instanceof Float) return value.value;
  if (isInt(value) || typeof value === 'boolean') return Number(value);
  throw unfit(`must be real number, not ${typeName(value)}`);
}
