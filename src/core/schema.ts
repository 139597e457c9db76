/** A small typed parser for configuration files: it knows its output type and names the path of a bad value. */
import { ConfigError } from './errors.ts';

export interface Schema<T> {
  /** Throws `ConfigError` when `value` does not fit; `path` is its place, `''` for the root. */
  parse(value: unknown, path: string): T;
  /** Older names of the field, tried in order when its own is absent. */
  readonly aliases?: readonly string[];
}

export type Infer<S> = S extends Schema<infer T> ? T : never;

/** Larger than any list of layers, experts or frequencies. */
const MAX_ITEMS = 1 << 16;
/** Counts are dimensions and positions; beyond this an index would leave 32 bits. */
const MAX_COUNT = 2 ** 31 - 1;
/** Characters of a bad value that a message quotes. */
const QUOTED = 60;

export function configError(path: string, expected: string, got: unknown): ConfigError {
  const shown = got === undefined ? 'nothing' : (JSON.stringify(got) ?? String(got)).slice(0, QUOTED);
  return new ConfigError(`${path || 'configuration'}: expected ${expected}, got ${shown}`);
}

function leaf<T>(expected: string, fits: (value: unknown) => value is T): Schema<T> {
  return {
    parse(value, path) {
      if (!fits(value)) throw configError(path, expected, value);
      return value;
    },
  };
}

const isNumber = (v: unknown): v is number => typeof v === 'number' && Number.isFinite(v);
const isIndex = (v: unknown): v is number => Number.isInteger(v) && (v as number) >= 0 && (v as number) <= MAX_COUNT;

export const number = leaf('a number', isNumber);
export const positive = leaf('a positive number', (v): v is number => isNumber(v) && v > 0);
export const count = leaf('a positive integer', (v): v is number => isIndex(v) && v > 0);
/** A positive integer up to `max`, for numbers that say how much is allocated. */
export const upTo = (max: number) =>
  leaf(`an integer from 1 to ${max}`, (v): v is number => isIndex(v) && v > 0 && v <= max);
export const index = leaf('an integer >= 0', isIndex);
export const string = leaf('a string', (v): v is string => typeof v === 'string');
export const boolean = leaf('true or false', (v): v is boolean => typeof v === 'boolean');
export const unknown: Schema<unknown> = { parse: (value) => value };

export function oneOf<const T extends string>(...all: readonly T[]): Schema<T> {
  return leaf(all.join(' | '), (v): v is T => all.includes(v as T));
}

/** A string that stands for something: `named({ silu: 'silu', swish: 'silu' })`. */
export function named<T>(table: Readonly<Record<string, T>>): Schema<T> {
  const names = Object.keys(table);
  return {
    parse(value, path) {
      if (typeof value !== 'string' || !names.includes(value)) throw configError(path, names.join(' | '), value);
      return table[value] as T;
    },
  };
}

export function array<T>(item: Schema<T>): Schema<readonly T[]> {
  return {
    parse(value, path) {
      if (!Array.isArray(value)) throw configError(path, 'a list', value);
      if (value.length > MAX_ITEMS) throw configError(path, `a list of at most ${MAX_ITEMS}`, `${value.length} items`);
      return value.map((v, i) => item.parse(v, `${path}[${i}]`));
    },
  };
}

/** `null` and absence both mean "not given". */
export function optional<T>(inner: Schema<T>): Schema<T | undefined> {
  return { ...inner, parse: (value, path) => (value == null ? undefined : inner.parse(value, path)) };
}

/** `otherwise` where nothing or `null` is given. */
export function or<T>(inner: Schema<T>, otherwise: T): Schema<T> {
  return { ...inner, parse: (value, path) => (value == null ? otherwise : inner.parse(value, path)) };
}

/** `otherwise` where the key is absent; `null` says "none". */
export function absent<T>(inner: Schema<T>, otherwise: T): Schema<T | undefined> {
  return {
    ...inner,
    parse(value, path) {
      if (value === undefined) return otherwise;
      return value === null ? undefined : inner.parse(value, path);
    },
  };
}

/** The field may also go by older names. */
export function alias<T>(inner: Schema<T>, ...aliases: readonly string[]): Schema<T> {
  return { ...inner, aliases };
}

export type Fields = Readonly<Record<string, Schema<unknown>>>;
export type Parsed<F extends Fields> = { readonly [K in keyof F]: Infer<F[K]> };

export interface ObjectSchema<F extends Fields> extends Schema<Parsed<F>> {
  /** The same with more fields, or other ones of the same name. */
  extend<G extends Fields>(more: G): ObjectSchema<Omit<F, keyof G> & G>;
}

/** Unknown keys are ignored: published files carry dozens that only training reads. */
export function object<F extends Fields>(fields: F): ObjectSchema<F> {
  const entries = Object.entries(fields);
  return {
    extend: (more) => object({ ...fields, ...more }) as never,
    parse(value, path) {
      if (!isRecord(value)) throw configError(path, 'an object', value);
      const out: Record<string, unknown> = {};
      for (const [key, schema] of entries) {
        const at = [key, ...(schema.aliases ?? [])].find((name) => value[name] !== undefined) ?? key;
        out[key] = schema.parse(value[at], path ? `${path}.${at}` : at);
      }
      return out as Parsed<F>;
    },
  };
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
