import { StringList } from './ggufStrings.ts';
import type { GgufValue, RawValue } from './ggufValue.ts';

/**
 * Metadata of a GGUF file. `get` gives ordinary values; arrays of strings are decoded when they are first asked for, as
 * ordinary arrays. `strings` gives them undecoded.
 */
export class GgufMetadata implements ReadonlyMap<string, GgufValue> {
  readonly #raw: ReadonlyMap<string, RawValue>;

  constructor(raw: ReadonlyMap<string, RawValue>) {
    this.#raw = raw;
  }

  get size(): number {
    return this.#raw.size;
  }

  has(key: string): boolean {
    return this.#raw.has(key);
  }

  get(key: string): GgufValue | undefined {
    const value = this.#raw.get(key);
    return value === undefined ? undefined : decoded(value);
  }

  /** An array of strings as bytes; `undefined` when the key is absent or holds something else. */
  strings(key: string): StringList | undefined {
    const value = this.#raw.get(key);
    return value instanceof StringList ? value : undefined;
  }

  keys(): MapIterator<string> {
    return this.#raw.keys();
  }

  *values(): MapIterator<GgufValue> {
    for (const value of this.#raw.values()) yield decoded(value);
  }

  *entries(): MapIterator<[string, GgufValue]> {
    for (const [key, value] of this.#raw) yield [key, decoded(value)];
  }

  [Symbol.iterator](): MapIterator<[string, GgufValue]> {
    return this.entries();
  }

  forEach(visit: (value: GgufValue, key: string, map: ReadonlyMap<string, GgufValue>) => void, self?: unknown): void {
    for (const [key, value] of this) visit.call(self, value, key, this);
  }
}

function decoded(value: RawValue): GgufValue {
  if (value instanceof StringList) return value.toArray();
  return Array.isArray(value) ? (value as readonly RawValue[]).map(decoded) : (value as GgufValue);
}
