/** Filters over sequences. Those that Python writes as generators yield their items only when asked. */

import { equal, keyOf, order, truth } from './compare.ts';
import type { Budget } from './fault.ts';
import { Fault, unfit } from './fault.ts';
import { filter } from './filtersText.ts';
import { attributeGetter, type Getter, ignoreCase, multiGetter } from './getters.ts';
import { binary } from './operators.ts';
import type { Filter, Runtime } from './runtime.ts';
import { each, iterate, length, listOf, smallInt, sorted } from './sequence.ts';
import type { Args, List, Value } from './values.ts';
import { Dict, Iter, isList, Markup, Range, Tuple, textOf, typeName, Undefined, View } from './values.ts';

/** The items of a value from the last to the first; `undefined` where Python cannot tell the last one. */
function backwards(value: Value, budget: Budget): List | undefined {
  const text = textOf(value);
  if (text !== undefined) {
    budget.step(text.length);
    return [...text].reverse();
  }
  const known =
    isList(value) || value instanceof Tuple || value instanceof Dict || value instanceof View || value instanceof Range;
  return known || value instanceof Undefined ? [...listOf(value, budget)].reverse() : undefined;
}

function reversed({ budget }: Runtime, value: Value): Value {
  const text = textOf(value);
  if (text !== undefined) {
    budget.step(text.length);
    const back = [...text].reverse().join('');
    return value instanceof Markup ? new Markup(back) : back;
  }
  const items = backwards(value, budget);
  if (!items) return [...listOf(value, budget)].reverse();
  return new Iter(items[Symbol.iterator](), isList(value) ? 'list_reverseiterator' : 'reversed');
}

function last({ budget }: Runtime, value: Value): Value {
  const items = backwards(value, budget);
  if (!items) throw unfit(`'${typeName(value)}' object is not reversible`);
  const [first] = items;
  return first === undefined ? new Undefined('No last item, sequence was empty.') : first;
}

function first({ budget }: Runtime, value: Value): Value {
  const next = iterate(value, budget).next();
  return next.done ? new Undefined('No first item, sequence was empty.') : next.value;
}

function* batches(value: Value, count: Value, fill: Value, budget: Budget): Generator<Value, void> {
  let batch: Value[] = [];
  for (const item of each(value, budget)) {
    if (equal(batch.length, count, budget)) {
      yield batch;
      batch = [];
    }
    batch.push(item);
  }
  if (batch.length === 0) return;
  const missing = fill === null ? 0 : Math.max(0, smallInt(count) - batch.length);
  budget.items(missing);
  for (let i = 0; i < missing; i++) batch.push(fill);
  yield batch;
}

function* slices(value: Value, count: number, fill: Value, budget: Budget): Generator<Value, void> {
  const items = listOf(value, budget);
  if (count === 0) throw new Fault('integer division or modulo by zero');
  const size = Math.floor(items.length / count);
  const longer = items.length - size * count;
  let start = 0;
  for (let i = 0; i < count; i++) {
    budget.step(4);
    const end = start + size + (i < longer ? 1 : 0);
    const part = items.slice(start, end);
    yield fill !== null && i >= longer ? [...part, fill] : part;
    start = end;
  }
}

function* mapped(runtime: Runtime, value: Value, args: Args): Generator<Value, void> {
  if (!truth(value)) return;
  const apply = mapper(runtime, args);
  for (const item of each(value, runtime.budget)) yield apply(item);
}

function mapper(runtime: Runtime, { positional, named }: Args): Getter {
  const attribute = named.get('attribute');
  if (positional.length === 0 && attribute !== undefined) {
    for (const key of named.keys()) {
      if (key !== 'attribute' && key !== 'default') throw unfit(`Unexpected keyword argument '${key}'`);
    }
    return attributeGetter(attribute, runtime.budget, named.get('default') ?? null);
  }
  const [name, ...rest] = positional;
  if (name === undefined) throw unfit('map requires a filter argument');
  const apply = runtime.filters.get(textOf(name) ?? '');
  if (!apply) throw new Fault(`No filter named ${JSON.stringify(textOf(name) ?? typeName(name))}.`);
  return (item) => apply(runtime, item, { positional: rest, named });
}

function* selected(
  runtime: Runtime,
  value: Value,
  args: Args,
  wanted: boolean,
  byAttribute: boolean,
): Generator<Value, void> {
  if (!truth(value)) return;
  const accepts = selector(runtime, args, byAttribute);
  for (const item of each(value, runtime.budget)) if (accepts(item) === wanted) yield item;
}

function selector(runtime: Runtime, { positional, named }: Args, byAttribute: boolean): (item: Value) => boolean {
  const [attribute] = positional;
  if (byAttribute && attribute === undefined) throw unfit('Missing parameter for attribute name');
  const get: Getter = byAttribute ? attributeGetter(attribute ?? null, runtime.budget) : (item) => item;
  const [name, ...rest] = positional.slice(byAttribute ? 1 : 0);
  if (name === undefined) return (item) => truth(get(item));
  const test = runtime.tests.get(textOf(name) ?? '');
  if (!test) throw new Fault(`No test named ${JSON.stringify(textOf(name) ?? typeName(name))}.`);
  return (item) => test(runtime, get(item), { positional: rest, named });
}

function selecting(name: string, wanted: boolean, byAttribute: boolean): [string, Filter] {
  return [name, (runtime, value, args) => new Iter(selected(runtime, value, args, wanted, byAttribute))];
}

function* unique(value: Value, caseSensitive: boolean, attribute: Value, budget: Budget): Generator<Value, void> {
  const get = attributeGetter(attribute, budget);
  const seen = new Set<unknown>();
  for (const item of each(value, budget)) {
    const key = keyOf(caseSensitive ? get(item) : ignoreCase(get(item)), budget);
    if (!seen.has(key)) yield item;
    seen.add(key);
  }
}

