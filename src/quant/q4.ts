import { storageType } from '../core/dtype.ts';
import { half, putHalf, type QuantFormat } from './format.ts';
import { packAffine, packSymmetric, putNibbles } from './legacy.ts';

// Blocks of 32. The low nibbles of the 16 code bytes are elements 0–15, the high ones 16–31.

/** Q4_0: `d·(q − 8)`; f16 d, codes. */
export const q4_0: QuantFormat = {
  type: storageType('Q4_0'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 18, outAt += 32) {
      const d = half(bytes, at);
      for (let j = 0; j < 16; j++) {
        const q = bytes[at + 2 + j]!;
        out[outAt + j] = d * ((q & 15) - 8);
        out[outAt + 16 + j] = d * ((q >> 4) - 8);
      }
    }
  },
  pack(x, out, importance) {
    packSymmetric(x, importance, 8, (codes, block, scale) => {
      const b = block * 18;
      putHalf(out, b, scale);
      putNibbles(codes, out, b + 2);
    });
  },
  usesImportance: true,
  halves: [0],
};

/** Q4_1: `d·q + m`; f16 d, f16 m, codes. */
export const q4_1: QuantFormat = {
  type: storageType('Q4_1'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 20, outAt += 32) {
      const d = half(bytes, at);
      const m = half(bytes, at + 2);
      for (let j = 0; j < 16; j++) {
        const q = bytes[at + 4 + j]!;
        out[outAt + j] = d * (q & 15) + m;
        out[outAt + 16 + j] = d * (q >> 4) + m;
      }
    }
  },
  pack(x, out, importance) {
    packAffine(x, importance, 15, (codes, block, scale, min) => {
      const b = block * 20;
      putHalf(out, b, scale);
      putHalf(out, b + 2, -min);
      putNibbles(codes, out, b + 4);
    });
  },
  usesImportance: true,
  halves: [0, 2],
};
