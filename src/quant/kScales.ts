import { putHalf } from './format.ts';
import { encodeScales, recode } from './kCodes.ts';
import { type AffineSearch, fitAffine, sum, sumOfSquares, WITH_IMPORTANCE, weigh } from './search.ts';

const f = Math.fround;

// Q4_K and Q5_K keep eight 6-bit scales and eight 6-bit minima in 12 bytes: bytes 0–3 and 4–7 hold those of groups
// 0–3 in their low six bits; bytes 8–11 hold the low nibbles of groups 4–7 (scale low, minimum high), whose top two
// bits lie in the top bits of bytes 0–3 and 4–7.

/** The 6-bit scale of group 0…7. */
export function scaleOf(bytes: Uint8Array, at: number, group: number): number {
  return group < 4 ? bytes[at + group]! & 63 : (bytes[at + group + 4]! & 15) | ((bytes[at + group - 4]! >> 6) << 4);
}

/** The 6-bit minimum of group 0…7. */
export function minOf(bytes: Uint8Array, at: number, group: number): number {
  return group < 4 ? bytes[at + group + 4]! & 63 : (bytes[at + group + 4]! >> 4) | ((bytes[at + group]! >> 6) << 4);
}

function putScales(scales: Uint8Array, mins: Uint8Array, out: Uint8Array, at: number): void {
  for (let group = 0; group < 4; group++) {
    out[at + group] = scales[group]! | ((scales[group + 4]! >> 4) << 6);
    out[at + group + 4] = mins[group]! | ((mins[group + 4]! >> 4) << 6);
    out[at + group + 8] = (scales[group + 4]! & 15) | ((mins[group + 4]! & 15) << 4);
  }
}

/**
 * Chooses the scales, minima and codes of one block of 256 elements of Q4_K or Q5_K. Writes the first 16 bytes of the
 * block (d, dmin, scales) at `b` and leaves codes 0…levels in `codes`.
 */
export function packScales(
  x: Float32Array,
  at: number,
  importance: Float32Array | undefined,
  levels: number,
  search: AffineSearch,
  codes: Uint8Array,
  out: Uint8Array,
  b: number,
): void {
  const scales = new Float32Array(8);
  const mins = new Float32Array(8);
  const totals = new Float32Array(8);
  const weights = new Float32Array(32);
  const variance = importance ? f(f(2 * sumOfSquares(x, at, 256)) / 256) : 0;
  for (let group = 0; group < 8; group++) {
    const start = at + group * 32;
    if (importance) {
      weigh(x, start, 32, importance, variance, weights);
      totals[group] = sum(weights);
    } else {
      const mean = f(Math.sqrt(f(sumOfSquares(x, start, 32) / 32)));
      for (let i = 0; i < 32; i++) weights[i] = mean + Math.abs(x[start + i]!);
    }
    const how = importance ? WITH_IMPORTANCE : search;
    scales[group] = fitAffine(x, start, 32, levels, weights, how, codes, group * 32, mins, group);
  }
  const scaleCodes = new Uint8Array(8);
  const minCodes = new Uint8Array(8);
  const given = importance ? totals : undefined;
  const d = putHalf(out, b, encodeScales(scales, 63, given, scaleCodes));
  const dmin = putHalf(out, b + 2, encodeScales(mins, 63, given, minCodes));
  putScales(scaleCodes, minCodes, out, b + 4);
  for (let group = 0; group < 8; group++) {
    const scale = d * scaleCodes[group]!;
    const min = dmin * minCodes[group]!;
    recode(x, at + group * 32, 32, scale, min, levels, codes, group * 32);
  }
}
