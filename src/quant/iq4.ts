import { storageType } from '../core/dtype.ts';
import { half, putHalf, type QuantFormat, u16 } from './format.ts';
import { putNibbles } from './legacy.ts';
import { clamp, extreme, nearest, reciprocal, sumOfSquares, weigh, ZERO_GROUP } from './search.ts';

const f = Math.fround;

/** The 16 values of a code: finer near zero, where weights are dense. */
const VALUES = Int8Array.of(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);

/** 16 code bytes at `at` to 32 elements, nibbles as in Q4_0. */
function decode(bytes: Uint8Array, at: number, scale: number, out: Float32Array, o: number): void {
  for (let j = 0; j < 16; j++) {
    const q = bytes[at + j]!;
    out[o + j] = scale * VALUES[q & 15]!;
    out[o + 16 + j] = scale * VALUES[q >> 4]!;
  }
}

const LEAST = VALUES[0]!;
const GREATEST = VALUES[15]!;
/** By whole number above the least value: index of the largest value that is not above it. */
const BELOW = Uint8Array.from({ length: GREATEST - LEAST }, (_, i) => VALUES.findLastIndex((v) => v <= i + LEAST));

/** Index of the value nearest to `x`; of two equally near ones the larger. */
function nearestValue(x: number): number {
  if (x <= LEAST) return 0;
  if (x >= GREATEST) return 15;
  const low = BELOW[Math.floor(x) - LEAST]!;
  return f(x - VALUES[low]!) < f(VALUES[low + 1]! - x) ? low : low + 1;
}

/** The scales tried beside the plain one put the largest element at −127 ± 7. */
const REACH = 7;

/** Codes of the scale that was tried last. */
const trial = new Uint8Array(32);

/** Fits `x ≈ scale·VALUES[code]` for 32 elements by the largest weighted correlation. Returns the scale. */
function fitScale(x: Float32Array, at: number, weights: Float32Array): number {
  const max = extreme(x, at, 32);
  if (Math.abs(max) < ZERO_GROUP) return 0;
  let scale = 0;
  let best = 0;
  for (let attempt = -REACH - 1; attempt <= REACH; attempt++) {
    const first = attempt < -REACH;
    const inverse = first ? f(1 / f(-max / VALUES[0]!)) : f((attempt + VALUES[0]!) / max);
    // Neighbouring scales often give equal codes, whose sums need not be made again.
    let changed = 0;
    for (let j = 0; j < 32; j++) {
      const code = nearestValue(f(inverse * x[at + j]!));
      changed |= code ^ trial[j]!;
      trial[j] = code;
    }
    if (!changed && !first) continue;
    let qx = 0;
    let qq = 0;
    for (let j = 0; j < 32; j++) {
      const q = VALUES[trial[j]!]!;
      const p = f(weights[j]! * q);
      qx = f(qx + f(p * x[at + j]!));
      qq = f(qq + f(p * q));
    }
    if (qq > 0 && (first || f(qx * qx) > f(best * qq))) {
      scale = f(qx / qq);
      best = f(scale * qx);
    }
  }
  return scale;
}

/** Weights of 32 elements for `fitScale`; `variance` is that of the block. */
function weightsOf(
  x: Float32Array,
  at: number,
  importance: Float32Array | undefined,
  variance: number,
  out: Float32Array,
): void {
  if (importance) weigh(x, at, 32, importance, variance, out);
  else for (let j = 0; j < 32; j++) out[j] = x[at + j]! * x[at + j]!;
}

/** IQ4_NL: `d·VALUES[q]`, blocks of 32; f16 d, 16 code bytes. */
export const iq4_nl: QuantFormat = {
  type: storageType('IQ4_NL'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 18, outAt += 32) decode(bytes, at + 2, half(bytes, at), out, outAt);
  },
  pack(x, out, importance) {
    const codes = new Uint8Array(32);
    const weights = new Float32Array(32);
    for (let at = 0, b = 0; at < x.length; at += 32, b += 18) {
      weightsOf(x, at, importance, f(sumOfSquares(x, at, 32) * (2 / 32)), weights);
      const scale = fitScale(x, at, weights);
      const inverse = reciprocal(scale);
      for (let j = 0; j < 32; j++) codes[j] = nearestValue(f(inverse * x[at + j]!));
      putHalf(out, b, scale);
      putNibbles(codes, out, b + 2);
    }
  },
  usesImportance: true,
  halves: [0],
};

/**
 * IQ4_XS: `d·(scale − 32)·VALUES[q]`, blocks of 256; f16 d, u16 of eight 2-bit high scale parts, 4 bytes of low scale
 * nibbles, 128 code bytes.
 */
export const iq4_xs: QuantFormat = {
  type: storageType('IQ4_XS'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 136) {
      const d = half(bytes, at);
      const highs = u16(bytes, at + 2);
      for (let group = 0; group < 8; group++, outAt += 32) {
        const low = (bytes[at + 4 + (group >> 1)]! >> ((group & 1) * 4)) & 15;
        const scale = (low | (((highs >> (2 * group)) & 3) << 4)) - 32;
        decode(bytes, at + 8 + group * 16, d * scale, out, outAt);
      }
    }
  },
  pack(x, out, importance) {
    const codes = new Uint8Array(32);
    const weights = new Float32Array(32);
    const scales = new Float32Array(8);
    for (let at = 0, b = 0; at < x.length; at += 256, b += 136) {
      const variance = f(sumOfSquares(x, at, 256) * (2 / 256));
      for (let group = 0; group < 8; group++) {
        weightsOf(x, at + group * 32, importance, variance, weights);
        scales[group] = fitScale(x, at + group * 32, weights);
      }
      const d = f(-extreme(scales, 0, 8) / 32);
      const inverse = reciprocal(d);
      putHalf(out, b, d);
      let highs = 0;
      for (let group = 0; group < 8; group++) {
        const code = clamp(nearest(f(inverse * scales[group]!)), -32, 31);
        const groupInverse = reciprocal(f(d * code));
        for (let j = 0; j < 32; j++) codes[j] = nearestValue(f(groupInverse * x[at + group * 32 + j]!));
        putNibbles(codes, out, b + 8 + group * 16);
        out[b + 4 + (group >> 1)]! |= ((code + 32) & 15) << ((group & 1) * 4);
        highs |= ((code + 32) >> 4) << (2 * group);
      }
      out[b + 2] = highs;
      out[b + 3] = highs >> 8;
    }
  },
  usesImportance: true,
  halves: [0],
};
