/**
 * Rows of `x` as 8-bit integers, one scale for 32 columns. A unit becomes three vectors: 32 codes in order, then the scale
 * and, times the scale, the sums of the codes of the first half, of the second half and of both.
 */
import type { Tensor } from '../../../core/tensor.ts';
import { lazy, type OpHost } from '../host.ts';
import type { Kernel, KernelSource } from '../kernel.ts';
import { ITEM, LANES } from '../wgsl.ts';
import { UNIT } from './repack.ts';
import { VECTORS8 } from './tile8.ts';
import type { GpuWeight } from './weight.ts';

/** Lanes of a unit: four columns each. */
const QUADS = UNIT / 4;

const eight = (array: string, from: number, count: number) =>
  Array.from({ length: count }, (_, i) => `${array}[first + ${from + i}u]`);

function quantizeSource(): KernelSource {
  return {
    label: 'quantize rows',
    reads: [['x', 'f32']],
    writes: [['out', 'u32']],
    numbers: [
      ['quads', 'u32'],
      ['width', 'u32'],
      ['units', 'u32'],
    ],
    language: ['packed_4x8_integer_dot_product'],
    workgroup: [LANES, 1, 1],
    declarations: `
var<workgroup> largest: array<f32, ${LANES}>;
var<workgroup> sums: array<i32, ${LANES}>;`,
    body: `${ITEM}
let unit = item / ${QUADS}u;
let q = item % ${QUADS}u;
let first = li - q;
let column = unit % p.units * ${UNIT}u + 4u * q;
var v = vec4<f32>();
if (item < p.quads) {
  let row = unit / p.units * p.width;
  for (var i = 0u; i < 4u; i++) { if (column + i < p.width) { v[i] = x(row + column + i); } }
}
let a = abs(v);
largest[li] = max(max(a.x, a.y), max(a.z, a.w));
workgroupBarrier();
let most = ${eight('largest', 0, QUADS).reduce((all, one) => `max(${all}, ${one})`)};
// The reciprocal of a subnormal scale is infinite; numbers that small do not count.
let inverse = select(0.0, 127.0 / most, most > 1e-35);
let codes = vec4<i32>(round(v * inverse));
sums[li] = codes.x + codes.y + codes.z + codes.w;
workgroupBarrier();
if (item < p.quads) {
  let at = unit * ${4 * VECTORS8}u;
  set_out(at + q, pack4xI8(codes));
  if (q == 0u) {
    let d = most / 127.0;
    let low = ${eight('sums', 0, 4).join(' + ')};
    let high = ${eight('sums', 4, 4).join(' + ')};
    set_out(at + ${UNIT / 4}u, bitcast<u32>(d));
    set_out(at + ${UNIT / 4 + 1}u, bitcast<u32>(d * f32(low)));
    set_out(at + ${UNIT / 4 + 2}u, bitcast<u32>(d * f32(high)));
    set_out(at + ${UNIT / 4 + 3}u, bitcast<u32>(d * f32(low + high)));
  }
}
`,
  };
}

/** Gives rows as the integer tiles read them. */
export function quantizedRows(host: OpHost): (x: Tensor, w: GpuWeight) => Tensor {
  const kernel: () => Kernel = lazy(host, quantizeSource);
  return (x, w) => {
    const quads = x.rowCount * w.units * QUADS;
    const out = host.scratch(x.rowCount, w.units * 4 * VECTORS8);
    host.recorder.start(kernel()).bind(x).bind(out).u(quads).u(w.columns).u(w.units).dispatchItems(quads, LANES);
    return out;
  };
}
