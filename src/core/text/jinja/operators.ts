/** Arithmetic of values. */
import { escapeHtml } from './characters.ts';
import { refuseUndefined } from './compare.ts';
import type { Budget } from './fault.ts';
import { Fault, unfit } from './fault.ts';
import { percentFormat } from './percent.ts';
import { str } from './show.ts';
import type { Int, List, Value } from './values.ts';
import { Float, int, isInt, isList, Markup, Tuple, textOf, typeName } from './values.ts';

export type BinaryOperator = '+' | '-' | '*' | '/' | '//' | '%' | '**';

/** Integers of more bits take too long. */
const MAX_INT_BITS = 2 ** 16;
/** Integers of more bits may lie beyond what a fraction holds. */
const MAX_FLOAT_BITS = 1000;

/** A number as arithmetic sees it: booleans are integers. */
function numberOf(value: Value): Int | Float | undefined {
  if (typeof value === 'boolean') return Number(value);
  return isInt(value) || value instanceof Float ? value : undefined;
}

export function binary(operator: BinaryOperator, a: Value, b: Value, budget: Budget): Value {
  const [x, y] = [numberOf(a), numberOf(b)];
  if (x !== undefined && y !== undefined) {
    return isInt(x) && isInt(y) ? integers(operator, x, y) : fractions(operator, toFloat(x), toFloat(y));
  }
  const text = textOf(a);
  if (operator === '%' && text !== undefined) {
    const formatted = percentFormat(text, b, budget, a instanceof Markup ? escapeHtml : undefined);
    return a instanceof Markup ? new Markup(formatted) : formatted;
  }
  const result = operator === '+' ? added(a, b, budget) : operator === '*' ? repeated(a, b, budget) : undefined;
  if (result !== undefined) return result;
  refuseUndefined(a);
  refuseUndefined(b);
  throw unfit(`unsupported operand type(s) for ${operator}: '${typeName(a)}' and '${typeName(b)}'`);
}

/** `+` of texts, lists and tuples. */
function added(a: Value, b: Value, budget: Budget): Value | undefined {
  const [x, y] = [textOf(a), textOf(b)];
  if (x !== undefined && y !== undefined) {
    const safe = a instanceof Markup || b instanceof Markup;
    const [left, right] = safe ? [escaped(a, budget), escaped(b, budget)] : [x, y];
    budget.text(left.length + right.length);
    return safe ? new Markup(left + right) : left + right;
  }
  if (isList(a) && isList(b)) return concat(a, b, budget);
  if (a instanceof Tuple && b instanceof Tuple) return new Tuple(concat(a.items, b.items, budget));
  return undefined;
}

function concat(a: List, b: List, budget: Budget): List {
  budget.items(a.length + b.length);
  return [...a, ...b];
}

/** Text for HTML; what is already safe stays. */
export function escaped(value: Value, budget: Budget): string {
  if (value instanceof Markup) return value.text;
  const text = escapeHtml(str(value, budget));
  budget.text(text.length);
  return text;
}

/** `*` of a sequence and an integer. */
function repeated(a: Value, b: Value, budget: Budget): Value | undefined {
  const count = numberOf(b);
  if (count === undefined) return numberOf(a) === undefined ? undefined : repeated(b, a, budget);
  if (!isInt(count)) return undefined;
  if (typeof count === 'bigint') throw new Fault("cannot fit 'int' into an index-sized integer");
  const times = Math.max(0, count);
  const text = textOf(a);
  if (text !== undefined) {
    budget.text(text.length * times);
    const all = text === '' ? '' : text.repeat(times);
    return a instanceof Markup ? new Markup(all) : all;
  }
  if (isList(a)) return repeatedItems(a, times, budget);
  return a instanceof Tuple ? new Tuple(repeatedItems(a.items, times, budget)) : undefined;
}

function repeatedItems(items: List, times: number, budget: Budget): List {
  budget.items(items.length * times);
  const all: Value[] = [];
  if (items.length > 0) for (let i = 0; i < times; i++) for (const item of items) all.push(item);
  return all;
}

function toFloat(value: Int | Float): number {
  if (value instanceof Float) return value.value;
  const number = Number(value);
  if (!Number.isFinite(number)) throw new Fault('int too large to convert to float');
  return number;
}

function integers(operator: BinaryOperator, a: Int, b: Int): Value {
  if (operator === '/') {
    if (!b) throw new Fault('division by zero');
    if (typeof a === 'number' && typeof b === 'number') return new Float(a / b);
    return new Float(a === 0 ? 0 / Number(b) : bigQuotient(BigInt(a), BigInt(b)));
  }
  if (typeof a === 'number' && typeof b === 'number') {
    const result = smallIntegers(operator, a, b);
    if (result !== undefined && Number.isSafeInteger(result)) return result;
  }
  return bigIntegers(operator, BigInt(a), BigInt(b));
}

