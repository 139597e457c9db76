/** Values of the caller as values of templates. */
import { Fault } from './fault.ts';
import type { Value } from './values.ts';
import { Dict, Float } from './values.ts';

const MAX_DEPTH = 128;

/**
 * Plain data as a template sees it: whole numbers are integers, entries without a value are left out, and anything that
 * is no plain data (bytes, class instances) becomes the name of its kind. Values of templates stay.
 */
export function toValue(data: unknown, depth = 0): Value {
  switch (typeof data) {
    case 'string':
    case 'boolean':
      return data;
    case 'number':
      if (Number.isSafeInteger(data)) return data || 0;
      return Number.isInteger(data) ? BigInt(data) : new Float(data);
    case 'bigint':
      return Number.isSafeInteger(Number(data)) ? Number(data) : data;
    case 'object':
      return data === null ? null : objectValue(data, depth + 1);
    case 'undefined':
      return null;
    default:
      return `<${typeof data}>`;
  }
}

function objectValue(data: object, depth: number): Value {
  if (depth > MAX_DEPTH) throw new Fault(`expected data nested at most ${MAX_DEPTH} deep, got more (or a cycle)`);
  if (data instanceof Dict || data instanceof Float) return data;
  if (Array.isArray(data)) return data.map((item) => toValue(item, depth));
  const prototype: unknown = Object.getPrototypeOf(data);
  const plain = prototype === null || Object.getPrototypeOf(prototype) === null;
  if (!plain && !(data instanceof Map)) return `<${data.constructor?.name ?? 'object'}>`;
  const dict = new Dict();
  const entries: Iterable<readonly [unknown, unknown]> = data instanceof Map ? data : Object.entries(data);
  for (const [key, value] of entries) if (value !== undefined) dict.setText(String(key), toValue(value, depth));
  return dict;
}
