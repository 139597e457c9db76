/** What may stand behind `is`. */
import { bind, type Param } from './bind.ts';
import { isLower, isUpper } from './characters.ts';
import { equal, keyOf, order } from './compare.ts';
import type { Budget } from './fault.ts';
import { binary } from './operators.ts';
import type { Runtime, Test } from './runtime.ts';
import { contains, isIterable } from './sequence.ts';
import { str } from './show.ts';
import type { Value } from './values.ts';
import { Dict, Float, isInt, isList, Markup, Range, Tuple, textOf, Undefined } from './values.ts';

type Body = (runtime: Runtime, value: Value, args: Value[]) => boolean;

function test(names: string, params: readonly Param[], body: Body): [string, Test][] {
  return names
    .split(' ')
    .map((name) => [name, (runtime, value, args) => body(runtime, value, bind(name, args, params))]);
}

function plain(names: string, body: (value: Value) => boolean): [string, Test][] {
  return test(names, [], (_, value) => body(value));
}

function ordered(names: string, operator: string, accepts: (sign: number) => boolean): [string, Test][] {
  return test(names, ['(other)'], ({ budget }, value, [other = null]) =>
    accepts(order(value, other, operator, budget)),
  );
}

function divides({ budget }: Runtime, value: Value, by: Value, rest: number): boolean {
  return equal(binary('%', value, by, budget), rest, budget);
}

/** Whether something can be called. What is missing can, and then says that it is missing. */
export function isCallable(value: Value): boolean {
  if (typeof value !== 'object' || value === null || isList(value)) return false;
  return value.kind === 'undefined' || (value.kind === 'thing' && value.call !== undefined);
}

function isSequence(value: Value): boolean {
  if (textOf(value) !== undefined || isList(value)) return true;
  return value instanceof Tuple || value instanceof Dict || value instanceof Range || value instanceof Undefined;
}

function hasName(table: ReadonlyMap<string, unknown>, name: Value, budget: Budget): boolean {
  const key = keyOf(name, budget);
  return typeof key === 'string' && table.has(key);
}

export const TESTS: ReadonlyMap<string, Test> = new Map<string, Test>([
  ...plain('defined', (value) => !(value instanceof Undefined)),
  ...plain('undefined', (value) => value instanceof Undefined),
  ...plain('none', (value) => value === null),
  ...plain('boolean', (value) => typeof value === 'boolean'),
  ...plain('true', (value) => value === true),
  ...plain('false', (value) => value === false),
  ...plain('integer', isInt),
  ...plain('float', (value) => value instanceof Float),
  ...plain('number', (value) => isInt(value) || value instanceof Float || typeof value === 'boolean'),
  ...plain('string', (value) => textOf(value) !== undefined),
  ...plain('escaped', (value) => value instanceof Markup),
  ...plain('mapping', (value) => value instanceof Dict),
  ...plain('iterable', isIterable),
  ...plain('sequence', isSequence),
  ...plain('callable', isCallable),
  ...test('lower', [], ({ budget }, value) => isLower(str(value, budget))),
  ...test('upper', [], ({ budget }, value) => isUpper(str(value, budget))),
  ...test('odd', [], (runtime, value) => divides(runtime, value, 2, 1)),
  ...test('even', [], (runtime, value) => divides(runtime, value, 2, 0)),
  ...test('divisibleby', ['num'], (runtime, value, [by = null]) => divides(runtime, value, by, 0)),
  ...test('sameas', ['other'], (_, value, [other = null]) => value === other),
  ...test('in', ['seq'], ({ budget }, value, [seq = null]) => contains(seq, value, budget)),
  ...test('eq equalto ==', ['(other)'], ({ budget }, value, [other = null]) => equal(value, other, budget)),
  ...test('ne !=', ['(other)'], ({ budget }, value, [other = null]) => !equal(value, other, budget)),
  ...ordered('gt greaterthan >', '>', (sign) => sign > 0),
  ...ordered('ge >=', '>=', (sign) => sign >= 0),
  ...ordered('lt lessthan <', '<', (sign) => sign < 0),
  ...ordered('le <=', '<=', (sign) => sign <= 0),
  ...test('filter', [], ({ filters, budget }, value) => hasName(filters, value, budget)),
  ...test('test', [], ({ tests, budget }, value) => hasName(tests, value, budget)),
]);
