/**
 * The tile of `tile.ts` over 8-bit integers: rows of `x` come quantized (three vectors a unit, see `quantize.ts`), columns
 * as packed codes. A unit is summed exactly in 32-bit integers, then scaled; minima are taken off by the sums of the codes
 * of `x`. Blocks of 4 × 4 keep a whole unit of the columns in registers.
 */
import type { Codes } from './codes.ts';
import { TILE, type TileParts, type TileShape } from './tile.ts';

/** Vectors of a unit of quantized rows: two of codes, one of scale and sums. */
export const VECTORS8 = 3;

export const TILE8_SHAPE: TileShape = { block: 4, apart: 16, lanes: 256 };

export const TILE8_MEMORY = `
var<workgroup> ws: array<vec4<u32>, ${2 * TILE}>;
var<workgroup> ss: array<vec4<f32>, ${TILE}>;
var<workgroup> xs: array<vec4<u32>, ${VECTORS8 * TILE}>;
fn dot16(a: vec4<u32>, b: vec4<u32>) -> i32 {
  return dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w);
}
`;

const four = [0, 1, 2, 3];
const vector = (type: 'f32' | 'i32', part: (i: number) => string) => `vec4<${type}>(${four.map(part).join(', ')})`;

/** The body of `main`; `parts.row` gives vector `q` of three. */
export function tile8Body({ halves, minima }: Codes, parts: TileParts): string {
  const { apart, lanes } = TILE8_SHAPE;
  const low = (i: number) => `dot16(w${i}, x0)`;
  const high = (i: number) => `dot16(v${i}, x1)`;
  const product = halves
    ? `vec4<f32>(${vector('i32', low)}) * scale0 + vec4<f32>(${vector('i32', high)}) * scale1`
    : `vec4<f32>(${vector('i32', (i) => `${low(i)} + ${high(i)}`)}) * scale0`;
  const minimum = halves ? 'd.y * minimum0 + d.z * minimum1' : 'd.w * minimum0';
  const row = (j: number) => `x0 = xs[ty + ${apart * j}u]; x1 = xs[${TILE}u + ty + ${apart * j}u];
  d = bitcast<vec4<f32>>(xs[${2 * TILE}u + ty + ${apart * j}u]);
  c${j} += d.x * (${product})${minima ? ` - (${minimum})` : ''};`;
  return `
let tx = li % ${apart}u;
let ty = li / ${apart}u;
${four.map((j) => `var c${j} = vec4<f32>();`).join(' ')}
for (var u = 0u; u < ${parts.steps}; u++) {
  workgroupBarrier();
  ${parts.loadColumns}
  for (var t = li; t < ${VECTORS8 * TILE}u; t += ${lanes}u) {
    let r = t / ${VECTORS8}u;
    let q = t % ${VECTORS8}u;
    xs[q * ${TILE}u + r] = ${parts.row};
  }
  workgroupBarrier();
  ${four.map((i) => `let w${i} = ws[tx + ${apart * i}u]; let v${i} = ws[${TILE}u + tx + ${apart * i}u]; let s${i} = ss[tx + ${apart * i}u];`).join('\n  ')}
  let scale0 = ${vector('f32', (i) => `s${i}.x`)};
  ${minima ? `let minimum0 = ${vector('f32', (i) => `s${i}.y`)};` : ''}
  ${halves ? `let scale1 = ${vector('f32', (i) => `s${i}.z`)};` : ''}
  ${halves && minima ? `let minimum1 = ${vector('f32', (i) => `s${i}.w`)};` : ''}
  var x0: vec4<u32>;
  var x1: vec4<u32>;
  var d: vec4<f32>;
  ${four.map(row).join('\n  ')}
}
${four.map((j) => `{ let r = ty + ${apart * j}u; let c = tx; let v = c${j}; ${parts.store} }`).join('\n')}
`;
}
