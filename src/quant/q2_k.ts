import { storageType } from '../core/dtype.ts';
import { half, putHalf, type QuantFormat } from './format.ts';
import { encodeScales, putPairs, recode } from './kCodes.ts';
import { affineSearch, fitAffine, sum, sumOfSquares, WITH_IMPORTANCE, weigh } from './search.ts';

const f = Math.fround;
const SEARCH = affineSearch(-0.5, 0.1, 15, true);

// 16 scale bytes (low nibble scale, high nibble minimum, one per 16 elements), 64 code bytes, f16 d, f16 dmin.
// Each half of 128 elements owns 32 code bytes; bits 2k, 2k+1 of byte l are its element 32k + l.

/** Q2_K: `d·scale·q − dmin·min`, blocks of 256. */
export const q2_k: QuantFormat = {
  type: storageType('Q2_K'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 84, outAt += 256) {
      const d = half(bytes, at + 80);
      const dmin = half(bytes, at + 82);
      for (let group = 0; group < 16; group++) {
        const packed = bytes[at + group]!;
        const scale = d * (packed & 15);
        const min = dmin * (packed >> 4);
        const codes = at + 16 + (group >> 3) * 32 + (group & 1) * 16;
        const shift = group & 6;
        const o = outAt + group * 16;
        for (let l = 0; l < 16; l++) out[o + l] = scale * ((bytes[codes + l]! >> shift) & 3) - min;
      }
    }
  },
  pack(x, out, importance) {
    const codes = new Uint8Array(256);
    const scales = new Float32Array(16);
    const mins = new Float32Array(16);
    const totals = new Float32Array(16);
    const weights = new Float32Array(16);
    const scaleCodes = new Uint8Array(16);
    const minCodes = new Uint8Array(16);
    for (let at = 0, b = 0; at < x.length; at += 256, b += 84) {
      const variance = importance ? f(sumOfSquares(x, at, 256) / 256) : 0;
      for (let group = 0; group < 16; group++) {
        const start = at + group * 16;
        if (importance) {
          weigh(x, start, 16, importance, variance, weights);
          totals[group] = sum(weights);
        } else {
          for (let i = 0; i < 16; i++) weights[i] = Math.abs(x[start + i]!);
        }
        const how = importance ? WITH_IMPORTANCE : SEARCH;
        scales[group] = fitAffine(x, start, 16, 3, weights, how, codes, group * 16, mins, group);
      }
      const given = importance ? totals : undefined;
      const d = putHalf(out, b + 80, encodeScales(scales, 15, given, scaleCodes));
      const dmin = putHalf(out, b + 82, encodeScales(mins, 15, given, minCodes));
      for (let group = 0; group < 16; group++) {
        out[b + group] = scaleCodes[group]! | (minCodes[group]! << 4);
        const scale = d * scaleCodes[group]!;
        recode(x, at + group * 16, 16, scale, dmin * minCodes[group]!, 3, codes, group * 16);
      }
      putPairs(codes, out, b + 16);
    }
  },
  usesImportance: true,
  halves: [80, 82],
};
