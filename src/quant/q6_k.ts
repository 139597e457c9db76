import { storageType } from '../core/dtype.ts';
import { half, i8, type QuantFormat } from './format.ts';

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
  halves: [208],
};
