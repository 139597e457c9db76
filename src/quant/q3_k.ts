import { storageType } from '../core/dtype.ts';
import { half, putHalf, type QuantFormat } from './format.ts';
import { putPairs } from './kCodes.ts';
import { clamp, extreme, fitByDescent, fitSymmetric, nearest, sum, sumOfSquares, weigh } from './search.ts';

const f = Math.fround;

// 32 bytes of high bits (bit k of byte l belongs to element 32k + l), 64 bytes of low two bits (laid out as in Q2_K),
// 12 bytes of sixteen 6-bit scales, f16 d.

/** Scale of a group of 16 elements, −32…31: low four bits in bytes 0–7, high two in bytes 8–11. */
function groupScale(bytes: Uint8Array, at: number, group: number): number {
  const low = (bytes[at + (group & 7)]! >> (group & 8 ? 4 : 0)) & 15;
  const high = (bytes[at + 8 + (group & 3)]! >> ((group >> 2) * 2)) & 3;
  return (low | (high << 4)) - 32;
}

function putGroupScale(code: number, out: Uint8Array, at: number, group: number): void {
  out[at + (group & 7)]! |= (code & 15) << (group & 8 ? 4 : 0);
  out[at + 8 + (group & 3)]! |= (code >> 4) << ((group >> 2) * 2);
}

/** Scales of either sign to codes around 32; the one of largest magnitude becomes code 0. Returns their scale. */
function roundScales(scales: Float32Array, codes: Uint8Array): number {
  const max = extreme(scales, 0, 16);
  if (max === 0) {
    codes.fill(0);
    return 0;
  }
  const inverse = f(-32 / max);
  for (let group = 0; group < 16; group++) {
    codes[group] = clamp(nearest(f(inverse * scales[group]!)), -32, 31) + 32;
  }
  return f(1 / inverse);
}

/** Q3_K: `d·scale·(q − 4)`, blocks of 256. */
export const q3_k: QuantFormat = {
  type: storageType('Q3_K'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 110, outAt += 256) {
      const d = half(bytes, at + 108);
      for (let group = 0; group < 16; group++) {
        const scale = d * groupScale(bytes, at + 96, group);
        const highs = at + (group & 1) * 16;
        const lows = at + 32 + (group >> 3) * 32 + (group & 1) * 16;
        const shift = group & 6;
        const highShift = group >> 1;
        const o = outAt + group * 16;
        for (let l = 0; l < 16; l++) {
          const q = ((bytes[lows + l]! >> shift) & 3) | (((bytes[highs + l]! >> highShift) & 1) << 2);
          out[o + l] = scale * (q - 4);
        }
      }
    }
  },
  pack(x, out, importance) {
    const codes = new Uint8Array(256);
    const scales = new Float32Array(16);
    const totals = new Float32Array(16);
    const weights = new Float32Array(16);
    const scaleCodes = new Uint8Array(16);
    for (let at = 0, b = 0; at < x.length; at += 256, b += 110) {
      const variance = importance ? f(f(2 * sumOfSquares(x, at, 256)) / 256) : 0;
      for (let group = 0; group < 16; group++) {
        const start = at + group * 16;
        if (importance) {
          weigh(x, start, 16, importance, variance, weights);
          totals[group] = sum(weights);
          scales[group] = fitSymmetric(x, start, 16, 4, weights, 0, codes, group * 16);
        } else {
          scales[group] = fitByDescent(x, start, 16, 4, codes, group * 16);
        }
      }
      const fitted = importance
        ? fitSymmetric(scales, 0, 16, 32, totals, 0, scaleCodes, 0)
        : roundScales(scales, scaleCodes);
      const d = putHalf(out, b + 108, fitted);
      for (let group = 0; group < 16; group++) {
        putGroupScale(scaleCodes[group]!, out, b + 96, group);
        const scale = d * (scaleCodes[group]! - 32);
        if (scale === 0) continue;
        for (let j = group * 16; j < group * 16 + 16; j++) {
          codes[j] = clamp(nearest(f(x[at + j]! / scale)), -4, 3) + 4;
        }
      }
      for (let j = 0; j < 256; j++) out[b + (j & 31)]! |= (codes[j]! >> 2) << (j >> 5);
      putPairs(codes, out, b + 32);
    }
  },
  usesImportance: true,
  halves: [108],
};
