import { storageType } from '../core/dtype.ts';
import { half, type QuantFormat, u16 } from './format.ts';

/** The 16 values of a code: finer near zero, where weights are dense. */
const VALUES = Int8Array.of(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);

/** 16 code bytes at `at` to 32 elements, nibbles as in Q4_0. */
function decode(bytes: Uint8Array, at: number, scale: number, out: Float32Array, o: number): void {
  for (let j = 0; j < 16; j++) {
    const q = bytes[at + j]!;
    out[o + j] = scale * VALUES[q & 15]!;
    out[o + 16 + j] = scale * VALUES[q >> 4]!;
  }
}

/** IQ4_NL: `d·VALUES[q]`, blocks of 32; f16 d, 16 code bytes. */
export const iq4_nl: QuantFormat = {
  type: storageType('IQ4_NL'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 18, outAt += 32) decode(bytes, at + 2, half(bytes, at), out, outAt);
  },
  halves: [0],
};

/**
 * IQ4_XS: `d·(scale − 32)·VALUES[q]`, blocks of 256; f16 d, u16 of eight 2-bit high scale parts, 4 bytes of low scale
 * nibbles, 128 code bytes.
 */
export const iq4_xs: QuantFormat = {
  type: storageType('IQ4_XS'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 136) {
      const d = half(bytes, at);
      const highs = u16(bytes, at + 2);
      for (let group = 0; group < 8; group++, outAt += 32) {
        const low = (bytes[at + 4 + (group >> 1)]! >> ((group & 1) * 4)) & 15;
        const scale = (low | (((highs >> (2 * group)) & 3) << 4)) - 32;
        decode(bytes, at + 8 + group * 16, d * scale, out, outAt);
      }
    }
  },
  halves: [0],
};
