/** Going through values, and parts of sequences. */
import { charCount, charSlice, hasPairs } from './characters.ts';
import { equal, keyOf, order, refuseUndefined } from './compare.ts';
import type { Budget } from './fault.ts';
import { Fault, unfit } from './fault.ts';
import { str } from './show.ts';
import type { Int, List, Value } from './values.ts';
import { isList, Markup, Range, Tuple, textOf, typeName, type View } from './values.ts';

/** The items of a value, as a `for` loop sees them. */
export function iterate(value: Value, budget: Budget): Iterator<Value> {
  const items = itemsOf(value);
  if (!items) throw unfit(`'${typeName(value)}' object is not iterable`);
  return {
    next: () => {
      budget.step();
      return items.next();
    },
  };
}

/** The same for loops of this language. */
export function* each(value: Value, budget: Budget): Generator<Value, void> {
  const items = iterate(value, budget);
  for (let next = items.next(); !next.done; next = items.next()) yield next.value;
}

export function isIterable(value: Value): boolean {
  return itemsOf(value) !== undefined;
}

function itemsOf(value: Value): Iterator<Value> | undefined {
  const text = textOf(value);
  if (text !== undefined) return text[Symbol.iterator]();
  if (typeof value !== 'object' || value === null) return undefined;
  if (isList(value)) return value[Symbol.iterator]();
  switch (value.kind) {
    case 'tuple':
      return value.items[Symbol.iterator]();
    case 'dict':
      return keys(value.items());
    case 'view':
      return viewItems(value);
    case 'range':
      return rangeItems(value);
    case 'iter':
      return value.items;
    case 'undefined':
      return [][Symbol.iterator]();
    default:
      return undefined;
  }
}

function* keys(items: Iterable<readonly [Value, Value]>): Generator<Value, void> {
  for (const [key] of items) yield key;
}

function* viewItems(view: View): Generator<Value, void> {
  for (const [key, value] of view.dict.items()) {
    yield view.part === 'items' ? new Tuple([key, value]) : view.part === 'keys' ? key : value;
  }
}

function* rangeItems(range: Range): Generator<Value, void> {
  for (let i = 0; i < range.length; i++) yield range.at(i);
}

/** All items as a list; a list is its own. */
export function listOf(value: Value, budget: Budget): List {
  if (isList(value)) return value;
  if (value instanceof Tuple) return value.items;
  const items: Value[] = [];
  for (const item of each(value, budget)) {
    items.push(item);
    // The steps are already counted, one by one.
    if (items.length % 4096 === 0) budget.items(items.length);
  }
  return items;
}

/** Number of code points. They are counted one by one where some take two units. */
function measured(text: string, budget: Budget): number {
  budget.text(text.length);
  if (hasPairs(text)) budget.step(text.length >> 2);
  return charCount(text);
}

/** `len(value)`, or `undefined` for what has none. */
export function lengthOf(value: Value, budget: Budget): number | undefined {
  const text = textOf(value);
  if (text !== undefined) {
    return measured(text, budget);
  }
  if (typeof value !== 'object' || value === null) return undefined;
  if (isList(value)) return value.length;
  switch (value.kind) {
    case 'tuple':
      return value.items.length;
    case 'dict':
      return value.size;
    case 'view':
      return value.dict.size;
    case 'range':
      return value.length;
    case 'undefined':
      return 0;
    case 'thing':
      return value.length?.();
    default:
      return undefined;
  }
}

/** `len(value)`. */
export function length(value: Value, budget: Budget): number {
  const count = lengthOf(value, budget);
  if (count === undefined) throw unfit(`object of type '${typeName(value)}' has no len()`);
  return count;
}

/** `item in container`. */
export function contains(container: Value, item: Value, budget: Budget): boolean {
  const text = textOf(container);
  if (text !== undefined) {
    const part = textOf(item);
    if (part === undefined) throw unfit(`'in <string>' requires string as left operand, not ${typeName(item)}`);
    budget.text(text.length);
    return text.includes(part);
  }
  if (typeof container === 'object' && container !== null && !isList(container)) {
    if (container.kind === 'dict') return container.has(keyOf(item, budget));
    if (container.kind === 'view' && container.part === 'keys') return container.dict.has(keyOf(item, budget));
  }
  if (!isIterable(container)) throw unfit(`argument of type '${typeName(container)}' is not iterable`);
  for (const other of each(container, budget)) if (equal(other, item, budget)) return true;
  return false;
}

/** The position an index means; `undefined` where there is none. Values that are no integers are refused. */
export function position(index: Value, count: number): number | undefined {
  if (typeof index === 'boolean') return position(Number(index), count);
  if (typeof index === 'bigint') return undefined;
  if (typeof index !== 'number') throw unfit(`indices must be integers or slices, not ${typeName(index)}`);
  const at = index < 0 ? index + count : index;
  return at >= 0 && at < count ? at : undefined;
}

