/** Rows of a checkpoint on their way into the form that the kernels read; see `formats.ts`. */
import { i32 } from '../../../quant/format.ts';

/** Rows that lie interleaved, vector by vector. */
export const SLAB = 8;
/** Columns of a unit: what a kernel decodes at a time. */
export const UNIT = 32;

const LOW = 0x0f0f0f0f;
const PAIRS = 0x03030303;
const BITS = 0x01010101;

/** Where one row goes: vectors of four words and single words, each `SLAB` apart from the next of its row. */
export class RowTarget {
  readonly #words: Uint32Array;
  #vectors = 0;
  #singles = 0;

  constructor(words: Uint32Array) {
    this.#words = words;
  }

  /** `vectors` and `singles`: positions of the first of each in the array. */
  place(vectors: number, singles: number): void {
    this.#vectors = vectors;
    this.#singles = singles;
  }

  /** Word `i` of the vectors. */
  vector(i: number, value: number): void {
    this.#words[this.#vectors + (i >> 2) * 4 * SLAB + (i & 3)] = value;
  }

  /** Single word `i`. */
  word(i: number, value: number): void {
    this.#words[this.#singles + i * SLAB] = value;
  }

  /** Single word `i` of those that the rows of a slab have in common: they lie in one piece in front of the others. */
  shared(i: number, value: number): void {
    this.#words[this.#singles - (this.#singles % SLAB) + i] = value;
  }

  /** Puts a 16-bit number into half `i` of the single words from `first` on. */
  half(first: number, i: number, value: number): void {
    const at = this.#singles + (first + (i >> 1)) * SLAB;
    this.#words[at] = i & 1 ? (this.#words[at]! & 0xffff) | (value << 16) : value;
  }

  /** The four words at byte `from` become vector `v`. */
  copy(v: number, bytes: Uint8Array, from: number): void {
    for (let i = 0; i < 4; i++) this.vector(4 * v + i, i32(bytes, from + 4 * i));
  }
}

/** Low (`shift` 0) or high (4) nibbles of 32 bytes: those of the first 16 become low nibbles, the others high ones. */
export function nibbles(to: RowTarget, v: number, bytes: Uint8Array, from: number, shift: number): void {
  for (let i = 0; i < 4; i++) {
    const low = (i32(bytes, from + 4 * i) >>> shift) & LOW;
    const high = (i32(bytes, from + 16 + 4 * i) >>> shift) & LOW;
    to.vector(4 * v + i, low | (high << 4));
  }
}

/** Bits `shift` and `shift + 1` of 32 bytes in two words: quad `i` of 16 bytes at bit `2 i` of each byte of its word. */
export function pairs(to: RowTarget, first: number, bytes: Uint8Array, from: number, shift: number): void {
  for (let half = 0; half < 2; half++) {
    let word = 0;
    for (let i = 0; i < 4; i++) word |= ((i32(bytes, from + 16 * half + 4 * i) >>> shift) & PAIRS) << (2 * i);
    to.word(first + half, word);
  }
}

/** Bit `shift` of 32 bytes in one word. */
export function bitsOf(bytes: Uint8Array, from: number, shift: number): number {
  let word = 0;
  for (let i = 0; i < 8; i++) {
    const v = (i32(bytes, from + 4 * i) >>> shift) & BITS;
    word |= ((v | (v >>> 7) | (v >>> 14) | (v >>> 21)) & 15) << (4 * i);
  }
  return word;
}

/**
 * Q4_K and Q5_K: d and dmin, low nibbles of the eight scales, of the eight minima, then the upper two bits of the scales
 * in the lower half and of the minima in the upper half.
 */
export function affineScales(to: RowTarget, v: number, bytes: Uint8Array, at: number): void {
  const [first, second, third] = [i32(bytes, at + 4), i32(bytes, at + 8), i32(bytes, at + 12)];
  let scales = 0;
  let minima = 0;
  let high = 0;
  for (let g = 0; g < 4; g++) {
    const shift = 8 * g;
    const scale = first >>> shift;
    const minimum = second >>> shift;
    const low = third >>> shift;
    scales |= ((scale & 15) << (4 * g)) | ((low & 15) << (4 * g + 16));
    minima |= ((minimum & 15) << (4 * g)) | (((low >>> 4) & 15) << (4 * g + 16));
    high |= (((scale >>> 4) & 3) << (2 * g)) | (((scale >>> 6) & 3) << (2 * g + 8));
    high |= (((minimum >>> 4) & 3) << (2 * g + 16)) | (((minimum >>> 6) & 3) << (2 * g + 24));
  }
  to.vector(4 * v, i32(bytes, at));
  to.vector(4 * v + 1, scales);
  to.vector(4 * v + 2, minima);
  to.vector(4 * v + 3, high);
}

/** Nibbles that serve 8 + 8 elements become nibbles that serve 16 + 16: two runs of 16 columns in one vector. */
export function halfNibbles(to: RowTarget, v: number, bytes: Uint8Array, from: number): void {
  for (let i = 0; i < 4; i++) {
    // Quads 0–3 are the columns of the first run, 4–7 those of the second.
    const quad = (q: number) => {
      const run = q >> 2;
      const word = i32(bytes, from + 8 * run + 4 * (q & 1));
      return (q & 2 ? word >>> 4 : word) & LOW;
    };
    to.vector(4 * v + i, quad(i) | (quad(i + 4) << 4));
  }
}
