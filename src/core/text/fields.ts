/** Reading fields of a foreign JSON value. Every failure is a `FormatError` that names the path, what it holds and what it should. */
import { FormatError } from '../errors.ts';

/** A JSON object with the path it was found at. */
export interface Fields {
  readonly value: Readonly<Record<string, unknown>>;
  readonly path: string;
}

export function malformed(path: string, expected: string, got: unknown): FormatError {
  return new FormatError(`${path}: expected ${expected}, got ${describe(got)}`);
}

function describe(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (value === null) return 'null';
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (typeof value === 'string') return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value);
  return typeof value === 'object' ? 'an object' : String(value);
}

export function fieldsOf(value: unknown, path: string): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw malformed(path, 'an object', value);
  return { value: value as Record<string, unknown>, path };
}

function own(fields: Fields, key: string): unknown {
  return Object.hasOwn(fields.value, key) ? fields.value[key] : undefined;
}

/** An object, or `undefined` where the field is absent or null. */
export function optionalFields(fields: Fields, key: string): Fields | undefined {
  const value = own(fields, key);
  return value === undefined || value === null ? undefined : fieldsOf(value, `${fields.path}.${key}`);
}

export function objectField(fields: Fields, key: string): Fields {
  return fieldsOf(own(fields, key), `${fields.path}.${key}`);
}

export function arrayField(fields: Fields, key: string): readonly unknown[] {
  const value = own(fields, key);
  if (!Array.isArray(value)) throw malformed(`${fields.path}.${key}`, 'an array', value);
  return value;
}

export function stringField(fields: Fields, key: string, absent?: string): string {
  const value = own(fields, key) ?? absent;
  if (typeof value !== 'string') throw malformed(`${fields.path}.${key}`, 'a string', value);
  return value;
}

/** A string, or `undefined` where the field is absent or null. */
export function optionalString(fields: Fields, key: string): string | undefined {
  const value = own(fields, key);
  return value === undefined || value === null ? undefined : stringField(fields, key);
}

/** A string of exactly one character. */
export function charField(fields: Fields, key: string): string {
  const value = stringField(fields, key);
  if ([...value].length !== 1) throw malformed(`${fields.path}.${key}`, 'one character', value);
  return value;
}

export function booleanField(fields: Fields, key: string, absent?: boolean): boolean {
  const value = own(fields, key) ?? absent;
  if (typeof value !== 'boolean') throw malformed(`${fields.path}.${key}`, 'true or false', value);
  return value;
}

export function oneOfField<const T extends string>(
  fields: Fields,
  key: string,
  options: readonly T[],
  absent?: NoInfer<T>,
): T {
  const value = own(fields, key) ?? absent;
  const found = options.find((option) => option === value);
  if (found === undefined) throw malformed(`${fields.path}.${key}`, options.join(' | '), value);
  return found;
}

/** An integer from `least` to `most`. */
export function integerField(fields: Fields, key: string, least: number, most: number, absent?: number): number {
  return integerOf(own(fields, key) ?? absent, `${fields.path}.${key}`, least, most);
}

export function integerOf(value: unknown, path: string, least: number, most: number): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < least || value > most) {
    throw malformed(path, `an integer from ${least} to ${most}`, value);
  }
  return value;
}