/** The item of a sequence at an index; `undefined` for values that have no such item. */
export function itemAt(value: Value, index: Value, budget: Budget): Value | undefined {
  const text = textOf(value);
  if (text !== undefined) {
    const at = position(index, measured(text, budget));
    return at === undefined ? undefined : charSlice(text, at, at + 1);
  }
  const items = value instanceof Tuple ? value.items : value;
  if (isList(items)) {
    const at = position(index, items.length);
    return at === undefined ? undefined : items[at];
  }
  if (!(items instanceof Range)) return undefined;
  const at = position(index, items.length);
  return at === undefined ? undefined : items.at(at);
}

/** Where a slice begins, in which steps it goes, and how many items it has. */
interface Span {
  readonly start: number;
  readonly stop: number;
  readonly step: number;
  readonly count: number;
}

function spanOf(start: Value, stop: Value, step: Value, count: number): Span {
  const by = bound(step) ?? 1;
  if (by === 0) throw new Fault('slice step cannot be zero');
  const [low, high] = by > 0 ? [0, count] : [-1, count - 1];
  const place = (at: number | undefined, otherwise: number): number => {
    if (at === undefined) return otherwise;
    return Math.min(Math.max(at < 0 ? at + count : at, low), high);
  };
  const from = place(bound(start), by > 0 ? low : high);
  const to = place(bound(stop), by > 0 ? high : low);
  return { start: from, stop: to, step: by, count: Math.max(0, Math.ceil((to - from) / by)) };
}

function bound(value: Value): number | undefined {
  if (value === null) return undefined;
  if (typeof value === 'number' || typeof value === 'boolean' || typeof value === 'bigint') return Number(value);
  refuseUndefined(value);
  throw unfit('slice indices must be integers or None or have an __index__ method');
}

/** `value[start:stop:step]`. */
export function slice(value: Value, start: Value, stop: Value, step: Value, budget: Budget): Value {
  const text = textOf(value);
  if (text !== undefined) {
    const wrap = (part: string): Value => (value instanceof Markup ? new Markup(part) : part);
    const span = spanOf(start, stop, step, measured(text, budget));
    if (span.step === 1) return wrap(charSlice(text, span.start, span.start + span.count));
    budget.step(text.length);
    return wrap(pick(hasPairs(text) ? [...text] : text, span).join(''));
  }
  if (value instanceof Range) {
    const span = spanOf(start, stop, step, value.length);
    return new Range(value.at(span.start), value.at(span.stop), value.step * span.step);
  }
  const items = value instanceof Tuple ? value.items : value;
  if (!isList(items)) {
    refuseUndefined(value);
    throw unfit(`'${typeName(value)}' object is not subscriptable`);
  }
  const span = spanOf(start, stop, step, items.length);
  budget.items(span.count);
  const part = span.step === 1 ? items.slice(span.start, span.start + span.count) : pick(items, span);
  return value instanceof Tuple ? new Tuple(part) : part;
}

function pick<T>(items: ArrayLike<T>, span: Span): T[] {
  return Array.from({ length: span.count }, (_, i) => items[span.start + i * span.step] as T);
}

/** An integer argument; booleans count as such. */
export function intArg(value: Value): Int {
  if (typeof value === 'number' || typeof value === 'bigint') return value;
  if (typeof value === 'boolean') return Number(value);
  refuseUndefined(value);
  throw unfit(`'${typeName(value)}' object cannot be interpreted as an integer`);
}

/** The same where a number of ordinary size is meant. */
export function smallInt(value: Value): number {
  return Number(intArg(value));
}

/** A text argument. */
export function textArg(value: Value): string {
  const text = textOf(value);
  if (text !== undefined) return text;
  refuseUndefined(value);
  throw unfit(`expected str, got ${typeName(value)}`);
}

/** Items in rising order of their keys; equal ones keep their order, reversed too. */
export function sorted<T>(items: readonly T[], key: (item: T) => Value, reverse: boolean, budget: Budget): T[] {
  const keyed = items.map((item) => ({ item, key: key(item) }));
  budget.items(keyed.length);
  const sign = reverse ? -1 : 1;
  return keyed.sort((a, b) => sign * order(a.key, b.key, '<', budget) || 0).map(({ item }) => item);
}

/** Texts put together, with their lengths checked first. */
export function joinTexts(parts: readonly string[], separator: string, budget: Budget): string {
  const gaps = Math.max(0, parts.length - 1) * separator.length;
  budget.text(parts.reduce((sum, part) => sum + part.length, gaps));
  return parts.join(separator);
}

/** `str` of every item. */
export function textsOf(value: Value, budget: Budget): string[] {
  return listOf(value, budget).map((item) => str(item, budget));
}
