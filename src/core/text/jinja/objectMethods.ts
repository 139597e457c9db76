/** Attributes of lists, dictionaries, ranges and numbers. */
import { bind } from './bind.ts';
import { equal, keyOf } from './compare.ts';
import type { Budget } from './fault.ts';
import { Fault } from './fault.ts';
import { listOf, smallInt } from './sequence.ts';
import { repr } from './show.ts';
import type { Args, Int, Value } from './values.ts';
import { Dict, Float, int, isInt, isList, native, Range, Tuple, View } from './values.ts';

type Method<T> = (self: T, args: Args, budget: Budget) => Value;
type Methods<T> = ReadonlyMap<string, Method<T>>;

const LIST_CHANGES: ReadonlySet<string> = new Set('append clear pop reverse insert sort extend remove'.split(' '));
const DICT_CHANGES: ReadonlySet<string> = new Set('clear pop popitem setdefault update'.split(' '));

/** Whether an attribute changes its object, which templates may not do. */
export function changes(value: Value, name: string): boolean {
  if (isList(value)) return LIST_CHANGES.has(name);
  return value instanceof Dict && DICT_CHANGES.has(name);
}

const SEQUENCE: Methods<Value> = new Map<string, Method<Value>>([
  [
    'count',
    (self, args, budget) => {
      const [item = null] = bind('count', args, ['value']);
      return listOf(self, budget).filter((other) => equal(other, item, budget)).length;
    },
  ],
  [
    'index',
    (self, args, budget) => {
      const items = listOf(self, budget);
      const [item = null, start = 0, stop = 0] = bind('index', args, [
        'value',
        ['(start)', 0],
        ['(stop)', items.length],
      ]);
      const place = (at: number): number => Math.min(Math.max(at < 0 ? at + items.length : at, 0), items.length);
      const [from, to] = [place(smallInt(start)), place(smallInt(stop))];
      for (let i = from; i < to; i++) if (equal(items[i] as Value, item, budget)) return i;
      throw new Fault(`${repr(item, budget)} is not in list`);
    },
  ],
]);

const DICT: Methods<Dict> = new Map<string, Method<Dict>>([
  [
    'get',
    (self, args, budget) => {
      const [key = null, fallback = null] = bind('get', args, ['(key)', ['(default)', null]]);
      const found = self.get(keyOf(key, budget));
      return found === undefined ? fallback : found;
    },
  ],
  ['keys', (self, args) => view('keys', self, args)],
  ['values', (self, args) => view('values', self, args)],
  ['items', (self, args) => view('items', self, args)],
  ['copy', (self, args) => same('copy', self, args)],
  ['fromkeys', (_, args, budget) => fromKeys(args, budget)],
]);

const INT: Methods<Int> = new Map<string, Method<Int>>([
  [
    'bit_length',
    (self, args) => (same('bit_length', self, args) === 0 ? 0 : BigInt(self).toString(2).replace('-', '').length),
  ],
  [
    'bit_count',
    (self, args) =>
      BigInt(same('bit_count', self, args))
        .toString(2)
        .replaceAll(/[-0]/g, '').length,
  ],
  ['conjugate', (self, args) => same('conjugate', self, args)],
  ['as_integer_ratio', (self, args) => new Tuple([same('as_integer_ratio', self, args), 1])],
]);

const FLOAT: Methods<Float> = new Map<string, Method<Float>>([
  ['is_integer', (self, args) => Number.isInteger((same('is_integer', self, args) as Float).value)],
  ['conjugate', (self, args) => same('conjugate', self, args)],
]);

/** For methods of values that cannot change: a copy is the value itself. */
function same<T extends Value>(name: string, self: T, args: Args): T {
  bind(name, args, []);
  return self;
}

function view(part: View['part'], self: Dict, args: Args): View {
  bind(part, args, []);
  return new View(part, self);
}

/** `dict.fromkeys`. */
export function fromKeys(args: Args, budget: Budget): Dict {
  const [keys = [], value = null] = bind('fromkeys', args, ['(iterable)', ['(value)', null]]);
  const dict = new Dict();
  for (const key of listOf(keys, budget)) dict.set(keyOf(key, budget), key, value);
  return dict;
}

function bound<T>(methods: Methods<T>, name: string, self: T, budget: Budget): Value | undefined {
  const method = methods.get(name);
  return method && native(name, (args) => method(self, args, budget));
}

/** An attribute of a value that is neither text nor one of the engine's own things. */
export function objectAttribute(value: Value, name: string, budget: Budget): Value | undefined {
  if (isList(value)) {
    if (name === 'copy') return native(name, (args) => same(name, value, args));
    return bound(SEQUENCE, name, value, budget);
  }
  if (value instanceof Dict) return bound(DICT, name, value, budget);
  if (value instanceof Tuple) {
    const at = value.names.indexOf(name);
    return at < 0 ? bound(SEQUENCE, name, value, budget) : value.items[at];
  }
  if (value instanceof Range) {
    if (name === 'start' || name === 'stop' || name === 'step') return value[name];
    return bound(SEQUENCE, name, value, budget);
  }
  if (value instanceof Float) {
    if (name === 'real') return value;
    return name === 'imag' ? new Float(0) : bound(FLOAT, name, value, budget);
  }
  if (typeof value !== 'boolean' && !isInt(value)) return undefined;
  const number = typeof value === 'boolean' ? Number(value) : int(BigInt(value));
  if (name === 'real' || name === 'numerator') return number;
  if (name === 'imag') return 0;
  return name === 'denominator' ? 1 : bound(INT, name, number, budget);
}
