/** How the codes of a unit become bytes, four a word in the order of the columns: as numbers, or packed for integer products. */
import { code, values, word } from './format.ts';

/** WGSL: statements, then the words of the first 16 columns and of the last, as `vec4<u32>`. */
export interface UnitCodes {
  readonly lets: string;
  readonly low: string;
  readonly high: string;
}

const above = (bits: string, shift: number) => `(${bits} << vec4<u32>(${shift}u))`;
const pairsLow = `spread_pairs(${word('2u * u')})`;
const pairsHigh = `spread_pairs(${word('2u * u + 1u')})`;

export const fourBits: UnitCodes = {
  lets: `let q = ${code('u')};`,
  low: 'low_nibbles(q)',
  high: 'high_nibbles(q)',
};
/** Nibbles with a fifth bit in single word `u`. */
export const fiveBits: UnitCodes = {
  lets: `${fourBits.lets} let h = ${word('u')};`,
  low: `${fourBits.low} | ${above('spread_bits(h)', 4)}`,
  high: `${fourBits.high} | ${above('spread_bits(h >> 16u)', 4)}`,
};
/** Nibbles with two more bits in single words `2 u` and `2 u + 1`. */
export const sixBits: UnitCodes = {
  lets: fourBits.lets,
  low: `${fourBits.low} | ${above(pairsLow, 4)}`,
  high: `${fourBits.high} | ${above(pairsHigh, 4)}`,
};
export const twoBits: UnitCodes = { lets: '', low: pairsLow, high: pairsHigh };
/** Two bits, and a third in single word `2 units + u`. */
export const threeBits: UnitCodes = {
  lets: `let h = ${word('2u * p.units + u')};`,
  low: `${pairsLow} | ${above('spread_bits(h)', 2)}`,
  high: `${pairsHigh} | ${above('spread_bits(h >> 16u)', 2)}`,
};
export const oneBit: UnitCodes = {
  lets: `let h = ${word('u')};`,
  low: 'spread_bits(h)',
  high: 'spread_bits(h >> 16u)',
};
export const eightBits: UnitCodes = { lets: '', low: code('2u * u'), high: code('2u * u + 1u') };

/** The codes as numbers: `each` makes four of a word. */
export const valuesOf = ({ lets, low, high }: UnitCodes, each = 'bytes') =>
  values(`${lets} let a = ${low}; let b = ${high};
  return array<vec4<f32>, 8>(${['a', 'b'].flatMap((v) => ['x', 'y', 'z', 'w'].map((i) => `${each}(${v}.${i})`)).join(', ')});`);

/** The codes as they are; `each` makes the words of either half. */
export const packedOf = ({ lets, low, high }: UnitCodes, each = (words: string) => words) =>
  `fn packed(at: vec2<u32>, u: u32) -> array<vec4<u32>, 2> { ${lets} let a = ${low}; let b = ${high};
  return array<vec4<u32>, 2>(${each('a')}, ${each('b')}); }`;
