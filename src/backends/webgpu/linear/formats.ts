import type { StorageTypeName } from '../../../core/dtype.ts';
import { i32, u16 } from '../../../quant/format.ts';
import { bookFormats } from './books.ts';
import {
  blocks,
  code,
  copied,
  eachBlock,
  eachUnit,
  type Format,
  floats,
  half,
  halves,
  none,
  one,
  pairFloats,
  plain,
  scales,
  supers,
  word,
} from './format.ts';
import { affineScales, bitsOf, halfNibbles, nibbles, pairs } from './repack.ts';
import { eightBits, fiveBits, fourBits, oneBit, sixBits, threeBits, twoBits, valuesOf } from './units.ts';

const AFFINE_SCALES = scales(`let s = ${code('p.units + (u >> 3u)')};
  let g = u & 7u;
  let scale = ((s.y >> (4u * g)) & 15u) | (((s.w >> (2u * g)) & 3u) << 4u);
  let minimum = ((s.z >> (4u * g)) & 15u) | (((s.w >> (2u * g + 16u)) & 3u) << 4u);
  let d = half(s.x) * f32(scale);
  let m = half(s.x >> 16u) * f32(minimum);
  return vec4<f32>(d, m, d, m);`);

const nibbleValues = valuesOf(fourBits);
const fiveBitValues = valuesOf(fiveBits);
const twoBitValues = valuesOf(twoBits);
const byteValues = valuesOf(eightBits, 'signed');
const tableValues = valuesOf(fourBits, 'looked');

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
    decode: blocks(fiveBitValues, plain(half('p.units', 'u'), 16)),
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
      fiveBitValues,
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
      twoBitValues,
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
      valuesOf(threeBits),
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
    decode: blocks(fiveBitValues, AFFINE_SCALES),
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
      valuesOf(sixBits),
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
    decode: blocks(twoBitValues, plain(half('2u * p.units', '(u >> 3u)'), 1)),
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
      valuesOf(oneBit),
      scales(`let d = ${half('p.units', '(u >> 2u)')}; return vec4<f32>(2.0 * d, d, 2.0 * d, d);`),
    ),
    repack: (bytes, at, units, to) => {
      for (let u = 0; u < units; u++) to.word(u, i32(bytes, at + 18 * (u >> 2) + 2 + 4 * (u & 3)));
      for (let block = 0; block < units / 4; block++) to.half(units, block, u16(bytes, at + 18 * block));
    },
  },
];

/** Storage types that stay as they are; others are expanded when they are read. */
export const FORMATS: ReadonlyMap<StorageTypeName, Format> = new Map(
  [...formats, ...bookFormats].map((f) => [f.name as StorageTypeName, f]),
);
