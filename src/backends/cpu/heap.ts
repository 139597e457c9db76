import { InferenceError } from '../../core/errors.ts';

/** Start and length of everything a `Heap` hands out: a cache line pair, and more than any vector. */
export const HEAP_ALIGN = 128;

interface Range {
  address: number;
  bytes: number;
}

/**
 * Allocates ranges of a growing address space: best fit from a list of free ranges in order of address, neighbours merged.
 * It knows nothing of the memory behind; `grow(bytes)` asks for at least that much more at the end and returns the new
 * end, or `undefined` when there is no more.
 */
export class Heap {
  readonly #free: Range[] = [];
  readonly #used = new Map<number, number>();
  readonly #grow: (bytes: number) => number | undefined;
  #end: number;
  #usedBytes = 0;

  constructor(start: number, end: number, grow: (bytes: number) => number | undefined) {
    this.#grow = grow;
    this.#end = start;
    this.#extend(end);
  }

  /** Bytes handed out. */
  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** Number of ranges handed out. */
  get ranges(): number {
    return this.#used.size;
  }

  /** The address of `bytes` free bytes, or `undefined` when there is no room left. */
  allocate(bytes: number): number | undefined {
    const size = Math.ceil(Math.max(bytes, 1) / HEAP_ALIGN) * HEAP_ALIGN;
    let at = this.#bestFit(size);
    if (at < 0) {
      const last = this.#free.at(-1);
      const atEnd = last && last.address + last.bytes === this.#end ? last.bytes : 0;
      const end = this.#grow(size - atEnd);
      if (end === undefined) return undefined;
      this.#extend(end);
      at = this.#bestFit(size);
    }
    const range = this.#free[at]!;
    const { address } = range;
    if (range.bytes === size) {
      this.#free.splice(at, 1);
    } else {
      range.address += size;
      range.bytes -= size;
    }
    this.#used.set(address, size);
    this.#usedBytes += size;
    return address;
  }

  free(address: number): void {
    const bytes = this.#used.get(address);
    if (bytes === undefined) throw new InferenceError(`free: expected an allocated address, got ${address}`);
    this.#used.delete(address);
    this.#usedBytes -= bytes;
    let at = 0;
    while (at < this.#free.length && this.#free[at]!.address < address) at++;
    this.#free.splice(at, 0, { address, bytes });
    this.#merge(at);
    this.#merge(at - 1);
  }

  #extend(end: number): void {
    const bytes = Math.floor((end - this.#end) / HEAP_ALIGN) * HEAP_ALIGN;
    if (bytes <= 0) return;
    this.#free.push({ address: this.#end, bytes });
    this.#end += bytes;
    this.#merge(this.#free.length - 2);
  }

  #bestFit(size: number): number {
    let best = -1;
    for (let i = 0; i < this.#free.length; i++) {
      const { bytes } = this.#free[i]!;
      if (bytes >= size && (best < 0 || bytes < this.#free[best]!.bytes)) best = i;
    }
    return best;
  }

  /** Joins free range `at` with the next one when they touch. */
  #merge(at: number): void {
    const range = this.#free[at];
    const next = this.#free[at + 1];
    if (!range || !next || range.address + range.bytes !== next.address) return;
    range.bytes += next.bytes;
    this.#free.splice(at + 1, 1);
  }
}
