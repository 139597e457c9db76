import { clamp, fitPositive, nearest } from './search.ts';

// Steps that several of Q2_K, Q3_K, Q4_K and Q5_K share.

const f = Math.fround;

/**
 * Scales or minima of the groups, all ≥ 0, to codes 0…levels: fitted to the weights of the groups when there are any,
 * else relative to the largest. Returns the scale of the codes.
 */
export function encodeScales(
  values: Float32Array,
  levels: number,
  weights: Float32Array | undefined,
  codes: Uint8Array,
): number {
  if (weights) return fitPositive(values, levels, weights, codes);
  const max = values.reduce((a, b) => Math.max(a, b), 0);
  const inverse = max > 0 ? f(levels / max) : 0;
  for (let i = 0; i < values.length; i++) codes[i] = clamp(nearest(f(inverse * values[i]!)), 0, levels);
  return f(max / levels);
}

/** The codes of a group once its scale and minimum are rounded; a scale of zero leaves them as they are. */
export function recode(
  x: Float32Array,
  at: number,
  n: number,
  scale: number,
  min: number,
  levels: number,
  codes: Uint8Array,
  codesAt: number,
): void {
  if (scale === 0) return;
  for (let i = 0; i < n; i++) codes[codesAt + i] = clamp(nearest(f(f(x[at + i]! + min) / scale)), 0, levels);
}

/** The low two bits of 256 codes in 64 bytes, as Q2_K and Q3_K lay them out. */
export function putPairs(codes: Uint8Array, out: Uint8Array, b: number): void {
  for (let j = 0; j < 256; j++) out[b + (j >> 7) * 32 + (j & 31)]! |= (codes[j]! & 3) << (((j >> 5) & 3) * 2);
}
