/** Truth, equality, order and membership of values. */
import { compareText } from './characters.ts';
import type { Budget } from './fault.ts';
import { Fault, unfit } from './fault.ts';
import { str } from './show.ts';
import type { Key, List, Value } from './values.ts';
import { Dict, Float, int, isList, Markup, Tuple, textOf, typeName, View } from './values.ts';

/** Begins the keys of tuples; no well-formed text holds it. */
const TUPLE_MARK = '\udc00';

export function truth(value: Value): boolean {
  if (value === null) return false;
  if (typeof value !== 'object') return Boolean(value);
  if (isList(value)) return value.length > 0;
  switch (value.kind) {
    case 'float':
      return value.value !== 0;
    case 'tuple':
      return value.items.length > 0;
    case 'dict':
      return value.size > 0;
    case 'markup':
      return value.text !== '';
    case 'range':
      return value.length > 0;
    case 'view':
      return value.dict.size > 0;
    case 'thing':
      return value.length === undefined || value.length() > 0;
    case 'undefined':
      return false;
    case 'iter':
    case 'namespace':
      return true;
    default:
      return value satisfies never;
  }
}

/** The number behind integers, fractions and booleans, for comparisons. */
function numeric(value: Value): number | bigint | undefined {
  if (typeof value === 'number' || typeof value === 'bigint') return value;
  if (typeof value === 'boolean') return Number(value);
  return value instanceof Float ? value.value : undefined;
}

export function equal(a: Value, b: Value, budget: Budget): boolean {
  if (typeof a === 'string' && typeof b === 'string' && a.length === b.length) budget.text(a.length);
  budget.step();
  if (a === b) return true;
  if (a === null || b === null) return false;
  const [textA, textB] = [textOf(a), textOf(b)];
  if (textA !== undefined || textB !== undefined) return textA === textB;
  const [numberA, numberB] = [numeric(a), numeric(b)];
  if (numberA !== undefined || numberB !== undefined) {
    // biome-ignore lint/suspicious/noDoubleEquals: integers of both representations are compared.
    return numberA !== undefined && numberB !== undefined && numberA == numberB;
  }
  if (isList(a) || isList(b)) return isList(a) && isList(b) && equalItems(a, b, budget);
  if (typeof a !== 'object' || typeof b !== 'object') return false;
  if (a.kind === 'tuple') return b.kind === 'tuple' && equalItems(a.items, b.items, budget);
  if (a.kind === 'dict') return b.kind === 'dict' && equalDicts(a, b, budget);
  if (a.kind === 'undefined') return b.kind === 'undefined';
  if (a.kind === 'range' && b.kind === 'range') {
    const same = a.length === b.length && (a.length === 0 || a.start === b.start);
    return same && (a.length < 2 || a.step === b.step);
  }
  if (a.kind === 'view' && b.kind === 'view' && a.part === 'keys' && b.part === 'keys') {
    const other = b.dict;
    return a.dict.size === other.size && [...a.dict.entries()].every(([key]) => other.has(key));
  }
  return false;
}

function equalItems(a: List, b: List, budget: Budget): boolean {
  if (a === b) return true;
  return a.length === b.length && a.every((item, i) => equal(item, b[i] as Value, budget));
}

function equalDicts(a: Dict, b: Dict, budget: Budget): boolean {
  if (a.size !== b.size) return false;
  for (const [key, [, value]] of a.entries()) {
    const other = b.get(key);
    if (other === undefined || !equal(value, other, budget)) return false;
  }
  return true;
}

/** Below zero, zero or above as `a` stands to `b`; `NaN` where neither comes first. */
export function order(a: Value, b: Value, operator: string, budget: Budget): number {
  budget.step();
  const [textA, textB] = [textOf(a), textOf(b)];
  if (textA !== undefined && textB !== undefined) return compareText(textA, textB);
  const [numberA, numberB] = [numeric(a), numeric(b)];
  if (numberA !== undefined && numberB !== undefined) {
    if (numberA < numberB) return -1;
    // biome-ignore lint/suspicious/noDoubleEquals: integers of both representations are compared.
    return numberA > numberB ? 1 : numberA == numberB ? 0 : Number.NaN;
  }
  if (isList(a) && isList(b)) return orderItems(a, b, operator, budget);
  if (a instanceof Tuple && b instanceof Tuple) return orderItems(a.items, b.items, operator, budget);
  refuseUndefined(a);
  refuseUndefined(b);
  throw unfit(`'${operator}' not supported between instances of '${typeName(a)}' and '${typeName(b)}'`);
}

function orderItems(a: List, b: List, operator: string, budget: Budget): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    const [x, y] = [a[i] as Value, b[i] as Value];
    if (!equal(x, y, budget)) return order(x, y, operator, budget);
  }
  return a.length - b.length;
}

/** Most things that are done with an undefined value are errors. */
export function refuseUndefined(value: Value): void {
  if (typeof value === 'object' && value !== null && !isList(value) && value.kind === 'undefined') {
    throw new Fault(value.message);
  }
}

/** What a dictionary finds a value by. Lists and dictionaries have none. */
export function keyOf(value: Value, budget: Budget): Key {
  if (typeof value === 'string') return value;
  budget.step();
  if (typeof value === 'boolean') return Number(value);
  if (typeof value !== 'object' || value === null) return value;
  if (isList(value) || value instanceof Dict || value instanceof View)
    throw unfit(`unhashable type: '${typeName(value)}'`);
  if (value instanceof Markup) return value.text;
  if (value instanceof Float) {
    if (!Number.isInteger(value.value)) return value.value;
    return int(BigInt(value.value));
  }
  if (!(value instanceof Tuple)) return value;
  const parts = value.items.map((item) => {
    const key = keyOf(item, budget);
    return typeof key === 'object' && key !== null
      ? str(item, budget)
      : `${typeof key}${String(key).length}${String(key)}`;
  });
  const text = TUPLE_MARK + parts.join(TUPLE_MARK);
  budget.text(text.length);
  return text;
}
