/**
 * How matrices lie in device memory. Columns are taken in units of 32, rows are padded with zeros to whole units (and the
 * few formats with one number a column only then). Rows are interleaved by 8: for each slab of 8 rows there are
 *
 *     vectors: [vector of the row][row of the slab] of 4 words   codes of 4 and 8 bits, floats, scales of Q4_K and Q5_K
 *     singles: [word of the row][row of the slab]                other scales, codes of 1 and 2 bits
 *
 * so that 8 lanes with neighbouring rows read 128 bytes in one piece, and the next 8 lanes with the next unit the next
 * ones. Sizes are those of the checkpoint; only scales of 16 bits may leave half a word at the end of a row.
 *
 * In WGSL a format is one function `decode(at, u)`: the 8 × 4 numbers of unit `u` of the row whose first vector and word
 * are at `at`. Block formats compose it of `values(at, u)`, the codes as numbers, and `scales(at, u)`, which gives scale
 * and minimum of either half of the unit; a number is `scale * code - minimum`.
 */
import type { StorageTypeName } from '../../../core/dtype.ts';
import { i32, u16 } from '../../../quant/format.ts';
import { affineScales, bitsOf, halfNibbles, nibbles, pairs, type RowTarget, SLAB } from './repack.ts';

export interface Format {
  readonly name: StorageTypeName;
  /** Vectors and single words of a row of `units` units. */
  readonly vectors: (units: number) => number;
  readonly singles: (units: number) => number;
  /** WGSL of `decode`. */
  readonly decode: string;
  /** Values of codes that are looked up in workgroup memory, 16 of them. */
  readonly table?: readonly number[];
  /** Puts one stored row at `at` into place. */
  readonly repack: (bytes: Uint8Array, at: number, units: number, to: RowTarget) => void;
}

const none = () => 0;
const one = (units: number) => units;
/** Words that hold one number of 16 bits for each of `n`. */
const halves = (n: number) => Math.ceil(n / 2);
const supers = (units: number) => units / 8;

// ---------------------------------------------------------------------------------------------------------------- //
// Pieces of WGSL. `codes` and `words` are the operands.

const CODE = `codes(at.x + (INDEX) * ${SLAB}u)`;
const code = (index: string) => CODE.replace('INDEX', index);
const word = (index: string) => `words(at.y + (${index}) * ${SLAB}u)`;
/** Number `index` of those that lie in pairs from word `first` on. */
const half = (first: string, index: string) =>
  `half(${word(`${first} + ((${index}) >> 1u)`)} >> (16u * ((${index}) & 1u)))`;

/** Helpers of every format. A half may be subnormal, which shaders may flush elsewhere. */
export const HELPERS = `
fn half(w: u32) -> f32 {
  let magnitude = w & 0x7fffu;
  let normal = bitcast<f32>((magnitude << 13u) + 0x38000000u);
  let v = select(normal, f32(magnitude) * 0.000000059604644775390625, magnitude < 0x400u);
  return select(v, -v, (w & 0x8000u) != 0u);
}
fn bytes(w: u32) -> vec4<f32> { return vec4<f32>((vec4<u32>(w) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u)); }
fn signed(w: u32) -> vec4<f32> { return vec4<f32>(bitcast<vec4<i32>>(vec4<u32>(w) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u)); }
fn quads(a: vec4<u32>, b: vec4<u32>) -> array<vec4<f32>, 8> {
  return array<vec4<f32>, 8>(bytes(a.x), bytes(a.y), bytes(a.z), bytes(a.w), bytes(b.x), bytes(b.y), bytes(b.z), bytes(b.w));
}
fn low_nibbles(q: vec4<u32>) -> vec4<u32> { return q & vec4<u32>(0x0f0f0f0fu); }
fn high_nibbles(q: vec4<u32>) -> vec4<u32> { return (q >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu); }
fn spread_pairs(w: u32) -> vec4<u32> { return (vec4<u32>(w) >> vec4<u32>(0u, 2u, 4u, 6u)) & vec4<u32>(0x03030303u); }
fn spread_bits(w: u32) -> vec4<u32> {
  return (((vec4<u32>(w) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u)) * vec4<u32>(0x00204081u)) & vec4<u32>(0x01010101u);
}
`;

