/**
 * How keys and values lie in a CPU cache. Slots are taken in **chunks** of 32 positions; all chunks of a key head lie behind
 * one another, so that a sequence with consecutive blocks is one stream, and each is read front to back:
 *
 *     keys:   2 halves × keySteps × [16 positions] words
 *     scales: 32 × f32 (16-bit caches), 32 × f32 for every 32 dimensions (8-bit caches)
 *     values: valueGroups × valueSteps × [16 dims] words
 *     scales: the same
 *
 * A word is 4 bytes. In `f32` caches it is a number: step `s` of the keys is dimension `s`, step `s` of the values is
 * position `s`. In `i16` caches it is a pair of 16-bit integers — dimensions `2s, 2s + 1`, or positions `2s, 2s + 1` — for
 * the integer dot product of pairs, which is exact, the same in every engine and twice as fast as floats.
 *
 * A 16-bit key is scaled so that its norm is `KEY_NORM`; with a query of the same norm no partial sum of products can
 * leave 32 bits (Cauchy–Schwarz). A value is scaled so that its largest element is `VALUE_MAX`, and attention weights
 * become integers up to `WEIGHT_MAX`: 32 · 8191 · 8191 < 2³¹. Errors are a little below those of half precision.
 *
 * In `i8` caches a word is 2 bytes, a pair of 8-bit integers that are widened when read. Every 32 dimensions of a key or
 * value have a scale of their own: the largest of them becomes 127, as in the storage type Q8_0.
 */
export type CacheKind = 'f32' | 'i16' | 'i8';

/** Positions of a chunk. */
export const CHUNK = 32;
export const CHUNK_SHIFT = 5;
/** Positions, or dimensions, that one pass of the tile covers: four vectors. */
export const WIDE = 16;
/** Bytes of one step of a tile: 16 words. */
export const STEP_BYTES = 64;
export const SCALE_BYTES = CHUNK * 4;

export const KEY_NORM = 32767;
export const VALUE_MAX = 8191;
export const WEIGHT_MAX = 8191;
/**
 * Largest sum of weights that meet 16-bit keys as values: with what rounding adds, (65500 + 16) · 32767 < 2³¹.
 */
export const WEIGHT_SUM = 65500;
/** Largest integer of an 8-bit cache, and the dimensions that share a scale there. */
export const BYTE_MAX = 127;
export const BYTE_GROUP = 32;
export const BYTE_GROUP_SHIFT = 5;

/** Bytes of one step of a cache. */
export function stepBytesOf(kind: CacheKind): number {
  return kind === 'i8' ? STEP_BYTES / 2 : STEP_BYTES;
}

/** Bytes of the scales behind keys, or values, of `dim` dimensions in one chunk. */
function scaleBytes(kind: CacheKind, dim: number): number {
  if (kind === 'f32') return 0;
  return kind === 'i16' ? SCALE_BYTES : Math.ceil(dim / BYTE_GROUP) * SCALE_BYTES;
}

export interface CacheGeometry {
  readonly kind: CacheKind;
  readonly keySteps: number;
  readonly valueSteps: number;
  readonly valueGroups: number;
  /** Byte positions inside a chunk. */
  readonly valuesAt: number;
  readonly chunkBytes: number;
  /** Bytes of the values of a chunk that are turned out of its keys, see `attendLatent.ts`. */
  readonly turnedBytes: number;
}

/**
 * The layout for heads of `keyDim` and `valueDim` elements. With `latent` chunks have no values: those are turned out of
 * the keys, up to four steps at a time, so that up to three steps behind the keys are touched.
 */
export function geometryOf(kind: CacheKind, keyDim: number, valueDim: number, latent = false): CacheGeometry {
  const paired = kind !== 'f32';
  const keySteps = paired ? Math.ceil(keyDim / 2) : keyDim;
  const valueSteps = paired ? CHUNK / 2 : CHUNK;
  const valueGroups = Math.ceil(valueDim / WIDE);
  const stepBytes = stepBytesOf(kind);
  const valuesAt = 2 * keySteps * stepBytes + scaleBytes(kind, keyDim);
  const valueBytes = valueGroups * valueSteps * stepBytes;
  return {
    ...{ kind, keySteps, valueSteps, valueGroups, valuesAt },
    chunkBytes: valuesAt + (latent ? 3 * stepBytes : valueBytes + scaleBytes(kind, valueDim)),
    turnedBytes: latent ? valueBytes : 0,
  };
}

/**
 * Chunks of a segment. Contexts are computed in segments that are folded one after the other, by one thread or by several:
 * the order, and with it every bit of the result, is the same.
 */
export const SEGMENT_CHUNKS = 8;

/**
 * Bytes of scratch memory that a thread needs for a tile of `queries` queries: outputs of a segment, and of all so far, and
 * the turned values of a chunk.
 */
export function scratchBytes(g: CacheGeometry, queries: number): number {
  return queriesAt(queries) + queries * (g.keySteps * 4 + 2 * g.valueGroups * STEP_BYTES) + g.turnedBytes;
}

/** Scratch memory of a thread, in bytes: see `attend.ts`. */
export const SCRATCH = {
  /** Two queries × 32 scores. */
  scores: 0,
  /** Two queries × 32 weights: floats, or pairs of integers. */
  weights: 256,
  /** Two queries × what the old sums and the chunk's sums are multiplied by. */
  factors: 512,
  /** Two queries × 32 value scales over the largest one that the query sees, or weights times scales as integers. */
  valueScales: 576,
  /** Two queries × that largest scale over `WEIGHT_MAX`. */
  unit: 832,
  /** Per query: running sums (4 lanes) and maximum of the segment, score factor, last position; both of all segments. */
  states: 848,
} as const;
export const STATE_BYTES = 48;
export const STATE = { sum: 0, max: 16, factor: 20, last: 24, totalMax: 28, totalSum: 32 } as const;

/** Where the queries of a tile of integers begin; the outputs follow. */
export function queriesAt(queries: number): number {
  return SCRATCH.states + queries * STATE_BYTES;
}

/** Floats in front of the sums of one query in the result of a segment: maximum, denominator, padding. */
export const PARTIAL_HEADER = 4;
