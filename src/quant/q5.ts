import { storageType } from '../core/dtype.ts';
import { half, i32, putHalf, type QuantFormat } from './format.ts';
import { packAffine, packSymmetric, putNibbles } from './legacy.ts';

// Blocks of 32. Bit i of the `high` word is bit 4 of element i; the nibbles lie as in Q4_0.

function putHighBits(codes: Uint8Array, out: Uint8Array, b: number): void {
  for (let j = 0; j < 32; j++) out[b + (j >> 3)]! |= (codes[j]! >> 4) << (j & 7);
}

/** Q5_0: `d·(q − 16)`; f16 d, high bits, low nibbles. */
export const q5_0: QuantFormat = {
  type: storageType('Q5_0'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 22, outAt += 32) {
      const d = half(bytes, at);
      const high = i32(bytes, at + 2);
      for (let j = 0; j < 16; j++) {
        const q = bytes[at + 6 + j]!;
        out[outAt + j] = d * (((q & 15) | (((high >> j) & 1) << 4)) - 16);
        out[outAt + 16 + j] = d * (((q >> 4) | (((high >> (j + 16)) & 1) << 4)) - 16);
      }
    }
  },
  pack(x, out, importance) {
    packSymmetric(x, importance, 16, (codes, block, scale) => {
      const b = block * 22;
      putHalf(out, b, scale);
      putHighBits(codes, out, b + 2);
      putNibbles(codes, out, b + 6);
    });
  },
  usesImportance: true,
  halves: [0],
};

/** Q5_1: `d·q + m`; f16 d, f16 m, high bits, low nibbles. */
export const q5_1: QuantFormat = {
  type: storageType('Q5_1'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 24, outAt += 32) {
      const d = half(bytes, at);
      const m = half(bytes, at + 2);
      const high = i32(bytes, at + 4);
      for (let j = 0; j < 16; j++) {
        const q = bytes[at + 8 + j]!;
        out[outAt + j] = d * ((q & 15) | (((high >> j) & 1) << 4)) + m;
        out[outAt + 16 + j] = d * ((q >> 4) | (((high >> (j + 16)) & 1) << 4)) + m;
      }
    }
  },
  pack(x, out, importance) {
    packAffine(x, importance, 31, (codes, block, scale, min) => {
      const b = block * 24;
      putHalf(out, b, scale);
      putHalf(out, b + 2, -min);
      putHighBits(codes, out, b + 4);
      putNibbles(codes, out, b + 8);
    });
  },
  usesImportance: true,
  halves: [0, 2],
};
