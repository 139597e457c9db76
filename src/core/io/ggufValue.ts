/** Metadata values of GGUF files. */
import { FormatError } from '../errors.ts';
import type { Cursor } from './ggufCursor.ts';
import type { StringList } from './ggufStrings.ts';
import { takeStrings } from './ggufStrings.ts';
import { decodeUtf8 } from './text.ts';

/**
 * A metadata value. Integers beyond 2^53 are `bigint`. Arrays of numbers up to 32 bits and of floats are typed arrays,
 * other arrays are plain ones.
 */
export type GgufValue =
  | number
  | bigint
  | boolean
  | string
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | readonly GgufValue[];

/** A value as it is read: arrays of strings stay bytes. */
export type RawValue = Exclude<GgufValue, readonly GgufValue[]> | StringList | readonly RawValue[];

/** Chat templates, the longest strings, stay below 100 kB; embedded tokenizer files below 40 MB. */
const MAX_STRING_BYTES = 2 ** 26;
/** Arrays within arrays; published files have none. */
const MAX_ARRAY_DEPTH = 4;
/** Array elements per file that become objects of their own. The largest vocabularies have 0.8 million with merges. */
const MAX_ITEMS = 2 ** 21;

const STRING = 8;
const ARRAY = 9;
const SCALAR_BYTES: ReadonlyMap<number, number> = new Map([
  [0, 1],
  [1, 1],
  [2, 2],
  [3, 2],
  [4, 4],
  [5, 4],
  [6, 4],
  [7, 1],
  [10, 8],
  [11, 8],
  [12, 8],
]);

/** Reads the values of one file, and counts what they take. */
export class ValueReader {
  readonly #cursor: Cursor;
  readonly #file: string;
  #items = 0;

  constructor(cursor: Cursor, file: string) {
    this.#cursor = cursor;
    this.#file = file;
  }

  async string(what: string, maxBytes = MAX_STRING_BYTES): Promise<string> {
    const c = this.#cursor;
    await c.fill(8, what);
    const length = c.u64();
    if (length > maxBytes) this.#fail(what, `a string of at most ${maxBytes} bytes, got ${length}`);
    await c.fill(length, what);
    const text = decodeUtf8(c.bytes.subarray(c.at, c.at + length));
    c.skip(length);
    return text;
  }

  /** A value with its type number before it. */
  async typed(what: string): Promise<RawValue> {
    await this.#cursor.fill(4, what);
    return this.#value(this.#cursor.u32(), what, 0);
  }

  #value(type: number, what: string, depth: number): Promise<RawValue> | RawValue {
    if (type === STRING) return this.string(what);
    if (type === ARRAY) return this.#array(what, depth + 1);
    return this.#scalar(type, what);
  }

  async #scalar(type: number, what: string): Promise<RawValue> {
    const c = this.#cursor;
    const size = SCALAR_BYTES.get(type) ?? this.#fail(what, `a value type from 0 to 12, got ${type}`);
    await c.fill(size, what);
    const value = this.#scalarAt(type, c.at, what);
    c.skip(size);
    return value;
  }

  #scalarAt(type: number, at: number, what: string): number | bigint | boolean {
    const view = this.#cursor.view;
    switch (type) {
      case 0:
        return view.getUint8(at);
      case 1:
        return view.getInt8(at);
      case 2:
        return view.getUint16(at, true);
      case 3:
        return view.getInt16(at, true);
      case 4:
        return view.getUint32(at, true);
      case 5:
        return view.getInt32(at, true);
      case 6:
        return view.getFloat32(at, true);
      case 7: {
        const byte = view.getUint8(at);
        if (byte > 1) this.#fail(what, `0 or 1 for a boolean, got ${byte}`);
        return byte === 1;
      }
      case 10:
        return narrowed(view.getBigUint64(at, true));
      case 11:
        return narrowed(view.getBigInt64(at, true));
      default:
        return view.getFloat64(at, true);
    }
  }

  async #array(what: string, depth: number): Promise<RawValue> {
    const c = this.#cursor;
    if (depth > MAX_ARRAY_DEPTH) this.#fail(what, `arrays at most ${MAX_ARRAY_DEPTH} deep`);
    await c.fill(12, what);
    const type = c.u32();
    const count = c.u64();
    if (type === STRING) return this.#strings(count, what);
    if (type === ARRAY) {
      this.#take(count, 12, what);
      const items: RawValue[] = [];
      for (let i = 0; i < count; i++) items.push(await this.#array(what, depth + 1));
      return items;
    }
    const size = SCALAR_BYTES.get(type) ?? this.#fail(what, `an element type from 0 to 12, got ${type}`);
    await c.fill(count * size, what);
    const typed = typedArray(type, c.bytes.slice(c.at, c.at + count * size));
    if (typed !== undefined) {
      c.skip(count * size);
      return typed;
    }
    this.#take(count, size, what);
    const items: (number | bigint | boolean)[] = [];
    for (let i = 0; i < count; i++, c.skip(size)) items.push(this.#scalarAt(type, c.at, what));
    return items;
  }

  async #strings(count: number, what: string): Promise<StringList> {
    const c = this.#cursor;
    this.#take(count, 8, what);
    let taken = takeStrings(c.bytes, c.view, c.at, count);
    while (taken === undefined) {
      await c.more(what);
      taken = takeStrings(c.bytes, c.view, c.at, count);
    }
    c.skip(taken.end - c.at);
    return taken.list;
  }

  /** Checks a count before anything is made for it. */
  #take(count: number, bytesEach: number, what: string): void {
    const possible = Math.floor(this.#cursor.left / bytesEach);
    if (count > possible) this.#fail(what, `at most ${possible} elements in the rest of the file, got ${count}`);
    this.#items += count;
    if (this.#items > MAX_ITEMS) this.#fail(what, `at most ${MAX_ITEMS} array elements in a file, got more`);
  }

  #fail(what: string, expected: string): never {
    throw new FormatError(`${this.#file}: ${what}: expected ${expected}`);
  }
}

/** `bytes` begins at an aligned address of its own buffer. */
function typedArray(type: number, bytes: Uint8Array): RawValue | undefined {
  const { buffer, byteOffset, length } = bytes;
  switch (type) {
    case 0:
      return bytes;
    case 1:
      return new Int8Array(buffer, byteOffset, length);
    case 2:
      return new Uint16Array(buffer, byteOffset, length / 2);
    case 3:
      return new Int16Array(buffer, byteOffset, length / 2);
    case 4:
      return new Uint32Array(buffer, byteOffset, length / 4);
    case 5:
      return new Int32Array(buffer, byteOffset, length / 4);
    case 6:
      return new Float32Array(buffer, byteOffset, length / 4);
    case 12:
      return new Float64Array(buffer, byteOffset, length / 8);
    default:
      return undefined;
  }
}

function narrowed(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
