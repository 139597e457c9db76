import { storageType } from '../core/dtype.ts';
import { half, type QuantFormat } from './format.ts';

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
  halves: [80, 82],
};
