/**
 * Random numbers by counter: a draw depends on the seed and on where it is used, not on how many draws came before. So a
 * sequence gets the same numbers whatever runs beside it, and again after it was preempted.
 */

const M0 = 0xd2511f53;
const M1 = 0xcd9e8d57;
const W0 = 0x9e3779b9;
const W1 = 0xbb67ae85;
const ROUNDS = 10;

/** Upper 32 bits of the 64-bit product. Every partial sum stays below 2^32. */
function mulHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const t = aHigh * bLow + ((aLow * bLow) >>> 16);
  const u = aLow * bHigh + (t & 0xffff);
  return (aHigh * bHigh + (t >>> 16) + (u >>> 16)) >>> 0;
}

/** Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), in place on four words. */
export function philox4x32(words: Uint32Array, key0: number, key1: number): void {
  let c0 = words[0]!;
  let c1 = words[1]!;
  let c2 = words[2]!;
  let c3 = words[3]!;
  let k0 = key0;
  let k1 = key1;
  for (let round = 0; round < ROUNDS; round++) {
    const high0 = mulHigh(M0, c0);
    const low0 = Math.imul(M0, c0) >>> 0;
    const high1 = mulHigh(M1, c2);
    const low1 = Math.imul(M1, c2) >>> 0;
    c0 = (high1 ^ c1 ^ k0) >>> 0;
    c1 = low1;
    c2 = (high0 ^ c3 ^ k1) >>> 0;
    c3 = low0;
    k0 = (k0 + W0) >>> 0;
    k1 = (k1 + W1) >>> 0;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

/** A stream of uniform numbers, addressed by position. */
export class CounterRng {
  readonly #words = new Uint32Array(4);
  readonly #key0: number;
  readonly #key1: number;
  readonly #stream: number;

  /** `seed` is any safe integer, `stream` tells apart the choices of one request. */
  constructor(seed: number, stream: number) {
    this.#key0 = seed >>> 0;
    this.#key1 = Math.floor(seed / 2 ** 32) >>> 0;
    this.#stream = stream;
  }

  /** 53 random bits in [0, 1). */
  uniform(position: number): number {
    const words = this.#words;
    words[0] = position;
    words[1] = this.#stream;
    words[2] = 0;
    words[3] = 0;
    philox4x32(words, this.#key0, this.#key1);
    return ((words[0]! >>> 5) * 2 ** 26 + (words[1]! >>> 6)) / 2 ** 53;
  }
}

const SEED_STREAM = 0xffffffff;

/** The seed of the `index`-th request of an engine, for requests that bring none. */
export function deriveSeed(engineSeed: number, index: number): number {
  return new CounterRng(engineSeed, SEED_STREAM).uniform(index) * 2 ** 53;
}
