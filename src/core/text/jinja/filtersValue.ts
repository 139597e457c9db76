/** Filters on single values, and the table of all filters. */
import { attributeOf, hasAttribute } from './access.ts';
import { refuseUndefined, truth } from './compare.ts';
import { roundTo } from './decimals.ts';
import { Fault, unfit } from './fault.ts';
import { SEQUENCE_FILTERS } from './filtersSequence.ts';
import { filter, TEXT_FILTERS } from './filtersText.ts';
import { MAX_INT_DIGITS, parseInteger, toNumber } from './numbers.ts';
import { binary } from './operators.ts';
import type { Filter, Runtime } from './runtime.ts';
import { intArg, smallInt, textArg } from './sequence.ts';
import type { Int, Value } from './values.ts';
import { Float, int, isInt, textOf, typeName, Undefined } from './values.ts';

function toInt(_: Runtime, value: Value, [fallback = 0, base = 10]: Value[]): Value {
  const text = textOf(value);
  if (text !== undefined) {
    const parsed = parseInteger(text, smallInt(base));
    if (parsed !== undefined) return parsed;
  } else if (value instanceof Float && !Number.isFinite(value.value) && !Number.isNaN(value.value)) {
    throw new Fault('cannot convert float infinity to integer');
  } else if (isInt(value) || typeof value === 'boolean') {
    return intArg(value);
  }
  const number = toNumber(value);
  return number === undefined || !Number.isFinite(number) ? fallback : int(BigInt(Math.trunc(number)));
}

function rounded({ budget }: Runtime, value: Value, [precision = 0, method = 'common']: Value[]): Value {
  if (method !== 'common' && method !== 'ceil' && method !== 'floor') {
    throw new Fault('method must be common, ceil or floor');
  }
  const number = typeof value === 'boolean' ? Number(value) : value;
  if (!isInt(number) && !(number instanceof Float)) {
    refuseUndefined(value);
    throw unfit(`type ${typeName(value)} doesn't define __round__ method`);
  }
  if (method !== 'common') {
    const scale = binary('**', 10, precision, budget);
    const product = binary('*', number, scale, budget);
    const whole =
      product instanceof Float
        ? wholeOf(method === 'ceil' ? Math.ceil(product.value) : Math.floor(product.value))
        : product;
    return binary('/', whole, scale, budget);
  }
  const digits = smallInt(precision);
  if (number instanceof Float) return new Float(roundTo(number.value, digits));
  return digits >= 0 ? number : roundedInt(BigInt(number), -digits);
}

function wholeOf(value: number): Int {
  if (!Number.isFinite(value)) throw new Fault('cannot convert float infinity or NaN to integer');
  return int(BigInt(value));
}

/** An integer with its last digits rounded away, half to even. */
function roundedInt(value: bigint, digits: number): Int {
  if (digits > MAX_INT_DIGITS) return 0;
  const unit = 10n ** BigInt(digits);
  const rest = ((value % unit) + unit) % unit;
  const floor = value - rest;
  const up = rest * 2n > unit || (rest * 2n === unit && (floor / unit) % 2n !== 0n);
  return int(up ? floor + unit : floor);
}

function absolute(_: Runtime, value: Value): Value {
  if (value instanceof Float) return new Float(Math.abs(value.value));
  if (!isInt(value) && typeof value !== 'boolean') {
    refuseUndefined(value);
    throw unfit(`bad operand type for abs(): '${typeName(value)}'`);
  }
  const number = intArg(value);
  return number < 0 ? int(-BigInt(number)) : number;
}

const VALUE_FILTERS: readonly [string, Filter][] = [
  filter('abs', [], absolute),
  filter(
    'int',
    [
      ['default', 0],
      ['base', 10],
    ],
    toInt,
  ),
  filter('float', [['default', new Float(0)]], (_, value, [fallback = null]) => {
    const number = toNumber(value);
    return number === undefined ? fallback : new Float(number);
  }),
  filter(
    'round',
    [
      ['precision', 0],
      ['method', 'common'],
    ],
    rounded,
  ),
  ...['default', 'd'].map((name) =>
    filter(
      name,
      [
        ['default_value', ''],
        ['boolean', false],
      ],
      (_, value, [fallback = '', boolean = false]) =>
        value instanceof Undefined || (truth(boolean) && !truth(value)) ? fallback : value,
    ),
  ),
  filter('attr', ['name'], ({ budget }, value, [name = null]) => {
    const key = textArg(name);
    refuseUndefined(value);
    if (hasAttribute(value, key, budget)) return attributeOf(value, key, budget);
    return new Undefined(`'${typeName(value)} object' has no attribute '${key}'`);
  }),
];

/** Every filter by its name. */
export const FILTERS: ReadonlyMap<string, Filter> = new Map([...TEXT_FILTERS, ...SEQUENCE_FILTERS, ...VALUE_FILTERS]);