/** The fraction closest to `a / b`: more bits than it holds, the last one saying whether more follow. */
function bigQuotient(a: bigint, b: bigint): number {
  const shift = Math.max(0, bits(b) - bits(a) + 72);
  const [top, bottom] = [(a < 0n ? -a : a) << BigInt(shift), b < 0n ? -b : b];
  const digits = top / bottom;
  const size = toFloat(int(top % bottom === 0n ? digits : digits | 1n)) * 2 ** -shift;
  return a < 0n !== b < 0n ? -size : size;
}

/** The result as a number, if there is a quick way to it; integers have no `-0`. */
function smallIntegers(operator: BinaryOperator, a: number, b: number): number | undefined {
  switch (operator) {
    case '+':
      return a + b;
    case '-':
      return a - b;
    case '*':
      return a * b || 0;
    case '**':
      return undefined;
  }
  if (b === 0) throw new Fault('integer division or modulo by zero');
  const rest = a % b || 0;
  const modulo = rest !== 0 && rest < 0 !== b < 0 ? rest + b : rest;
  if (operator === '%') return modulo;
  return Number.isSafeInteger(a - modulo) ? (a - modulo) / b || 0 : undefined;
}

function bigIntegers(operator: BinaryOperator, a: bigint, b: bigint): Value {
  switch (operator) {
    case '+':
      return int(a + b);
    case '-':
      return int(a - b);
    case '*':
      checkBits(bits(a) + bits(b));
      return int(a * b);
    case '**':
      return bigPower(a, b);
  }
  if (b === 0n) throw new Fault('integer division or modulo by zero');
  const rest = a % b;
  const down = rest !== 0n && rest < 0n !== b < 0n;
  if (operator === '%') return int(down ? rest + b : rest);
  return int(down ? a / b - 1n : a / b);
}

function bigPower(a: bigint, b: bigint): Value {
  if (b < 0n && bits(a) * -Number(b) > MAX_FLOAT_BITS) return fractions('**', toFloat(int(a)), toFloat(int(b)));
  if (b < 0n) return fractions('/', 1, Number(a ** -b));
  if (b === 0n) return 1;
  if (a === 0n || a === 1n) return int(a);
  if (a === -1n) return b % 2n === 0n ? 1 : -1;
  checkBits(bits(a) * Number(b));
  return int(a ** b);
}

function bits(value: bigint): number {
  return (value < 0n ? -value : value).toString(16).length * 4;
}

function checkBits(count: number): void {
  if (count > MAX_INT_BITS) throw new Fault(`expected integers of at most ${MAX_INT_BITS} bits, got ${count}`);
}

function fractions(operator: BinaryOperator, a: number, b: number): Value {
  switch (operator) {
    case '+':
      return new Float(a + b);
    case '-':
      return new Float(a - b);
    case '*':
      return new Float(a * b);
    case '**':
      return new Float(power(a, b));
  }
  if (b === 0) throw new Fault('float division by zero');
  if (operator === '/') return new Float(a / b);
  let rest = a % b;
  let quotient = (a - rest) / b;
  if (rest !== 0 && rest < 0 !== b < 0) {
    rest += b;
    quotient--;
  }
  if (operator === '%') return new Float(rest === 0 ? 0 * Math.sign(b) : rest);
  if (quotient === 0) return new Float(0 * (a / b));
  const floor = Math.floor(quotient);
  return new Float(quotient - floor > 0.5 ? floor + 1 : floor);
}

function power(a: number, b: number): number {
  if (a === 0 && b < 0) throw new Fault('0.0 cannot be raised to a negative power');
  if (a < 0 && Number.isFinite(a) && Number.isFinite(b) && !Number.isInteger(b)) {
    throw new Fault('expected a real result of **, got a complex one');
  }
  if (a === 1 || (a === -1 && !Number.isFinite(b) && !Number.isNaN(b))) return 1;
  const result = a ** b;
  if (!Number.isFinite(result) && Number.isFinite(a) && Number.isFinite(b)) {
    throw new Fault('numerical result out of range');
  }
  return result;
}

/** `-value` and `+value`. */
export function signed(operator: '-' | '+', value: Value): Value {
  const number = numberOf(value);
  if (number === undefined) {
    refuseUndefined(value);
    throw unfit(`bad operand type for unary ${operator}: '${typeName(value)}'`);
  }
  if (operator === '+') return number;
  if (number instanceof Float) return new Float(-number.value);
  return typeof number === 'bigint' ? int(-number) : 0 - number;
}