const values = (body: string) => `fn values(at: vec2<u32>, u: u32) -> array<vec4<f32>, 8> { ${body} }`;
const scales = (body: string) => `fn scales(at: vec2<u32>, u: u32) -> vec4<f32> { ${body} }`;

const nibbleValues = values(`let q = ${code('u')}; return quads(low_nibbles(q), high_nibbles(q));`);
/** Nibbles with a fifth bit in single word `u`. */
const fiveBits = values(`let q = ${code('u')}; let h = ${word('u')};
  return quads(low_nibbles(q) | (spread_bits(h) << vec4<u32>(4u)), high_nibbles(q) | (spread_bits(h >> 16u) << vec4<u32>(4u)));`);
/** Nibbles with two more bits in single words `2 u` and `2 u + 1`. */
const sixBits = values(`let q = ${code('u')}; let a = ${word('2u * u')}; let b = ${word('2u * u + 1u')};
  return quads(low_nibbles(q) | (spread_pairs(a) << vec4<u32>(4u)), high_nibbles(q) | (spread_pairs(b) << vec4<u32>(4u)));`);
const twoBits = values(`return quads(spread_pairs(${word('2u * u')}), spread_pairs(${word('2u * u + 1u')}));`);
/** Two bits, and a third in single word `2 units + u`. */
const threeBits = values(`let h = ${word('2u * p.units + u')};
  return quads(spread_pairs(${word('2u * u')}) | (spread_bits(h) << vec4<u32>(2u)),
    spread_pairs(${word('2u * u + 1u')}) | (spread_bits(h >> 16u) << vec4<u32>(2u)));`);
const oneBit = values(`let h = ${word('u')}; return quads(spread_bits(h), spread_bits(h >> 16u));`);
const byteValues = values(`let a = ${code('2u * u')}; let b = ${code('2u * u + 1u')};
  return array<vec4<f32>, 8>(signed(a.x), signed(a.y), signed(a.z), signed(a.w), signed(b.x), signed(b.y), signed(b.z), signed(b.w));`);
const tableValues = values(`let q = ${code('u')}; let a = low_nibbles(q); let b = high_nibbles(q);
  return array<vec4<f32>, 8>(looked(a.x), looked(a.y), looked(a.z), looked(a.w), looked(b.x), looked(b.y), looked(b.z), looked(b.w));`);

/** One scale for the whole unit; the minimum is `zero` times that. */
const plain = (scale: string, zero: number) =>
  scales(`let d = ${scale}; return vec4<f32>(d, d * ${zero}.0, d, d * ${zero}.0);`);

const blocks = (value: string, scale: string) => `${value}
${scale}
fn decode(at: vec2<u32>, u: u32) -> array<vec4<f32>, 8> {
  let v = values(at, u);
  let s = scales(at, u);
  return array<vec4<f32>, 8>(${Array.from({ length: 8 }, (_, i) =>
    i < 4 ? `v[${i}] * s.x - s.y` : `v[${i}] * s.z - s.w`,
  ).join(', ')});
}`;

const floats = (body: string) => `fn decode(at: vec2<u32>, u: u32) -> array<vec4<f32>, 8> { ${body} }`;
/** Two quads of each of four vectors of 16-bit numbers. */
const pairFloats = (quads: (v: string) => string) =>
  floats(`${[0, 1, 2, 3].map((i) => `let v${i} = ${code(`4u * u + ${i}u`)};`).join(' ')}
  return array<vec4<f32>, 8>(${[0, 1, 2, 3].map((i) => quads(`v${i}`)).join(', ')});`);

// ---------------------------------------------------------------------------------------------------------------- //

