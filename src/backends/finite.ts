/**
 * Kernels widen binary16 numbers without a look at their exponents, so one that is no number would become a large one and
 * the answers nonsense. Damaged files are refused when they are read instead.
 */
import type { RawSection } from '../core/backend.ts';
import { rowBytes } from '../core/dtype.ts';
import { WeightError } from '../core/errors.ts';
import { quantFormat } from '../quant/index.ts';

/** Exponent bits in the upper byte of a binary16 number; all of them mean infinity or NaN. */
const EXPONENT = 0x7c;

/** The same rows; reading them fails where a binary16 number, of the scales or of the weights, is not finite. */
export function checkedHalves(raw: RawSection, name: string, first: number, columns: number): RawSection {
  const { type } = raw;
  const upper = (type.name === 'F16' ? [0] : (quantFormat(type).halves ?? [])).map((at) => at + 1);
  const stored = rowBytes(type, columns);
  if (upper.length === 0 || stored === undefined) return raw;
  return {
    type,
    rows: raw.rows,
    async readRows(row, rows, target) {
      await raw.readRows(row, rows, target);
      const bad = type.blockBytes === 2 ? findHalf(target) : findScale(target, type.blockBytes, upper);
      if (bad < 0) return;
      const what = type.name === 'F16' ? 'weights' : 'scales';
      throw new WeightError(
        `weight "${name}": expected finite ${what}, got infinity or NaN in row ${first + row + Math.floor(bad / stored)}; ` +
          'the file is damaged or was converted with an overflow: get or convert it again',
      );
    },
  };
}

/** Position of the first block with a number that is not finite, or -1. */
function findScale(bytes: Uint8Array, blockBytes: number, upper: readonly number[]): number {
  for (const offset of upper) {
    for (let at = offset; at < bytes.length; at += blockBytes) {
      if ((bytes[at]! & EXPONENT) === EXPONENT) return at - offset;
    }
  }
  return -1;
}

/** Of binary16 numbers behind one another, two at a time. */
function findHalf(bytes: Uint8Array): number {
  const { buffer, byteOffset, length } = bytes;
  if (byteOffset % 4 !== 0) return findScale(bytes, 2, [1]);
  const pairs = new Uint32Array(buffer, byteOffset, length >>> 2);
  for (let i = 0; i < pairs.length; i++) {
    // Magnitudes from 0x7c00 on overflow into the sign's place.
    if ((((pairs[i]! & 0x7fff7fff) + 0x04000400) & 0x80008000) !== 0) {
      const low = ((pairs[i]! & 0x7fff) + 0x0400) & 0x8000;
      return 4 * i + (low ? 0 : 2);
    }
  }
  const rest = findScale(bytes.subarray(4 * pairs.length), 2, [1]);
  return rest < 0 ? -1 : 4 * pairs.length + rest;
}
