import { storageType } from '../core/dtype.ts';
import { half, type QuantFormat } from './format.ts';
import { minOf, packScales, scaleOf } from './kScales.ts';
import { affineSearch } from './search.ts';

const SEARCH = affineSearch(-1, 0.1, 20);

// f16 d, f16 dmin, 12 bytes of scales and minima, 128 code bytes. Groups of 32 elements; 32 code bytes serve two
// groups: low nibbles the even one, high nibbles the odd one.

/** Q4_K: `d·scale·q − dmin·min`, blocks of 256. */
export const q4_k: QuantFormat = {
  type: storageType('Q4_K'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 144, outAt += 256) {
      const d = half(bytes, at);
      const dmin = half(bytes, at + 2);
      for (let group = 0; group < 8; group += 2) {
        const scale0 = d * scaleOf(bytes, at + 4, group);
        const min0 = dmin * minOf(bytes, at + 4, group);
        const scale1 = d * scaleOf(bytes, at + 4, group + 1);
        const min1 = dmin * minOf(bytes, at + 4, group + 1);
        const codes = at + 16 + group * 16;
        const o = outAt + group * 32;
        for (let l = 0; l < 32; l++) {
          const q = bytes[codes + l]!;
          out[o + l] = scale0 * (q & 15) - min0;
          out[o + 32 + l] = scale1 * (q >> 4) - min1;
        }
      }
    }
  },
  pack(x, out, importance) {
    const codes = new Uint8Array(256);
    for (let at = 0, b = 0; at < x.length; at += 256, b += 144) {
      packScales(x, at, importance, 15, SEARCH, codes, out, b);
      for (let j = 0; j < 128; j++) {
        const low = (j >> 5) * 64 + (j & 31);
        out[b + 16 + j] = codes[low]! | (codes[low + 32]! << 4);
      }
    }
  },
  usesImportance: true,
  halves: [0, 2],
};
