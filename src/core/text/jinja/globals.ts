/** Functions that every template can call. */
import { RequestValidationError } from '../../errors.ts';
import { bind } from './bind.ts';
import { keyOf } from './compare.ts';
import type { Budget } from './fault.ts';
import { Fault, unfit } from './fault.ts';
import { fromKeys } from './objectMethods.ts';
import { each, listOf, textArg } from './sequence.ts';
import { str } from './show.ts';
import { strftime } from './strftime.ts';
import type { Args, Thing, Value } from './values.ts';
import { Dict, isInt, Namespace, native, Range, Tuple, typeName } from './values.ts';

/** Longer ranges are refused. */
const MAX_RANGE = 100_000;

/** The functions of one rendering. `now` is the clock of `strftime_now`. */
export function globals(budget: Budget, now: () => Date): Map<string, Value> {
  const dict: Thing = {
    ...native('dict', (args) => dictOf(args, budget)),
    attribute: (name) => (name === 'fromkeys' ? native(name, (args) => fromKeys(args, budget)) : undefined),
  };
  const functions: readonly (readonly [string, (args: Args) => Value])[] = [
    ['range', range],
    ['namespace', (args) => namespace(args, budget)],
    ['cycler', cycler],
    ['joiner', joiner],
    ['raise_exception', (args) => raise(args, budget)],
    ['strftime_now', (args) => time(args, budget, now())],
  ];
  return new Map<string, Value>([
    ['dict', dict],
    ...functions.map(([name, call]) => [name, native(name, call)] as const),
  ]);
}

/** The longest code makes this many characters of one. */
const TIME_GROWTH = 1000;

function time(args: Args, budget: Budget, now: Date): string {
  const [format = ''] = bind('strftime_now', args, ['format']);
  budget.text(textArg(format).length * TIME_GROWTH);
  return strftime(now, textArg(format));
}

/** How templates refuse a conversation. */
function raise(args: Args, budget: Budget): never {
  const [message = ''] = bind('raise_exception', args, ['message']);
  throw new RequestValidationError('template_error', str(message, budget));
}

function range({ positional, named }: Args): Value {
  if (named.size > 0) throw unfit('range() takes no keyword arguments');
  if (positional.length < 1 || positional.length > 3) {
    throw unfit(`range expected 1 to 3 arguments, got ${positional.length}`);
  }
  const numbers = positional.map((value) => {
    if (isInt(value) || typeof value === 'boolean') return Number(value);
    throw unfit(`'${typeName(value)}' object cannot be interpreted as an integer`);
  });
  const [first = 0, second, step = 1] = numbers;
  if (step === 0) throw new Fault('range() arg 3 must not be zero');
  const made = second === undefined ? new Range(0, first, 1) : new Range(first, second, step);
  if (made.length > MAX_RANGE) {
    throw new Fault(`Range too big. The sandbox blocks ranges larger than MAX_RANGE (${MAX_RANGE}).`);
  }
  return made;
}

/** `dict(mapping or pairs, name=value)`. */
function dictOf({ positional, named }: Args, budget: Budget): Dict {
  if (positional.length > 1) throw unfit(`dict expected at most 1 argument, got ${positional.length}`);
  const dict = new Dict();
  const [source] = positional;
  if (source instanceof Dict) {
    for (const [key, [name, value]] of source.entries()) dict.set(key, name, value);
  } else if (source !== undefined) {
    for (const pair of each(source, budget)) {
      const [key, value, ...more] = listOf(pair, budget);
      if (key === undefined || value === undefined || more.length > 0) {
        throw new Fault('dictionary update sequence: expected pairs');
      }
      dict.set(keyOf(key, budget), key, value);
    }
  }
  budget.items(dict.size);
  for (const [name, value] of named) dict.setText(name, value);
  return dict;
}

function namespace(args: Args, budget: Budget): Value {
  const space = new Namespace();
  for (const [key, value] of dictOf(args, budget).items()) assign(space, str(key, budget), value);
  return space;
}

/** `{% set space.name = value %}`. */
export function assign(space: Namespace, name: string, value: Value): void {
  if (name.startsWith('_')) throw new Fault(`a namespace takes no names with an underscore in front, got '${name}'`);
  space.values.set(name, value);
}

function cycler({ positional: items, named }: Args): Value {
  if (named.size > 0) throw unfit('cycler() takes no keyword arguments');
  if (items.length === 0) throw new Fault('at least one item has to be provided');
  let at = 0;
  const current = (): Value => items[at] as Value;
  const advance = (args: Args): Value => {
    bind('next', args, []);
    const value = current();
    at = (at + 1) % items.length;
    return value;
  };
  const reset = (args: Args): Value => {
    bind('reset', args, []);
    at = 0;
    return null;
  };
  return {
    kind: 'thing',
    typeName: 'Cycler',
    repr: () => '<Cycler object>',
    attribute(name) {
      if (name === 'next') return native(name, advance);
      if (name === 'reset') return native(name, reset);
      if (name === 'current') return current();
      if (name === 'pos') return at;
      return name === 'items' ? new Tuple(items) : undefined;
    },
  };
}

function joiner(args: Args): Value {
  const [separator = ''] = bind('joiner', args, [['sep', ', ']]);
  let used = false;
  const call = (inner: Args): Value => {
    bind('joiner', inner, []);
    const text = used ? separator : '';
    used = true;
    return text;
  };
  return {
    kind: 'thing',
    typeName: 'Joiner',
    repr: () => '<Joiner object>',
    call,
    attribute: (name) => (name === 'sep' ? separator : name === 'used' ? used : undefined),
  };
}
