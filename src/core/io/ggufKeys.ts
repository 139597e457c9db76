import { FormatError, UnsupportedError } from '../errors.ts';

/** Dimensions and positions; beyond this an index would leave 32 bits. */
const MAX_COUNT = 2 ** 31 - 1;

/** Metadata below the prefix of one architecture, checked as it is read. */
export class GgufKeys {
  readonly #metadata: ReadonlyMap<string, unknown>;
  readonly #arch: string;

  constructor(metadata: ReadonlyMap<string, unknown>, arch: string) {
    this.#metadata = metadata;
    this.#arch = arch;
  }

  /** The value, if it is a list. */
  list(key: string): readonly unknown[] | undefined {
    const value = this.#metadata.get(`${this.#arch}.${key}`);
    return Array.isArray(value) || ArrayBuffer.isView(value) ? Array.from(value as ArrayLike<unknown>) : undefined;
  }

  has(key: string): boolean {
    return this.#metadata.has(`${this.#arch}.${key}`);
  }

  /** A positive integer for each layer; one value stands for all. */
  perLayer(key: string, layers: number): readonly number[] {
    const list = this.list(key);
    if (list === undefined) return new Array<number>(layers).fill(this.count(key));
    if (list.length < layers) throw this.#bad(key, `${layers} entries`, list.length);
    return list.slice(0, layers).map((n) => {
      if (!Number.isInteger(n) || (n as number) < 1 || (n as number) > MAX_COUNT) throw this.#bad(key, 'counts', n);
      return n as number;
    });
  }

  /** The value; a list with one entry per layer stands for its entry when they are all the same. */
  get(key: string): unknown {
    const list = this.list(key);
    if (list === undefined) return this.#metadata.get(`${this.#arch}.${key}`);
    if (list.length && list.every((v) => v === list[0])) return list[0];
    throw new UnsupportedError(`${this.#arch}.${key}: expected one value for all layers, got different ones`, {
      feature: `${key} per layer`,
    });
  }

  optionalNumber(key: string): number | undefined {
    const value = this.get(key);
    if (value === undefined) return undefined;
    if (typeof value !== 'number' || !Number.isFinite(value)) throw this.#bad(key, 'a number', value);
    return value;
  }

  number(key: string): number {
    return this.optionalNumber(key) ?? this.#missing(key);
  }

  optionalCount(key: string): number | undefined {
    const value = this.optionalNumber(key);
    if (value === undefined) return undefined;
    if (!Number.isInteger(value) || value < 0 || value > MAX_COUNT) throw this.#bad(key, 'a count', value);
    return value;
  }

  /** A positive integer up to `max`. */
  count(key: string, max = MAX_COUNT): number {
    const value = this.optionalCount(key) ?? this.#missing(key);
    if (value === 0 || value > max) throw this.#bad(key, `a count from 1 to ${max}`, value);
    return value;
  }

  optionalBoolean(key: string): boolean | undefined {
    const value = this.get(key);
    if (value === undefined || typeof value === 'boolean') return value;
    throw this.#bad(key, 'true or false', value);
  }

  optionalString(key: string): string | undefined {
    const value = this.get(key);
    if (value === undefined || typeof value === 'string') return value;
    throw this.#bad(key, 'a string', value);
  }

  /** `bos`, `eos`. */
  tokenId(which: string): number | undefined {
    const value = this.#metadata.get(`tokenizer.ggml.${which}_token_id`);
    return typeof value === 'number' ? value : undefined;
  }

  #missing(key: string): never {
    throw this.#bad(key, 'a value', 'nothing');
  }

  #bad(key: string, expected: string, got: unknown): FormatError {
    return new FormatError(`${this.#arch}.${key}: expected ${expected}, got ${String(got).slice(0, 60)}`);
  }
}
