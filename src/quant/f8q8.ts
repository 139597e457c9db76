import { storageType } from '../core/dtype.ts';
import { CODE_VALUES, e4m3Code } from './codes.ts';
import { i8, type QuantFormat } from './format.ts';
import { extreme, reciprocal, roundAway } from './search.ts';

const f = Math.fround;
/** Scales are stored times this. */
const SCALED = 448;

/** F8Q8: `d·q`, blocks of 32; one E4M3 byte of 448 d, 32 signed bytes. Codes are those of the scale before its rounding. */
export const f8q8: QuantFormat = {
  type: storageType('F8Q8'),
  largest: 127,
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 33, outAt += 32) {
      const d = f(CODE_VALUES.e4m3[bytes[at]!]! / SCALED);
      for (let j = 0; j < 32; j++) out[outAt + j] = d * i8(bytes[at + 1 + j]!);
    }
  },
  pack(x, out) {
    for (let at = 0, b = 0; at < x.length; at += 32, b += 33) {
      const d = f(Math.abs(extreme(x, at, 32)) / 127);
      const inverse = reciprocal(d);
      out[b] = e4m3Code(f(d * SCALED));
      for (let j = 0; j < 32; j++) out[b + 1 + j] = roundAway(f(x[at + j]! * inverse));
    }
  },
};
