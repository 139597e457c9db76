import { FormatError, messageOf } from '../core/errors.ts';

/** Reads little-endian records front to back; every length is checked against what is left. */
export class RecordReader {
  readonly name: string;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #decoder = new TextDecoder('utf-8', { fatal: true });
  #at = 0;

  constructor(bytes: Uint8Array, name: string) {
    this.name = name;
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Bytes not read yet. */
  get left(): number {
    return this.#bytes.length - this.#at;
  }

  i32(what: string, least: number, most: number): number {
    return this.#within(what, this.#view.getInt32(this.#take(what, 4), true), least, most);
  }

  u64(what: string, least: number, most: number): number {
    return this.#within(what, Number(this.#view.getBigUint64(this.#take(what, 8), true)), least, most);
  }

  text(bytes: number): string {
    const at = this.#take('a name', bytes);
    try {
      return this.#decoder.decode(this.#bytes.slice(at, at + bytes));
    } catch (error) {
      throw new FormatError(`${this.name}: a name at byte ${at}: expected UTF-8: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  /** A copy of `count` binary32 numbers. */
  floats(count: number): Float32Array {
    const at = this.#take('values', 4 * count);
    const out = new Float32Array(count);
    for (let i = 0; i < count; i++) out[i] = this.#view.getFloat32(at + 4 * i, true);
    return out;
  }

  /** Checks that nothing is left. */
  end(): void {
    if (this.left)
      throw new FormatError(`${this.name}: expected the end at byte ${this.#at}, got ${this.left} bytes more`);
  }

  #take(what: string, bytes: number): number {
    if (bytes > this.left) {
      throw new FormatError(
        `${this.name}: ${what}: expected ${bytes} bytes at byte ${this.#at}, got ${this.left}; the file is truncated or of another kind`,
      );
    }
    this.#at += bytes;
    return this.#at - bytes;
  }

  #within(what: string, value: number, least: number, most: number): number {
    if (value >= least && value <= most) return value;
    throw new FormatError(
      `${this.name}: ${what}: expected ${least} to ${Math.floor(most)}, got ${value}; the file is damaged or of another kind`,
    );
  }
}
