import { storageType } from '../core/dtype.ts';
import { iq2sBook, iq2xsBook, iq2xxsBook } from './books.ts';
import { half, i32, type QuantFormat, u16 } from './format.ts';
import { evenSigns } from './signs.ts';

// Blocks of 256 in vectors of eight: a code-book entry, eight signs, and a 4-bit scale s that counts as (2s + 1)/8.

function vector(book: Int8Array, entry: number, signs: number, scale: number, out: Float32Array, o: number): void {
  for (let j = 0; j < 8; j++) {
    const value = scale * book[entry * 8 + j]!;
    out[o + j] = (signs >> j) & 1 ? -value : value;
  }
}

const scaleOf = (d: number, code: number): number => d * (0.5 + code) * 0.25;

/** IQ2_XXS: f16 d; per 32 elements 4 index bytes and a word of four 7-bit sign codes and the scale. */
export const iq2_xxs: QuantFormat = {
  type: storageType('IQ2_XXS'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 66) {
      const d = half(bytes, at);
      for (let group = 0; group < 8; group++) {
        const indices = at + 2 + group * 8;
        const word = i32(bytes, indices + 4);
        const scale = scaleOf(d, word >>> 28);
        for (let l = 0; l < 4; l++, outAt += 8) {
          vector(iq2xxsBook(), bytes[indices + l]!, evenSigns((word >>> (7 * l)) & 127), scale, out, outAt);
        }
      }
    }
  },
  halves: [0],
};

/** IQ2_XS: f16 d; 32 u16 (9-bit index, 7-bit sign code); 8 bytes of scales, one nibble per 16 elements. */
export const iq2_xs: QuantFormat = {
  type: storageType('IQ2_XS'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 74) {
      const d = half(bytes, at);
      for (let i = 0; i < 32; i++, outAt += 8) {
        const code = u16(bytes, at + 2 + i * 2);
        const scale = scaleOf(d, (bytes[at + 66 + (i >> 2)]! >> ((i & 2) * 2)) & 15);
        vector(iq2xsBook(), code & 511, evenSigns(code >> 9), scale, out, outAt);
      }
    }
  },
  halves: [0],
};

/** IQ2_S: f16 d; 32 low index bytes; 32 sign bytes; 8 bytes of 2-bit high index parts; 8 bytes of scales as in IQ2_XS. */
export const iq2_s: QuantFormat = {
  type: storageType('IQ2_S'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 82) {
      const d = half(bytes, at);
      for (let i = 0; i < 32; i++, outAt += 8) {
        const high = (bytes[at + 66 + (i >> 2)]! >> ((i & 3) * 2)) & 3;
        const scale = scaleOf(d, (bytes[at + 74 + (i >> 2)]! >> ((i & 2) * 2)) & 15);
        vector(iq2sBook(), bytes[at + 2 + i]! | (high << 8), bytes[at + 34 + i]!, scale, out, outAt);
      }
    }
  },
  halves: [0],
};