function* pairs(value: Value): Generator<Value, void> {
  if (value instanceof Undefined) return;
  if (!(value instanceof Dict)) throw unfit('Can only get item pairs from a mapping.');
  for (const pair of value.items()) yield new Tuple(pair);
}

function dictSorted({ budget }: Runtime, value: Value, args: Value[]): Value {
  const [caseSensitive = false, by = 'key', reverse = false] = args;
  if (by !== 'key' && by !== 'value') throw new Fault('You can only sort by either "key" or "value"');
  if (!(value instanceof Dict)) throw unfit(`'${typeName(value)}' object has no attribute 'items'`);
  const key = ([name, item]: readonly [Value, Value]): Value => {
    const found = by === 'key' ? name : item;
    return truth(caseSensitive) ? found : ignoreCase(found);
  };
  return sorted([...value.items()], key, truth(reverse), budget).map((pair) => new Tuple(pair));
}

function sortedBy({ budget }: Runtime, value: Value, args: Value[]): Value {
  const [reverse = false, caseSensitive = false, attribute = null] = args;
  return sorted(listOf(value, budget), multiGetter(attribute, truth(caseSensitive), budget), truth(reverse), budget);
}

function extreme(name: string, operator: '<' | '>'): [string, Filter] {
  return filter(
    name,
    [
      ['case_sensitive', false],
      ['attribute', null],
    ],
    ({ budget }, value, args) => {
      const [caseSensitive = false, attribute = null] = args;
      const get = attributeGetter(attribute, budget);
      const keyFor = (item: Value): Value => (truth(caseSensitive) ? get(item) : ignoreCase(get(item)));
      let best: { readonly item: Value; readonly key: Value } | undefined;
      for (const item of each(value, budget)) {
        const key = keyFor(item);
        const sign = best === undefined ? 0 : order(key, best.key, operator, budget);
        if (best === undefined || (operator === '<' ? sign < 0 : sign > 0)) best = { item, key };
      }
      return best === undefined ? new Undefined('No aggregated item, sequence was empty.') : best.item;
    },
  );
}

function grouped({ budget }: Runtime, value: Value, args: Value[]): Value {
  const [attribute = null, fallback = null, caseSensitive = false] = args;
  const get = attributeGetter(attribute, budget, fallback);
  const key = (item: Value): Value => (truth(caseSensitive) ? get(item) : ignoreCase(get(item)));
  const groups: { readonly key: Value; readonly items: Value[] }[] = [];
  for (const item of sorted(listOf(value, budget), key, false, budget)) {
    const group = groups.at(-1);
    if (group && equal(group.key, key(item), budget)) group.items.push(item);
    else groups.push({ key: key(item), items: [item] });
  }
  return groups.map(({ items }) => new Tuple([get(items[0] as Value), items], ['grouper', 'list']));
}

function summed({ budget }: Runtime, value: Value, [attribute = null, start = 0]: Value[]): Value {
  if (textOf(start) !== undefined) throw unfit("sum() can't sum strings [use ''.join(seq) instead]");
  const get = attribute === null ? undefined : attributeGetter(attribute, budget);
  let total = start;
  for (const item of each(value, budget)) total = binary('+', total, get ? get(item) : item, budget);
  return total;
}

function randomItem({ budget }: Runtime, value: Value): Value {
  if (value instanceof Dict || value instanceof View) throw unfit(`'${typeName(value)}' object has no item by number`);
  length(value, budget);
  const items = listOf(value, budget);
  const item = items[Math.floor(Math.random() * items.length)];
  return item === undefined ? new Undefined('No random item, sequence was empty.') : item;
}

export const SEQUENCE_FILTERS: readonly [string, Filter][] = [
  filter('length', [], ({ budget }, value) => length(value, budget)),
  filter('count', [], ({ budget }, value) => length(value, budget)),
  filter('first', [], first),
  filter('last', [], last),
  filter('random', [], randomItem),
  filter('reverse', [], reversed),
  filter('list', [], ({ budget }, value) => listOf(value, budget)),
  filter('items', [], (_, value) => new Iter(pairs(value))),
  filter(
    'batch',
    ['linecount', ['fill_with', null]],
    ({ budget }, value, [count = 0, fill = null]) => new Iter(batches(value, count, fill, budget)),
  ),
  filter(
    'slice',
    ['slices', ['fill_with', null]],
    ({ budget }, value, [count = 0, fill = null]) => new Iter(slices(value, smallInt(count), fill, budget)),
  ),
  filter(
    'unique',
    [
      ['case_sensitive', false],
      ['attribute', null],
    ],
    ({ budget }, value, [caseSensitive = false, attribute = null]) =>
      new Iter(unique(value, truth(caseSensitive), attribute, budget)),
  ),
  filter(
    'sort',
    [
      ['reverse', false],
      ['case_sensitive', false],
      ['attribute', null],
    ],
    sortedBy,
  ),
  filter(
    'dictsort',
    [
      ['case_sensitive', false],
      ['by', 'key'],
      ['reverse', false],
    ],
    dictSorted,
  ),
  filter('groupby', ['attribute', ['default', null], ['case_sensitive', false]], grouped),
  filter(
    'sum',
    [
      ['attribute', null],
      ['start', 0],
    ],
    summed,
  ),
  extreme('min', '<'),
  extreme('max', '>'),
  ['map', (runtime, value, args) => new Iter(mapped(runtime, value, args))],
  selecting('select', true, false),
  selecting('reject', false, false),
  selecting('selectattr', true, true),
  selecting('rejectattr', false, true),
];
