/**
 * Codes of block formats as packed 8-bit integers, for the tile that multiplies integers. In WGSL a format adds one
 * function `packed(at, u)` to its `decode`: the 32 codes of unit `u`, four a word, in the order of the columns. Scales and
 * minima are those of its `scales`; codes are taken as they are stored, so that an offset is part of the minimum.
 */
import { code, word } from './format.ts';

export interface Codes {
  /** WGSL of `packed`. */
  readonly packed: string;
  /** Whether the halves of a unit have scales of their own. */
  readonly halves: boolean;
  /** Whether anything is subtracted from the codes. */
  readonly minima: boolean;
}

const packed = (lets: string, low: string, high: string) =>
  `fn packed(at: vec2<u32>, u: u32) -> array<vec4<u32>, 2> { ${lets} return array<vec4<u32>, 2>(${low}, ${high}); }`;
const above = (bits: string, shift: number) => `(${bits} << vec4<u32>(${shift}u))`;

const fourBits = packed(`let q = ${code('u')};`, 'low_nibbles(q)', 'high_nibbles(q)');
const fiveBits = packed(
  `let q = ${code('u')}; let h = ${word('u')};`,
  `low_nibbles(q) | ${above('spread_bits(h)', 4)}`,
  `high_nibbles(q) | ${above('spread_bits(h >> 16u)', 4)}`,
);
const sixBits = packed(
  `let q = ${code('u')};`,
  `low_nibbles(q) | ${above(`spread_pairs(${word('2u * u')})`, 4)}`,
  `high_nibbles(q) | ${above(`spread_pairs(${word('2u * u + 1u')})`, 4)}`,
);
const twoBits = packed('', `spread_pairs(${word('2u * u')})`, `spread_pairs(${word('2u * u + 1u')})`);
const threeBits = packed(
  `let h = ${word('2u * p.units + u')};`,
  `spread_pairs(${word('2u * u')}) | ${above('spread_bits(h)', 2)}`,
  `spread_pairs(${word('2u * u + 1u')}) | ${above('spread_bits(h >> 16u)', 2)}`,
);
const oneBit = packed(`let h = ${word('u')};`, 'spread_bits(h)', 'spread_bits(h >> 16u)');
const wholeBytes = packed('', code('2u * u'), code('2u * u + 1u'));
/** Values of the table, which are integers. */
const looked = (q: string) => `vec4<u32>(${['x', 'y', 'z', 'w'].map((i) => `looked_up(${q}.${i})`).join(', ')})`;
const tableValues = `fn looked_up(w: u32) -> u32 { return pack4xI8(vec4<i32>(looked(w))); }
${packed(`let q = ${code('u')}; let a = low_nibbles(q); let b = high_nibbles(q);`, looked('a'), looked('b'))}`;

const affine = { halves: false, minima: true };
const scaled = { halves: false, minima: false };

/** Formats that can be multiplied as integers, by the key that tells their kernels apart. */
export const CODES: ReadonlyMap<string, Codes> = new Map<string, Codes>([
  ['Q4_0', { packed: fourBits, ...affine }],
  ['Q4_1', { packed: fourBits, ...affine }],
  ['Q4_K', { packed: fourBits, ...affine }],
  ['Q5_0', { packed: fiveBits, ...affine }],
  ['Q5_1', { packed: fiveBits, ...affine }],
  ['Q5_K', { packed: fiveBits, ...affine }],
  ['Q6_K', { packed: sixBits, halves: true, minima: true }],
  ['Q8_0', { packed: wholeBytes, ...scaled }],
  ['Q8_1', { packed: wholeBytes, ...scaled }],
  ['Q8_K', { packed: wholeBytes, ...scaled }],
  ['Q2_K', { packed: twoBits, halves: true, minima: true }],
  ['Q3_K', { packed: threeBits, halves: true, minima: true }],
  ['TQ2_0', { packed: twoBits, ...affine }],
  ['Q1_0', { packed: oneBit, ...affine }],
  ['IQ4_NL', { packed: tableValues, ...scaled }],
  ['IQ4_XS', { packed: tableValues, ...scaled }],
  ['MXFP4', { packed: tableValues, ...scaled }],
  ['NVFP4', { packed: tableValues, halves: true, minima: false }],
]);
