import { storageType } from '../core/dtype.ts';
import type { QuantFormat } from './format.ts';
import { clamp, extreme } from './search.ts';

const f = Math.fround;

// E2M1 values doubled, so that they are integers; the scales are halved in return.
const DOUBLED = Int8Array.of(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);

/** Code of the value nearest to `x / scale`; of two equally near ones the smaller in magnitude. */
function nearestCode(x: number, scale: number): number {
  const magnitude = Math.abs(x);
  let best = 0;
  let least = magnitude;
  for (let code = 1; code < 8; code++) {
    const error = Math.abs(f(f(DOUBLED[code]! * scale) - magnitude));
    if (error < least) {
      least = error;
      best = code;
    }
  }
  return best > 0 && x < 0 ? best + 8 : best;
}

const e8m0Halves = Float64Array.from({ length: 256 }, (_, code) => 2 ** (code - 128));

/** MXFP4: `2^(e − 128)·DOUBLED[q]`, blocks of 32; E8M0 scale byte, 16 code bytes with nibbles as in Q4_0. */
export const mxfp4: QuantFormat = {
  type: storageType('MXFP4'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 17, outAt += 32) {
      const scale = e8m0Halves[bytes[at]!]!;
      for (let j = 0; j < 16; j++) {
        const q = bytes[at + 1 + j]!;
        out[outAt + j] = scale * DOUBLED[q & 15]!;
        out[outAt + 16 + j] = scale * DOUBLED[q >> 4]!;
      }
    }
  },
  pack(x, out) {
    for (let at = 0, b = 0; at < x.length; at += 32, b += 17) {
      const max = Math.abs(extreme(x, at, 32));
      // The largest magnitude gets the exponent of 4, the lowest power of two whose values reach 6.
      const exponent = max > 0 ? clamp(Math.floor(f(Math.log2(max))) + 125, 0, 254) : 0;
      const scale = e8m0Halves[exponent]!;
      out[b] = exponent;
      for (let j = 0; j < 16; j++) {
        out[b + 1 + j] = nearestCode(x[at + j]!, scale) | (nearestCode(x[at + 16 + j]!, scale) << 4);
      }
    }
  },
};

/** Half the value of an unsigned E4M3 scale: the top bit is ignored, 127 counts as zero. */
function e4m3Half(code: number): number {
  const exponent = (code >> 3) & 15;
  const fraction = code & 7;
  if (code === 127) return 0;
  return exponent === 0 ? fraction * 2 ** -10 : (8 + fraction) * 2 ** (exponent - 11);
}

/** Unsigned E4M3 code of a scale, ties upwards; from 256 on the largest, 448, as the reference encoder has it. */
function e4m3Code(x: number): number {
  if (x >= 256) return 126;
  if (x < 2 ** -6) return Math.min(7, Math.trunc(f(f(x * 512) + 0.5)));
  let exponent = -6;
  while (x >= 2 ** (exponent + 1)) exponent++;
  const code = (exponent + 6) * 8 + Math.floor((x / 2 ** exponent) * 8 + 0.5);
  return code < 120 ? code : 126;
}

const e4m3Halves = Float64Array.from({ length: 256 }, (_, code) => e4m3Half(code));

/** NVFP4: blocks of 64; four unsigned E4M3 scales (one per 16 elements), 32 code bytes, each 8 of which serve 16 elements. */
export const nvfp4: QuantFormat = {
  type: storageType('NVFP4'),
  unpack(bytes, at, out, outAt, blocks) {
    for (let b = 0; b < blocks; b++, at += 36) {
      for (let group = 0; group < 4; group++, outAt += 16) {
        const scale = e4m3Halves[bytes[at + group]!]!;
        for (let j = 0; j < 8; j++) {
          const q = bytes[at + 4 + group * 8 + j]!;
          out[outAt + j] = scale * DOUBLED[q & 15]!;
          out[outAt + 8 + j] = scale * DOUBLED[q >> 4]!;
        }
      }
    }
  },
  pack(x, out) {
    for (let at = 0, b = 0; at < x.length; at += 64, b += 36) {
      for (let group = 0; group < 4; group++) {
        const start = at + group * 16;
        const code = e4m3Code(f(Math.abs(extreme(x, start, 16)) / 6));
        const scale = e4m3Halves[code]!;
        out[b + group] = code;
        for (let j = 0; j < 8; j++) {
          const high = nearestCode(x[start + 8 + j]!, scale);
          out[b + 4 + group * 8 + j] = nearestCode(x[start + j]!, scale) | (high << 4);
        }
      }
    }
  },
};
