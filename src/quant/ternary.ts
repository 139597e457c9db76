import { storageType } from '../core/dtype.ts';
import { half, putHalf, type QuantFormat } from './format.ts';
import { extreme, reciprocal, roundAway } from './search.ts';

const f = Math.fround;

// TQ1_0: 48 bytes of five base-3 digits, 4 bytes of four, f16 d. A byte b is the fraction b/256; multiplying it by 3
// brings its digits out one after the other, highest first. Three runs of bytes, whose digits step through the block:
// [first byte, bytes in the run, digits per byte].
const RUNS = [
  [0, 32, 5],
  [32, 16, 5],
  [48, 4, 4],
] as const;

/** TQ1_0: `d·(digit − 1)` with base-3 digits, blocks of 256. */
export const tq1_0: QuantFormat = {
  type: storageType('TQ1_0'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 54) {
      const d = half(bytes, at + 52);
      for (let r = 0; r < RUNS.length; r++) {
        const [first, count, digits] = RUNS[r]!;
        for (let n = 0, power = 1; n < digits; n++, power *= 3) {
          for (let m = 0; m < count; m++) {
            const fraction = (bytes[at + first + m]! * power) & 255;
            out[outAt++] = d * (((fraction * 3) >> 8) - 1);
          }
        }
      }
    }
  },
  pack(x, out) {
    for (let at = 0, b = 0; at < x.length; b += 54) {
      const scale = Math.abs(extreme(x, at, 256));
      const inverse = reciprocal(scale);
      putHalf(out, b + 52, scale);
      for (const [first, count, digits] of RUNS) {
        for (let m = 0; m < count; m++) {
          let number = 0;
          for (let n = 0; n < 5; n++) {
            const digit = n < digits ? roundAway(f(x[at + m + n * count]! * inverse)) + 1 : 0;
            number = number * 3 + digit;
          }
          // Rounded up, so that the digits come out again by multiplication.
          out[b + first + m] = Math.ceil((number * 256) / 243);
        }
        at += count * digits;
      }
    }
  },
  halves: [52],
};

/** TQ2_0: `d·(q − 1)` with 2-bit codes, blocks of 256; 64 code bytes laid out as in Q2_K, f16 d. */
export const tq2_0: QuantFormat = {
  type: storageType('TQ2_0'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 66, outAt += 256) {
      const d = half(bytes, at + 64);
      for (let quarter = 0; quarter < 8; quarter++) {
        const codes = at + (quarter >> 2) * 32;
        const shift = (quarter & 3) * 2;
        const o = outAt + quarter * 32;
        for (let l = 0; l < 32; l++) out[o + l] = d * (((bytes[codes + l]! >> shift) & 3) - 1);
      }
    }
  },
  pack(x, out) {
    for (let at = 0, b = 0; at < x.length; at += 256, b += 66) {
      const scale = Math.abs(extreme(x, at, 256));
      const inverse = reciprocal(scale);
      putHalf(out, b + 64, scale);
      for (let j = 0; j < 256; j++) {
        const code = roundAway(f(x[at + j]! * inverse)) + 1;
        out[b + (j >> 7) * 32 + (j & 31)]! |= code << (((j >> 5) & 3) * 2);
      }
    }
  },
  halves: [64],
};

/** Q1_0: `±d` by one bit each, lowest bit first, blocks of 128; f16 d, 16 bytes. */
export const q1_0: QuantFormat = {
  type: storageType('Q1_0'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 18, outAt += 128) {
      const d = half(bytes, at);
      for (let j = 0; j < 128; j++) out[outAt + j] = (bytes[at + 2 + (j >> 3)]! >> (j & 7)) & 1 ? d : -d;
    }
  },
  halves: [0],
};
