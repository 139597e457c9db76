import { storageType } from '../core/dtype.ts';
import { half, i8, i32, putHalf, type QuantFormat } from './format.ts';
import { extreme, nearest, reciprocal, roundAway } from './search.ts';

const f = Math.fround;

/** Rounds 32 elements to signed bytes at `b`. Returns the scale before its own rounding. */
function round32(x: Float32Array, at: number, out: Uint8Array, b: number): number {
  const scale = f(Math.abs(extreme(x, at, 32)) / 127);
  const inverse = reciprocal(scale);
  for (let j = 0; j < 32; j++) out[b + j] = roundAway(f(x[at + j]! * inverse));
  return scale;
}

/** Q8_0: `d·q`, blocks of 32; f16 d, 32 signed bytes. */
export const q8_0: QuantFormat = {
  type: storageType('Q8_0'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 34, outAt += 32) {
      const d = half(bytes, at);
      for (let j = 0; j < 32; j++) out[outAt + j] = d * i8(bytes[at + 2 + j]!);
    }
  },
  pack(x, out) {
    for (let at = 0, b = 0; at < x.length; at += 32, b += 34) putHalf(out, b, round32(x, at, out, b + 2));
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
  pack(x, out) {
    for (let at = 0, b = 0; at < x.length; at += 32, b += 36) {
      const scale = round32(x, at, out, b + 4);
      let sum = 0;
      for (let j = 0; j < 32; j++) sum += i8(out[b + 4 + j]!);
      putHalf(out, b, scale);
      putHalf(out, b + 2, f(sum * scale));
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
  pack(x, out) {
    for (let at = 0, b = 0; at < x.length; at += 256, b += 292) {
      const max = extreme(x, at, 256);
      if (max === 0) continue;
      const inverse = f(-127 / max);
      for (let group = 0; group < 16; group++) {
        let sum = 0;
        for (let j = group * 16; j < group * 16 + 16; j++) {
          const q = Math.min(127, nearest(f(inverse * x[at + j]!)));
          out[b + 4 + j] = q;
          sum += q;
        }
        out[b + 260 + group * 2] = sum;
        out[b + 261 + group * 2] = sum >> 8;
      }
      real[0] = f(1 / inverse);
      for (let i = 0; i < 4; i++) out[b + i] = word[0]! >> (8 * i);
    }
  },
};
