import { storageType } from '../core/dtype.ts';
import { half, type QuantFormat } from './format.ts';

// 32 bytes of high bits (bit k of byte l belongs to element 32k + l), 64 bytes of low two bits (laid out as in Q2_K),
// 12 bytes of sixteen 6-bit scales, f16 d.

/** Scale of a group of 16 elements, −32…31: low four bits in bytes 0–7, high two in bytes 8–11. */
function groupScale(bytes: Uint8Array, at: number, group: number): number {
  const low = (bytes[at + (group & 7)]! >> (group & 8 ? 4 : 0)) & 15;
  const high = (bytes[at + 8 + (group & 3)]! >> ((group >> 2) * 2)) & 3;
  return (low | (high << 4)) - 32;
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
  halves: [108],
};
