import { storageType } from '../core/dtype.ts';
import { iq3sBook, iq3xxsBook } from './books.ts';
import { half, i32, type QuantFormat } from './format.ts';
import { evenSigns } from './signs.ts';

// Blocks of 256 in vectors of four with four signs each.

function vector(book: Int8Array, entry: number, signs: number, scale: number, out: Float32Array, o: number): void {
  for (let j = 0; j < 4; j++) {
    const value = scale * book[entry * 4 + j]!;
    out[o + j] = (signs >> j) & 1 ? -value : value;
  }
}

/** IQ3_XXS: f16 d; 64 index bytes; eight words (per 32 elements) of four 7-bit sign codes and a 4-bit scale. */
export const iq3_xxs: QuantFormat = {
  type: storageType('IQ3_XXS'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 98) {
      const d = half(bytes, at);
      for (let group = 0; group < 8; group++) {
        const word = i32(bytes, at + 66 + group * 4);
        const scale = d * (0.5 + (word >>> 28)) * 0.5;
        const indices = at + 2 + group * 8;
        for (let l = 0; l < 4; l++, outAt += 8) {
          const signs = evenSigns((word >>> (7 * l)) & 127);
          vector(iq3xxsBook(), bytes[indices + 2 * l]!, signs, scale, out, outAt);
          vector(iq3xxsBook(), bytes[indices + 2 * l + 1]!, signs >> 4, scale, out, outAt + 4);
        }
      }
    }
  },
  halves: [0],
};

/** IQ3_S: f16 d; 64 low index bytes; 64 high index bits; 32 sign bytes; 4 bytes of scales, one nibble per 32 elements. */
export const iq3_s: QuantFormat = {
  type: storageType('IQ3_S'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 110) {
      const d = half(bytes, at);
      for (let i = 0; i < 64; i++, outAt += 4) {
        const high = (bytes[at + 66 + (i >> 3)]! >> (i & 7)) & 1;
        const signs = bytes[at + 74 + (i >> 1)]! >> ((i & 1) * 4);
        const scale = d * (1 + 2 * ((bytes[at + 106 + (i >> 4)]! >> ((i & 8) >> 1)) & 15));
        vector(iq3sBook(), bytes[at + 2 + i]! | (high << 8), signs, scale, out, outAt);
      }
    }
  },
  halves: [0],
};
