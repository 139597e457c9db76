import { extreme, fitAffine, fitSymmetric, reciprocal, sumOfSquares, WITH_IMPORTANCE, weigh } from './search.ts';

// What the formats with blocks of 32 and one scale have in common: Q4_0, Q4_1, Q5_0, Q5_1.

const f = Math.fround;

/**
 * Rounds 32 elements to `x ≈ scale·(code − half)`. The element of largest magnitude becomes code 0, which gives the
 * scale the opposite sign and uses the longer side of the range. Returns the scale.
 */
function roundSymmetric(x: Float32Array, at: number, half: number, codes: Uint8Array): number {
  const scale = f(extreme(x, at, 32) / -half);
  const inverse = reciprocal(scale);
  for (let j = 0; j < 32; j++) {
    codes[j] = Math.min(2 * half - 1, Math.trunc(f(f(x[at + j]! * inverse) + (half + 0.5))));
  }
  return scale;
}

/** Calls `put` for each block of a row with its 32 codes 0…2·half − 1, where `x ≈ scale·(code − half)`. */
export function packSymmetric(
  x: Float32Array,
  importance: Float32Array | undefined,
  half: number,
  put: (codes: Uint8Array, block: number, scale: number) => void,
): void {
  const codes = new Uint8Array(32);
  const weights = new Float32Array(32);
  const variance = importance ? f(sumOfSquares(x, 0, x.length) / x.length) : 0;
  for (let at = 0, block = 0; at < x.length; at += 32, block++) {
    let scale: number;
    if (importance) {
      weigh(x, at, 32, importance, variance, weights);
      scale = fitSymmetric(x, at, 32, half, weights, 0, codes, 0);
    } else {
      scale = roundSymmetric(x, at, half, codes);
    }
    put(codes, block, scale);
  }
}

/** Rounds 32 elements to `x ≈ scale·code − min` over their whole range. Returns the scale, stores the minimum. */
function roundAffine(x: Float32Array, at: number, levels: number, codes: Uint8Array, mins: Float32Array): number {
  let low = x[at]!;
  let high = low;
  for (let j = 1; j < 32; j++) {
    const v = x[at + j]!;
    if (v < low) low = v;
    if (v > high) high = v;
  }
  const scale = f(f(high - low) / levels);
  const inverse = reciprocal(scale);
  for (let j = 0; j < 32; j++) {
    codes[j] = Math.min(levels, Math.trunc(f(f(f(x[at + j]! - low) * inverse) + 0.5)));
  }
  mins[0] = -low;
  return scale;
}

/** Calls `put` for each block of a row with its 32 codes 0…levels, where `x ≈ scale·code − min`. */
export function packAffine(
  x: Float32Array,
  importance: Float32Array | undefined,
  levels: number,
  put: (codes: Uint8Array, block: number, scale: number, min: number) => void,
): void {
  const codes = new Uint8Array(32);
  const mins = new Float32Array(1);
  const weights = new Float32Array(32);
  const variance = importance ? f(sumOfSquares(x, 0, x.length) / x.length) : 0;
  for (let at = 0, block = 0; at < x.length; at += 32, block++) {
    let scale: number;
    if (importance) {
      weigh(x, at, 32, importance, variance, weights);
      scale = fitAffine(x, at, 32, levels, weights, WITH_IMPORTANCE, codes, 0, mins, 0);
    } else {
      scale = roundAffine(x, at, levels, codes, mins);
    }
    put(codes, block, scale, mins[0]!);
  }
}

/** Low nibbles of 32 codes in 16 bytes: elements 0–15 low, 16–31 high. */
export function putNibbles(codes: Uint8Array, out: Uint8Array, b: number): void {
  for (let j = 0; j < 16; j++) out[b + j] = (codes[j]! & 15) | ((codes[j + 16]! & 15) << 4);
}
