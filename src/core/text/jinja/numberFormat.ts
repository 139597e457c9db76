/** Numbers in a given notation, as `%` and `format` write them. */
import { exponentText, fixed, floatText, significant } from './decimals.ts';
import type { Budget } from './fault.ts';
import type { Int } from './values.ts';

/** Fractions have at most 1074 digits; more are zeros. */
const MAX_DIGITS = 1100;

export interface RealFormat {
  /** One of `e f g %`, or '' for the shortest text that reads back the same. */
  readonly type: string;
  readonly precision: number | undefined;
  /** Keeps the point and the zeros behind it. */
  readonly alternate: boolean;
}

/** The size of a number, without its sign. */
export function realText(value: number, format: RealFormat, budget: Budget): string {
  if (Number.isNaN(value)) return 'nan';
  const size = Math.abs(value);
  if (!Number.isFinite(size)) return 'inf';
  const { type, alternate } = format;
  const digits = format.precision ?? 6;
  const exact = Math.min(digits, MAX_DIGITS);
  budget.text(digits + 310);
  const zeros = '0'.repeat(digits - exact);
  switch (type) {
    case 'f':
      return dotted(fixed(size, exact) + zeros, alternate);
    case '%':
      return `${dotted(fixed(size * 100, exact) + zeros, alternate)}%`;
    case 'e': {
      const { digits: text, exponent } = significant(size, exact + 1);
      return scientific(text + zeros, exponent, alternate);
    }
    case 'g':
      return general(size, Math.max(1, exact), alternate, 0);
    default:
      return format.precision === undefined
        ? shortest(size, alternate)
        : general(size, Math.max(1, exact), alternate, 1);
  }
}

function shortest(size: number, alternate: boolean): string {
  const text = floatText(size);
  return alternate && !text.includes('.') ? text.replace('e', '.e') : text;
}

function dotted(text: string, alternate: boolean): string {
  return alternate && !text.includes('.') ? `${text}.` : text;
}

function scientific(digits: string, exponent: number, alternate: boolean): string {
  const point = digits.length > 1 || alternate ? '.' : '';
  return digits.slice(0, 1) + point + digits.slice(1) + exponentText(exponent);
}

/** `precision` significant digits, in whichever notation is shorter. `fraction` digits stay behind the point at least. */
function general(size: number, precision: number, alternate: boolean, fraction: 0 | 1): string {
  const { digits, exponent } = significant(size, precision);
  const kept = alternate ? digits : digits.replace(/0+$/, '') || '0';
  if (exponent < -4 || exponent >= precision - fraction) return scientific(kept, exponent, alternate);
  if (exponent < 0) return `0.${'0'.repeat(-exponent - 1)}${kept}`;
  const whole = kept.slice(0, exponent + 1).padEnd(exponent + 1, '0');
  const rest = kept.slice(exponent + 1) || (fraction === 1 ? '0' : '');
  return rest === '' && !alternate ? whole : `${whole}.${rest}`;
}

const RADIX: Readonly<Record<string, number>> = { b: 2, o: 8, x: 16, X: 16 };

/** The size of an integer in a base, without its sign; `prefix` is what `#` puts before it. */
export function intDigits(value: Int, type: string): { readonly digits: string; readonly prefix: string } {
  const text = value.toString(RADIX[type] ?? 10).replace('-', '');
  if (RADIX[type] === undefined) return { digits: text, prefix: '' };
  return { digits: type === 'X' ? text.toUpperCase() : text, prefix: `0${type}` };
}