/** Floats keep their order: `bytes` bytes each. */
function copied(bytes: number): Format['repack'] {
  return (source, at, units, to) => {
    for (let v = 0; v < units * 2 * bytes; v++) to.copy(v, source, at + 16 * v);
  };
}

/** Blocks of 32: calls `put` with the unit and the position of its block. */
function eachBlock(
  blockBytes: number,
  put: (to: RowTarget, u: number, bytes: Uint8Array, at: number, units: number) => void,
): Format['repack'] {
  return (bytes, at, units, to) => {
    for (let u = 0; u < units; u++) put(to, u, bytes, at + u * blockBytes, units);
  };
}

/** Blocks of 256: the same for each of their eight units, `b` being the block's position. */
function eachUnit(
  blockBytes: number,
  put: (to: RowTarget, u: number, bytes: Uint8Array, at: number) => void,
  once: (to: RowTarget, block: number, bytes: Uint8Array, at: number, units: number) => void,
): Format['repack'] {
  return (bytes, at, units, to) => {
    for (let block = 0; block < units / 8; block++) {
      const b = at + block * blockBytes;
      for (let i = 0; i < 8; i++) put(to, 8 * block + i, bytes, b);
      once(to, block, bytes, b, units);
    }
  };
}

const AFFINE_SCALES = scales(`let s = ${code('p.units + (u >> 3u)')};
  let g = u & 7u;
  let scale = ((s.y >> (4u * g)) & 15u) | (((s.w >> (2u * g)) & 3u) << 4u);
  let minimum = ((s.z >> (4u * g)) & 15u) | (((s.w >> (2u * g + 16u)) & 3u) << 4u);
  let d = half(s.x) * f32(scale);
  let m = half(s.x >> 16u) * f32(minimum);
  return vec4<f32>(d, m, d, m);`);

const IQ4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/** E2M1 doubled; the scales are halved in return. */
const FP4 = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

