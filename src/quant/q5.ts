import { storageType } from '../core/dtype.ts';
import { half, i32, type QuantFormat } from './format.ts';

// Blocks of 32. Bit i of the `high` word is bit 4 of element i; the nibbles lie as in Q4_0.

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
  halves: [0, 2],
};
