/**
 * Codes of block formats as packed 8-bit integers, for the tile that multiplies integers. In WGSL a format adds one
 * function `packed(at, u)` to its `decode`: the 32 codes of unit `u`, four a word, in the order of the columns. Scales and
 * minima are those of its `scales`; codes are taken as they are stored, so that an offset is part of the minimum.
 */
import { eightBits, fiveBits, fourBits, oneBit, packedOf, sixBits, threeBits, twoBits } from './units.ts';

export interface Codes {
  /** WGSL of `packed`. */
  readonly packed: string;
  /** Whether the halves of a unit have scales of their own. */
  readonly halves: boolean;
  /** Whether anything is subtracted from the codes. */
  readonly minima: boolean;
}

/** Values of the table, which are integers. */
const looked = (q: string) => `vec4<u32>(${['x', 'y', 'z', 'w'].map((i) => `looked_up(${q}.${i})`).join(', ')})`;
const tableCodes = `fn looked_up(w: u32) -> u32 { return pack4xI8(vec4<i32>(looked(w))); }
${packedOf(fourBits, looked)}`;

const affine = { halves: false, minima: true };
const scaled = { halves: false, minima: false };

/** Formats that can be multiplied as integers, by the key that tells their kernels apart. */
export const CODES: ReadonlyMap<string, Codes> = new Map<string, Codes>([
  ['Q4_0', { packed: packedOf(fourBits), ...affine }],
  ['Q4_1', { packed: packedOf(fourBits), ...affine }],
  ['Q4_K', { packed: packedOf(fourBits), ...affine }],
  ['Q5_0', { packed: packedOf(fiveBits), ...affine }],
  ['Q5_1', { packed: packedOf(fiveBits), ...affine }],
  ['Q5_K', { packed: packedOf(fiveBits), ...affine }],
  ['Q6_K', { packed: packedOf(sixBits), halves: true, minima: true }],
  ['Q8_0', { packed: packedOf(eightBits), ...scaled }],
  ['Q8_1', { packed: packedOf(eightBits), ...scaled }],
  ['Q8_K', { packed: packedOf(eightBits), ...scaled }],
  ['Q2_K', { packed: packedOf(twoBits), halves: true, minima: true }],
  ['Q3_K', { packed: packedOf(threeBits), halves: true, minima: true }],
  ['TQ2_0', { packed: packedOf(twoBits), ...affine }],
  ['Q1_0', { packed: packedOf(oneBit), ...affine }],
  ['IQ4_NL', { packed: tableCodes, ...scaled }],
  ['IQ4_XS', { packed: tableCodes, ...scaled }],
  ['MXFP4', { packed: tableCodes, ...scaled }],
  ['NVFP4', { packed: tableCodes, halves: true, minima: false }],
]);