const formats: readonly Format[] = [
  {
    name: 'F32',
    vectors: (units) => 8 * units,
    singles: none,
    decode: floats(
      `return array<vec4<f32>, 8>(${Array.from({ length: 8 }, (_, i) => `bitcast<vec4<f32>>(${code(`8u * u + ${i}u`)})`).join(', ')});`,
    ),
    repack: copied(4),
  },
  {
    name: 'F16',
    vectors: (units) => 4 * units,
    singles: none,
    decode: pairFloats(
      (v) => `vec4<f32>(unpack2x16float(${v}.x), unpack2x16float(${v}.y)),
    vec4<f32>(unpack2x16float(${v}.z), unpack2x16float(${v}.w))`,
    ),
    repack: copied(2),
  },
  {
    name: 'BF16',
    vectors: (units) => 4 * units,
    singles: none,
    decode: `fn wide(a: u32, b: u32) -> vec4<f32> { return bitcast<vec4<f32>>(vec4<u32>(a << 16u, a & 0xffff0000u, b << 16u, b & 0xffff0000u)); }
${pairFloats((v) => `wide(${v}.x, ${v}.y), wide(${v}.z, ${v}.w)`)}`,
    repack: copied(2),
  },
  {
    name: 'Q4_0',
    vectors: one,
    singles: halves,
    decode: blocks(nibbleValues, plain(half('0u', 'u'), 8)),
    repack: eachBlock(18, (to, u, bytes, at) => {
      to.half(0, u, u16(bytes, at));
      to.copy(u, bytes, at + 2);
    }),
  },
  {
    name: 'Q4_1',
    vectors: one,
    singles: one,
    decode: blocks(
      nibbleValues,
      scales(`let w = ${word('u')}; let d = half(w); let m = -half(w >> 16u); return vec4<f32>(d, m, d, m);`),
    ),
    repack: eachBlock(20, (to, u, bytes, at) => {
      to.word(u, i32(bytes, at));
      to.copy(u, bytes, at + 4);
    }),
  },
  {
    name: 'Q5_0',
    vectors: one,
    singles: (units) => units + halves(units),
    decode: blocks(fiveBits, plain(half('p.units', 'u'), 16)),
    repack: eachBlock(22, (to, u, bytes, at, units) => {
      to.half(units, u, u16(bytes, at));
      to.word(u, i32(bytes, at + 2));
      to.copy(u, bytes, at + 6);
    }),
  },
  {
    name: 'Q5_1',
    vectors: one,
    singles: (units) => 2 * units,
    decode: blocks(
      fiveBits,
      scales(`let w = ${word('p.units + u')}; let d = half(w); let m = -half(w >> 16u); return vec4<f32>(d, m, d, m);`),
    ),
    repack: eachBlock(24, (to, u, bytes, at, units) => {
      to.word(units + u, i32(bytes, at));
      to.word(u, i32(bytes, at + 4));
      to.copy(u, bytes, at + 8);
    }),
  },
  ...([34, 36] as const).map(
    (blockBytes): Format => ({
      name: blockBytes === 34 ? 'Q8_0' : 'Q8_1',
      vectors: (units) => 2 * units,
      singles: halves,
      decode: blocks(byteValues, plain(half('0u', 'u'), 0)),
      repack: eachBlock(blockBytes, (to, u, bytes, at) => {
        to.half(0, u, u16(bytes, at));
        to.copy(2 * u, bytes, at + blockBytes - 32);
        to.copy(2 * u + 1, bytes, at + blockBytes - 16);
      }),
    }),
  ),
  {
    name: 'Q8_K',
    vectors: (units) => 2 * units,
    singles: supers,
    decode: blocks(byteValues, plain(`bitcast<f32>(${word('u >> 3u')})`, 0)),
    repack: eachUnit(
      292,
      (to, u, bytes, at) => {
        to.copy(2 * u, bytes, at + 4 + 32 * (u & 7));
        to.copy(2 * u + 1, bytes, at + 20 + 32 * (u & 7));
      },
      (to, block, bytes, at) => to.word(block, i32(bytes, at)),
    ),
  },
  {
    name: 'Q2_K',
    vectors: none,
    singles: (units) => 2 * units + units / 2 + supers(units),
    decode: blocks(
      twoBits,
      scales(`let dm = ${word('2u * p.units + (p.units >> 1u) + (u >> 3u)')};
  let s = ${word('2u * p.units + (u >> 1u)')} >> (16u * (u & 1u));
  let d = half(dm);
  let m = half(dm >> 16u);
  return vec4<f32>(d * f32(s & 15u), m * f32((s >> 4u) & 15u), d * f32((s >> 8u) & 15u), m * f32((s >> 12u) & 15u));`),
    ),
    repack: eachUnit(
      84,
      (to, u, bytes, at) => pairs(to, 2 * u, bytes, at + 16 + 32 * ((u >> 2) & 1), 2 * (u & 3)),
      (to, block, bytes, at, units) => {
        for (let i = 0; i < 4; i++) to.word(2 * units + 4 * block + i, i32(bytes, at + 4 * i));
        to.word(2 * units + units / 2 + block, i32(bytes, at + 80));
      },
    ),
  },
  {
    name: 'Q3_K',
    vectors: none,
    // Codes, third bits, three words of scales and one half a block.
    singles: (units) => 3 * units + 3 * supers(units) + halves(supers(units)),
    decode: blocks(
      threeBits,
      scales(`let block = u >> 3u;
  let g = u & 7u;
  let first = 3u * p.units + 3u * block;
  let low = ${word('first + (g >> 2u)')} >> (8u * (g & 3u));
  let high = ${word('first + 2u')} >> (4u * g);
  let d = ${half('3u * p.units + 3u * (p.units >> 3u)', 'block')};
  let a = d * (f32((low & 15u) | ((high & 3u) << 4u)) - 32.0);
  let b = d * (f32(((low >> 4u) & 15u) | (((high >> 2u) & 3u) << 4u)) - 32.0);
  return vec4<f32>(a, 4.0 * a, b, 4.0 * b);`),
    ),
    repack: eachUnit(
      110,
      (to, u, bytes, at) => pairs(to, 2 * u, bytes, at + 32 + 32 * ((u >> 2) & 1), 2 * (u & 3)),
      (to, block, bytes, at, units) => {
        for (let i = 0; i < 8; i++) to.word(2 * units + 8 * block + i, bitsOf(bytes, at, i));
        const low = [0, 0];
        let high = 0;
        for (let g = 0; g < 16; g++) {
          const nibble = (bytes[at + 96 + (g & 7)]! >> (g & 8 ? 4 : 0)) & 15;
          low[g >> 3]! |= nibble << (4 * (g & 7));
          high |= ((bytes[at + 104 + (g & 3)]! >> (2 * (g >> 2))) & 3) << (2 * g);
        }
        const first = 3 * units + 3 * block;
        to.word(first, low[0]!);
        to.word(first + 1, low[1]!);
        to.word(first + 2, high);
        to.half(3 * units + 3 * supers(units), block, u16(bytes, at + 108));
      },
    ),
  },
  {
    name: 'Q4_K',
    vectors: (units) => units + supers(units),
    singles: none,
    decode: blocks(nibbleValues, AFFINE_SCALES),
    repack: eachUnit(
      144,
      (to, u, bytes, at) => nibbles(to, u, bytes, at + 16 + 32 * ((u & 7) >> 1), 4 * (u & 1)),
      (to, block, bytes, at, units) => affineScales(to, units + block, bytes, at),
    ),
  },
  {
    name: 'Q5_K',
    vectors: (units) => units + supers(units),
    singles: one,
    decode: blocks(fiveBits, AFFINE_SCALES),
    repack: eachUnit(
      176,
      (to, u, bytes, at) => {
        nibbles(to, u, bytes, at + 48 + 32 * ((u & 7) >> 1), 4 * (u & 1));
        to.word(u, bitsOf(bytes, at + 16, u & 7));
      },
      (to, block, bytes, at, units) => affineScales(to, units + block, bytes, at),
    ),
  },
  {
    name: 'Q6_K',
    vectors: one,
    singles: (units) => 2 * units + units / 2 + halves(supers(units)),
    decode: blocks(
      sixBits,
      scales(`let d = ${half('2u * p.units + (p.units >> 1u)', '(u >> 3u)')};
  let s = bitcast<i32>(${word('2u * p.units + (u >> 1u)')} << (16u * (1u - (u & 1u))));
  let a = d * f32((s << 8u) >> 24u);
  let b = d * f32(s >> 24u);
  return vec4<f32>(a, 32.0 * a, b, 32.0 * b);`),
    ),
    repack: eachUnit(
      210,
      (to, u, bytes, at) => {
        const part = (u >> 2) & 1;
        nibbles(to, u, bytes, at + 64 * part + 32 * (u & 1), u & 2 ? 4 : 0);
        pairs(to, 2 * u, bytes, at + 128 + 32 * part, 2 * (u & 3));
      },
      (to, block, bytes, at, units) => {
        for (let i = 0; i < 4; i++) to.word(2 * units + 4 * block + i, i32(bytes, at + 192 + 4 * i));
        to.half(2 * units + units / 2, block, u16(bytes, at + 208));
      },
    ),
  },
  {
    name: 'IQ4_NL',
    vectors: one,
    singles: halves,
    table: IQ4,
    decode: blocks(tableValues, plain(half('0u', 'u'), 0)),
    repack: eachBlock(18, (to, u, bytes, at) => {
      to.half(0, u, u16(bytes, at));
      to.copy(u, bytes, at + 2);
    }),
  },
  {
    name: 'IQ4_XS',
    vectors: one,
    singles: (units) => 2 * supers(units),
    table: IQ4,
    decode: blocks(
      tableValues,
      scales(`let g = u & 7u;
  let a = ${word('2u * (u >> 3u)')};
  let b = ${word('2u * (u >> 3u) + 1u')};
  let d = half(a) * (f32(((b >> (4u * g)) & 15u) | (((a >> (16u + 2u * g)) & 3u) << 4u)) - 32.0);
  return vec4<f32>(d, 0.0, d, 0.0);`),
    ),
    repack: eachUnit(
      136,
      (to, u, bytes, at) => to.copy(u, bytes, at + 8 + 16 * (u & 7)),
      (to, block, bytes, at) => {
        to.word(2 * block, i32(bytes, at));
        to.word(2 * block + 1, i32(bytes, at + 4));
      },
    ),
  },
  {
    name: 'MXFP4',
    vectors: one,
    singles: (units) => Math.ceil(units / 4),
    table: FP4,
    decode: blocks(
      tableValues,
      // 2^(e - 128), but never subnormal: that small it does not count.
      plain(`bitcast<f32>((max((${word('u >> 2u')} >> (8u * (u & 3u))) & 255u, 2u) - 1u) << 23u)`, 0),
    ),
    repack: (bytes, at, units, to) => {
      for (let first = 0; first < units; first += 4) {
        let word = 0;
        for (let u = first; u < Math.min(units, first + 4); u++) {
          word |= bytes[at + 17 * u]! << (8 * (u & 3));
          to.copy(u, bytes, at + 17 * u + 1);
        }
        to.word(first >> 2, word);
      }
    },
  },
  {
    name: 'NVFP4',
    vectors: one,
    singles: (units) => units / 2,
    table: FP4,
    decode: `fn e4m3_half(b: u32) -> f32 {
  let normal = bitcast<f32>((((b >> 3u) + 119u) << 23u) | ((b & 7u) << 20u));
  return select(select(normal, f32(b & 7u) * 0.0009765625, b < 8u), 0.0, b == 127u);
}
${blocks(
  tableValues,
  scales(`let s = ${word('u >> 1u')} >> (16u * (u & 1u));
  return vec4<f32>(e4m3_half(s & 127u), 0.0, e4m3_half((s >> 8u) & 127u), 0.0);`),
)}`,
    repack: (bytes, at, units, to) => {
      for (let block = 0; block < units / 2; block++) {
        const b = at + 36 * block;
        to.word(block, i32(bytes, b));
        halfNibbles(to, 2 * block, bytes, b + 4);
        halfNibbles(to, 2 * block + 1, bytes, b + 20);
      }
    },
  },
  {
    name: 'TQ2_0',
    vectors: none,
    singles: (units) => 2 * units + halves(supers(units)),
    decode: blocks(twoBits, plain(half('2u * p.units', '(u >> 3u)'), 1)),
    repack: eachUnit(
      66,
      (to, u, bytes, at) => pairs(to, 2 * u, bytes, at + 32 * ((u >> 2) & 1), 2 * (u & 3)),
      (to, block, bytes, at, units) => to.half(2 * units, block, u16(bytes, at + 64)),
    ),
  },
  {
    name: 'Q1_0',
    vectors: none,
    singles: (units) => units + halves(units / 4),
    // Bits count twice: 2 b d - d.
    decode: blocks(
      oneBit,
      scales(`let d = ${half('p.units', '(u >> 2u)')}; return vec4<f32>(2.0 * d, d, 2.0 * d, d);`),
    ),
    repack: (bytes, at, units, to) => {
      for (let u = 0; u < units; u++) to.word(u, i32(bytes, at + 18 * (u >> 2) + 2 + 4 * (u & 3)));
      for (let block = 0; block < units / 4; block++) to.half(units, block, u16(bytes, at + 18 * block));
    },
  },
];

/** Storage types that stay as they are; others are expanded when they are read. */
export const FORMATS: ReadonlyMap<StorageTypeName, Format> = new Map(formats.map((f) => [f.name, f]));
