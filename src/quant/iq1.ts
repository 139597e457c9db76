import { f16ToF32, storageType } from '../core/dtype.ts';
import { iq1Book } from './books.ts';
import { half, type QuantFormat, u16 } from './format.ts';

// Both formats add ±1/8 to a code-book vector of eight and multiply by an odd scale 1…15.
const SHIFT = 0.125;

function vector(entry: number, scale: number, shift: number, out: Float32Array, o: number): void {
  for (let j = 0; j < 8; j++) out[o + j] = scale * (iq1Book()[entry * 8 + j]! + shift);
}

/**
 * IQ1_S, blocks of 256: f16 d, 32 low index bytes, eight u16 (one per 32 elements: four 3-bit high index parts, 3-bit
 * scale, sign of the shift).
 */
export const iq1_s: QuantFormat = {
  type: storageType('IQ1_S'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 50) {
      const d = half(bytes, at);
      for (let group = 0; group < 8; group++) {
        const high = u16(bytes, at + 34 + group * 2);
        const scale = d * (2 * ((high >> 12) & 7) + 1);
        const shift = high & 0x8000 ? -SHIFT : SHIFT;
        for (let l = 0; l < 4; l++, outAt += 8) {
          vector(bytes[at + 2 + group * 4 + l]! | (((high >> (3 * l)) & 7) << 8), scale, shift, out, outAt);
        }
      }
    }
  },
  halves: [0],
};

/**
 * IQ1_M, blocks of 256: 32 low index bytes, 16 bytes of nibbles (3-bit high index part, sign of the shift), four u16 of
 * four 3-bit scales each, whose top nibbles together are the f16 d.
 */
export const iq1_m: QuantFormat = {
  type: storageType('IQ1_M'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 56) {
      let bits = 0;
      for (let i = 0; i < 4; i++) bits |= (u16(bytes, at + 48 + i * 2) >> 12) << (4 * i);
      const d = f16ToF32(bits);
      for (let i = 0; i < 32; i++, outAt += 8) {
        const scales = u16(bytes, at + 48 + (i >> 3) * 2);
        const scale = d * (2 * ((scales >> (((i >> 1) & 3) * 3)) & 7) + 1);
        const nibble = (bytes[at + 32 + (i >> 1)]! >> ((i & 1) * 4)) & 15;
        vector(bytes[at + i]! | ((nibble & 7) << 8), scale, nibble & 8 ? -SHIFT : SHIFT, out, outAt);
      }
    }
  },
};
