import { storageType } from '../core/dtype.ts';
import { half, i8, i32, type QuantFormat } from './format.ts';

/** Q8_0: `d·q`, blocks of 32; f16 d, 32 signed bytes. */
export const q8_0: QuantFormat = {
  type: storageType('Q8_0'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 34, outAt += 32) {
      const d = half(bytes, at);
      for (let j = 0; j < 32; j++) out[outAt + j] = d * i8(bytes[at + 2 + j]!);
    }
  },
  halves: [0],
};

/** Q8_1: `d·q`, blocks of 32; f16 d, f16 d·Σq, 32 signed bytes. */
export const q8_1: QuantFormat = {
  type: storageType('Q8_1'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 36, outAt += 32) {
      const d = half(bytes, at);
      for (let j = 0; j < 32; j++) out[outAt + j] = d * i8(bytes[at + 4 + j]!);
    }
  },
  halves: [0, 2],
};

const word = new Int32Array(1);
const real = new Float32Array(word.buffer);

/** Q8_K: `d·q`, blocks of 256; f32 d, 256 signed bytes, 16 i16 sums of 16 codes each. */
export const q8_k: QuantFormat = {
  type: storageType('Q8_K'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 292, outAt += 256) {
      word[0] = i32(bytes, at);
      const d = real[0]!;
      for (let j = 0; j < 256; j++) out[outAt + j] = d * i8(bytes[at + 4 + j]!);
    }
  },
};
