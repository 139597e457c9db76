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
import { SIGNED_BYTES } from '../wgsl.ts';
import { type RowTarget, SLAB } from './repack.ts';

export interface Format {
  /** What reports call it. */
  readonly name: string;
  /** Tells its kernels from those of other formats; the name where that does. */
  readonly key?: string;
  /** Vectors and single words of a row of `units` units. */
  readonly vectors: (units: number) => number;
  readonly singles: (units: number) => number;
  /** WGSL of `decode`. */
  readonly decode: string;
  /** Values of codes that are looked up in workgroup memory, 16 of them. */
  readonly table?: ArrayLike<number>;
  /** Words that lie behind all rows of a piece, for `entry(i)`. */
  readonly book?: () => Uint32Array;
  /** Puts one stored row at `at` into place. */
  readonly repack: (bytes: Uint8Array, at: number, units: number, to: RowTarget) => void;
}

export const none = () => 0;
export const one = (units: number) => units;
/** Words that hold one number of 16 bits for each of `n`. */
export const halves = (n: number) => Math.ceil(n / 2);
export const supers = (units: number) => units / 8;

// ---------------------------------------------------------------------------------------------------------------- //
// Pieces of WGSL. `codes` and `words` are the operands.

export const CODE = `codes(at.x + (INDEX) * ${SLAB}u)`;
export const code = (index: string) => CODE.replace('INDEX', index);
export const word = (index: string) => `words(at.y + (${index}) * ${SLAB}u)`;
/** Number `index` of those that lie in pairs from word `first` on. */
export const half = (first: string, index: string) =>
  `half(${word(`${first} + ((${index}) >> 1u)`)} >> (16u * ((${index}) & 1u)))`;

/** Bound of loops over the quads of a unit, which `kernels.ts` fills in. */
export const QUADS = 'QUADS';

/** Helpers of every format. A half may be subnormal, which shaders may flush elsewhere. */
export const HELPERS = `${SIGNED_BYTES}
fn half(w: u32) -> f32 {
  let magnitude = w & 0x7fffu;
  let normal = bitcast<f32>((magnitude << 13u) + 0x38000000u);
  let v = select(normal, f32(magnitude) * 0.000000059604644775390625, magnitude < 0x400u);
  return select(v, -v, (w & 0x8000u) != 0u);
}
fn bytes(w: u32) -> vec4<f32> { return vec4<f32>((vec4<u32>(w) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u)); }
fn low_nibbles(q: vec4<u32>) -> vec4<u32> { return q & vec4<u32>(0x0f0f0f0fu); }
fn high_nibbles(q: vec4<u32>) -> vec4<u32> { return (q >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu); }
fn spread_pairs(w: u32) -> vec4<u32> { return (vec4<u32>(w) >> vec4<u32>(0u, 2u, 4u, 6u)) & vec4<u32>(0x03030303u); }
fn spread_bits(w: u32) -> vec4<u32> {
  return (((vec4<u32>(w) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u)) * vec4<u32>(0x00204081u)) & vec4<u32>(0x01010101u);
}
`;

export const values = (body: string) => `fn values(at: vec2<u32>, u: u32) -> array<vec4<f32>, 8> { ${body} }`;
export const scales = (body: string) => `fn scales(at: vec2<u32>, u: u32) -> vec4<f32> { ${body} }`;

/** One scale for the whole unit; the minimum is `zero` times that. */
export const plain = (scale: string, zero: number) =>
  scales(`let d = ${scale}; return vec4<f32>(d, d * ${zero}.0, d, d * ${zero}.0);`);

export const blocks = (value: string, scale: string) => `${value}
${scale}
fn decode(at: vec2<u32>, u: u32) -> array<vec4<f32>, 8> {
  let v = values(at, u);
  let s = scales(at, u);
  return array<vec4<f32>, 8>(${Array.from({ length: 8 }, (_, i) =>
    i < 4 ? `v[${i}] * s.x - s.y` : `v[${i}] * s.z - s.w`,
  ).join(', ')});
}`;

export const floats = (body: string) => `fn decode(at: vec2<u32>, u: u32) -> array<vec4<f32>, 8> { ${body} }`;
/** Two quads of each of four vectors of 16-bit numbers. */
export const pairFloats = (quads: (v: string) => string) =>
  floats(`${[0, 1, 2, 3].map((i) => `let v${i} = ${code(`4u * u + ${i}u`)};`).join(' ')}
  return array<vec4<f32>, 8>(${[0, 1, 2, 3].map((i) => quads(`v${i}`)).join(', ')});`);

// ---------------------------------------------------------------------------------------------------------------- //

/** Floats keep their order: `bytes` bytes each. */
export function copied(bytes: number): Format['repack'] {
  return (source, at, units, to) => {
    for (let v = 0; v < units * 2 * bytes; v++) to.copy(v, source, at + 16 * v);
  };
}

/** Blocks of 32: calls `put` with the unit and the position of its block. */
export function eachBlock(
  blockBytes: number,
  put: (to: RowTarget, u: number, bytes: Uint8Array, at: number, units: number) => void,
): Format['repack'] {
  return (bytes, at, units, to) => {
    for (let u = 0; u < units; u++) put(to, u, bytes, at + u * blockBytes, units);
  };
}

/** Blocks of 256: the same for each of their eight units, `b` being the block's position. */
export function eachUnit(
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
