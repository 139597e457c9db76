/** Values of command-line options, checked where they are read so that a mistake names its option. */
import { InvalidArgumentError } from 'commander';
import type { LoraAdapterSpec } from '../core/sdk/adapters.ts';

/** Reads a whole number in a range. */
export function whole(min: number, max = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = /^[+-]?\d+$/.test(text.trim()) ? Number(text) : Number.NaN;
    if (!(Number.isSafeInteger(value) && value >= min && value <= max)) {
      const range = max < Number.MAX_SAFE_INTEGER ? `from ${min} to ${max}` : `of at least ${min}`;
      throw new InvalidArgumentError(`expected a whole number ${range}, got ${JSON.stringify(text)}.`);
    }
    return value;
  };
}

/** Reads a finite number in a range. */
export function real(min: number, max = Number.POSITIVE_INFINITY): (text: string) => number {
  return (text) => {
    const value = text.trim() === '' ? Number.NaN : Number(text);
    if (!(Number.isFinite(value) && value >= min && value <= max)) {
      const range = max < Number.POSITIVE_INFINITY ? `from ${min} to ${max}` : `of at least ${min}`;
      throw new InvalidArgumentError(`expected a number ${range}, got ${JSON.stringify(text)}.`);
    }
    return value;
  };
}

/** Reads `4,8` as whole numbers; the empty text is an empty list. */
export function wholeList(min: number, max: number): (text: string) => number[] {
  const one = whole(min, max);
  return (text) =>
    text
      .split(',')
      .filter((part) => part.trim() !== '')
      .map(one);
}

/** Reads `a;b` as a list of names. */
export function names(text: string): string[] {
  const list = text
    .split(';')
    .map((part) => part.trim())
    .filter((part) => part !== '');
  if (list.length === 0) throw new InvalidArgumentError('expected at least one name.');
  return list;
}

/** Adds the types of `a,b` to those of earlier options. */
export function typeList(text: string, earlier: readonly string[]): string[] {
  const list = text
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '');
  if (list.length === 0) throw new InvalidArgumentError('expected at least one type.');
  return [...earlier, ...list];
}

/** Adds the adapter of `ALIAS=SOURCE` to those of earlier options. */
export function adapterSpec(text: string, earlier: readonly LoraAdapterSpec[] = []): LoraAdapterSpec[] {
  const at = text.indexOf('=');
  const [alias, source] = [text.slice(0, at).trim(), text.slice(at + 1).trim()];
  if (at < 0 || alias === '' || source === '') {
    throw new InvalidArgumentError(`expected ALIAS=SOURCE, got ${JSON.stringify(text)}.`);
  }
  return [...earlier, { alias, source }];
}
