/** Numbers out of values and texts, as Python's `int` and `float` read them. */
import { isAll, strip } from './characters.ts';
import { refuseUndefined } from './compare.ts';
import { Fault } from './fault.ts';
import type { Int, Value } from './values.ts';
import { Float, int, isInt, textOf } from './values.ts';

/** Longer numbers are refused, as Python does. */
export const MAX_INT_DIGITS = 4300;
const DECIMAL = /^[+-]?(?:\d+(?:_\d+)*\.?(?:\d+(?:_\d+)*)?|\.\d+(?:_\d+)*)(?:[eE][+-]?\d+(?:_\d+)*)?$/;
const SPECIAL = /^([+-]?)(?:(inf(?:inity)?)|nan)$/i;
const PREFIXES: Readonly<Record<string, number>> = { '0x': 16, '0o': 8, '0b': 2 };

/** A text without space around it, its digits of any script as ASCII ones. */
function bareNumber(text: string): string {
  const bare = strip(text, 'both').toLowerCase();
  return /[^ -~]/.test(bare) ? bare.replace(/\p{Nd}/gu, digitOf) : bare;
}

/** Decimal digits stand in rows of ten. */
function digitOf(character: string): string {
  const code = character.codePointAt(0) as number;
  let value = 0;
  while (value < 60 && isAll('decimal', String.fromCodePoint(code - value - 1))) value++;
  return String(value % 10);
}

/** `int(text, base)`; `undefined` for text that is no number. */
export function parseInteger(text: string, base: number): Int | undefined {
  if (base !== 0 && (base < 2 || base > 36)) return undefined;
  const [, sign = '', rest = ''] = /^([+-]?)(.*)$/s.exec(bareNumber(text)) ?? [];
  const prefix = PREFIXES[rest.slice(0, 2)];
  const prefixed = prefix !== undefined && (base === 0 || base === prefix);
  const radix = prefixed ? prefix : base === 0 ? 10 : base;
  const digits = prefixed ? rest.slice(2).replace(/^_/, '') : rest;
  if (!/^[\da-z]+(?:_[\da-z]+)*$/.test(digits) || digits.length > MAX_INT_DIGITS) return undefined;
  if (base === 0 && !prefixed && /^0[\d_]*[1-9]/.test(digits)) return undefined;
  let value = 0n;
  for (const c of digits.replaceAll('_', '')) {
    const digit = Number.parseInt(c, 36);
    if (digit >= radix) return undefined;
    value = value * BigInt(radix) + BigInt(digit);
  }
  return int(sign === '-' ? -value : value);
}

/** `float(value)`; `undefined` for what is no number. */
export function toNumber(value: Value): number | undefined {
  const text = textOf(value);
  if (text === undefined) {
    if (value instanceof Float) return value.value;
    if (typeof value === 'boolean' || isInt(value)) return finite(Number(value));
    refuseUndefined(value);
    return undefined;
  }
  const bare = bareNumber(text);
  if (DECIMAL.test(bare)) return Number(bare.replaceAll('_', ''));
  const [found, sign, infinite] = SPECIAL.exec(bare) ?? [];
  if (found === undefined) return undefined;
  return infinite === undefined ? Number.NaN : sign === '-' ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
}

function finite(value: number): number {
  if (!Number.isFinite(value)) throw new Fault('int too large to convert to float');
  return value;
}
