import { storageType } from '../core/dtype.ts';
import { half, i8, putHalf, type QuantFormat } from './format.ts';
import { clamp, extreme, fitSymmetric, nearest, ZERO_GROUP } from './search.ts';

const f = Math.fround;

// 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales (one per 16 elements), f16 d. Each half of 128
// elements owns 64 low and 32 high bytes: element 32k + l has its nibble in byte 32·(k mod 2) + l, low half of the
// byte for k < 2, and its high bits at bit 2k of high byte l.

/** Q6_K: `d·scale·(q − 32)`, blocks of 256. */
export const q6_k: QuantFormat = {
  type: storageType('Q6_K'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 210, outAt += 256) {
      const d = half(bytes, at + 208);
      for (let group = 0; group < 16; group++) {
        const scale = d * i8(bytes[at + 192 + group]!);
        const quarter = (group >> 1) & 3;
        const lane = (group & 1) * 16;
        const lows = at + (group >> 3) * 64 + (quarter & 1) * 32 + lane;
        const lowShift = quarter & 2 ? 4 : 0;
        const highs = at + 128 + (group >> 3) * 32 + lane;
        const highShift = quarter * 2;
        const o = outAt + group * 16;
        for (let l = 0; l < 16; l++) {
          const q = ((bytes[lows + l]! >> lowShift) & 15) | (((bytes[highs + l]! >> highShift) & 3) << 4);
          out[o + l] = scale * (q - 32);
        }
      }
    }
  },
  pack(x, out, importance) {
    const codes = new Uint8Array(256);
    const scales = new Float32Array(16);
    for (let at = 0, b = 0; at < x.length; at += 256, b += 210) {
      for (let group = 0; group < 16; group++) {
        const start = at + group * 16;
        scales[group] = fitSymmetric(x, start, 16, 32, importance, start, codes, group * 16);
      }
      const max = extreme(scales, 0, 16);
      if (Math.abs(max) < ZERO_GROUP) continue;
      const inverse = f(-128 / max);
      const d = putHalf(out, b + 208, f(1 / inverse));
      for (let group = 0; group < 16; group++) {
        const code = Math.min(127, nearest(f(inverse * scales[group]!)));
        out[b + 192 + group] = code;
        const scale = d * code;
        if (scale === 0) continue;
        for (let j = group * 16; j < group * 16 + 16; j++) {
          codes[j] = clamp(nearest(f(x[at + j]! / scale)), -32, 31) + 32;
        }
      }
      for (let j = 0; j < 256; j++) {
        const quarter = (j >> 5) & 3;
        out[b + (j >> 7) * 64 + (quarter & 1) * 32 + (j & 31)]! |= (codes[j]! & 15) << (quarter & 2 ? 4 : 0);
        out[b + 128 + (j >> 7) * 32 + (j & 31)]! |= (codes[j]! >> 4) << (quarter * 2);
      }
    }
  },
  usesImportance: true,
  halves: [208],
};
