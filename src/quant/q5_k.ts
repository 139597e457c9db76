import { storageType } from '../core/dtype.ts';
import { half, type QuantFormat } from './format.ts';
import { minOf, packScales, scaleOf } from './kScales.ts';
import { affineSearch } from './search.ts';

const SEARCH = affineSearch(-0.5, 0.1, 15);

// f16 d, f16 dmin, 12 bytes of scales and minima, 32 bytes of high bits (bit g of byte l belongs to element l of
// group g), 128 bytes of low nibbles laid out as in Q4_K.

/** Q5_K: `d·scale·q − dmin·min`, blocks of 256. */
export const q5_k: QuantFormat = {
  type: storageType('Q5_K'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 176, outAt += 256) {
      const d = half(bytes, at);
      const dmin = half(bytes, at + 2);
      for (let group = 0; group < 8; group += 2) {
        const scale0 = d * scaleOf(bytes, at + 4, group);
        const min0 = dmin * minOf(bytes, at + 4, group);
        const scale1 = d * scaleOf(bytes, at + 4, group + 1);
        const min1 = dmin * minOf(bytes, at + 4, group + 1);
        const codes = at + 48 + group * 16;
        const o = outAt + group * 32;
        for (let l = 0; l < 32; l++) {
          const low = bytes[codes + l]!;
          const high = bytes[at + 16 + l]! >> group;
          out[o + l] = scale0 * ((low & 15) | ((high & 1) << 4)) - min0;
          out[o + 32 + l] = scale1 * ((low >> 4) | ((high & 2) << 3)) - min1;
        }
      }
    }
  },
  pack(x, out, importance) {
    const codes = new Uint8Array(256);
    for (let at = 0, b = 0; at < x.length; at += 256, b += 176) {
      packScales(x, at, importance, 31, SEARCH, codes, out, b);
      for (let j = 0; j < 256; j++) out[b + 16 + (j & 31)]! |= (codes[j]! >> 4) << (j >> 5);
      for (let j = 0; j < 128; j++) {
        const low = (j >> 5) * 64 + (j & 31);
        out[b + 48 + j] = (codes[low]! & 15) | ((codes[low + 32]! & 15) << 4);
      }
    }
  },
  usesImportance: true,
  halves: [0, 2],
};
