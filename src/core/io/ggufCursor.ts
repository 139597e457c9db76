import { FormatError } from '../errors.ts';
import type { ByteSource } from './source.ts';

/** The first read; with it most headers are complete. Later reads double, up to the bound. */
const FIRST_CHUNK_BYTES = 2 ** 21;
const MAX_CHUNK_BYTES = 2 ** 24;

/** Reads a source front to back, each byte once, in growing pieces. Numbers are little-endian. */
export class Cursor {
  readonly #source: ByteSource;
  readonly #maxBytes: number;
  #bytes: Uint8Array = new Uint8Array(0);
  #view: DataView = new DataView(this.#bytes.buffer);
  /** Position of `#bytes[0]` in the source. */
  #base = 0;
  #at = 0;
  #chunk = FIRST_CHUNK_BYTES;

  constructor(source: ByteSource, maxBytes: number) {
    this.#source = source;
    this.#maxBytes = maxBytes;
  }

  /** Position in the source. */
  get position(): number {
    return this.#base + this.#at;
  }

  /** Bytes of the source after the position. */
  get left(): number {
    return this.#source.size - this.position;
  }

  get bytes(): Uint8Array {
    return this.#bytes;
  }

  get view(): DataView {
    return this.#view;
  }

  /** Index of the position in `bytes`. */
  get at(): number {
    return this.#at;
  }

  /** Makes at least `count` bytes from the position on available; `what` is named when the source ends before. */
  async fill(count: number, what: string): Promise<void> {
    const have = this.#bytes.length - this.#at;
    if (count <= have) return;
    if (count > this.left) {
      throw new FormatError(
        `${this.#source.name}: ${what}: expected ${count} bytes at ${this.position}, got ${this.left}; ` +
          'the file is truncated or a length in it is wrong',
      );
    }
    if (this.position + count > this.#maxBytes) {
      throw new FormatError(`${this.#source.name}: ${what}: expected a header of at most ${this.#maxBytes} bytes`);
    }
    const want = Math.min(Math.max(count, have + this.#chunk), this.left);
    this.#chunk = Math.min(2 * this.#chunk, MAX_CHUNK_BYTES);
    const fresh = await this.#source.slice(this.position + have, this.position + want);
    // A plain view, so that a subclass with other rules for `slice` never gets here.
    let bytes: Uint8Array = new Uint8Array(fresh.buffer, fresh.byteOffset, fresh.length);
    if (have > 0) {
      bytes = new Uint8Array(want);
      bytes.set(this.#bytes.subarray(this.#at));
      bytes.set(fresh, have);
    }
    this.#base += this.#at;
    this.#at = 0;
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  /** Makes more bytes available than there are now. */
  more(what: string): Promise<void> {
    return this.fill(this.#bytes.length - this.#at + 1, what);
  }

  skip(count: number): void {
    this.#at += count;
  }

  u32(): number {
    this.#at += 4;
    return this.#view.getUint32(this.#at - 4, true);
  }

  /** A 64-bit count, exact up to 2^53: limits are far below. */
  u64(): number {
    return this.u32() + this.u32() * 2 ** 32;
  }
}
