import type { RequiredOps } from '../../../core/backend.ts';
import { type DType, f32ToBf16, f32ToF16 } from '../../../core/dtype.ts';
import { ShapeError } from '../../../core/errors.ts';
import type { Shape, Tensor } from '../../../core/tensor.ts';
import type { Weight } from '../../../core/weight.ts';
import { kernels, lazy, type OpHost } from '../host.ts';
import type { KernelSource } from '../kernel.ts';
import { ITEM, LANES } from '../wgsl.ts';

/** Most axes of a copy, after those that lie together on both sides have been merged. */
const MAX_AXES = 8;

/** `out[Σ index · to] = x[Σ index · from]` over a box of `axes` axes, the last one first. */
function copySource(axes: number): KernelSource {
  const list = Array.from({ length: axes }, (_, i) => i);
  return {
    label: `copy of ${axes} axes`,
    reads: [['x', 'u32']],
    writes: [['out', 'u32']],
    numbers: [
      ['n', 'u32'],
      ['first_from', 'u32'],
      ['first_to', 'u32'],
      ...list.flatMap((i) => [[`size${i}`, 'u32'] as const, [`from${i}`, 'i32'] as const, [`to${i}`, 'i32'] as const]),
    ],
    workgroup: [LANES, 1, 1],
    body: `${ITEM}
if (item >= p.n) { return; }
var rest = item;
var from_word = i32(p.first_from);
var to_word = i32(p.first_to);
${list
  .map(
    (i) => `{
  let index = i32(rest % p.size${i});
  rest /= p.size${i};
  from_word += index * p.from${i};
  to_word += index * p.to${i};
}`,
  )
  .join('\n')}
set_out(u32(to_word), x(u32(from_word)));`,
  };
}

const fillSource = (): KernelSource => ({
  label: 'fill',
  reads: [],
  writes: [['out', 'u32']],
  numbers: [
    ['n', 'u32'],
    ['value', 'u32'],
  ],
  workgroup: [LANES, 1, 1],
  body: `${ITEM}
if (item < p.n) { set_out(item, p.value); }`,
});

/** A kernel over rows of `p.width` elements that `ids` name. */
const rowSource = (label: string, element: 'u32' | 'f32', body: string): KernelSource => ({
  label,
  reads: [
    ['ids', 'i32'],
    ['x', element],
  ],
  writes: [['out', element]],
  numbers: [
    ['n', 'u32'],
    ['width', 'u32'],
    ['rows', 'u32'],
  ],
  workgroup: [LANES, 1, 1],
  body: `${ITEM}
${body}`,
});

const gatherSource = () =>
  rowSource(
    'gather rows',
    'u32',
    `if (item >= p.n) { return; }
let row = u32(ids(item / p.width));
set_out(item, x(row * p.width + item % p.width));`,
  );

/** Of rows with one id the last wins, whatever the order in which lanes run. */
const scatterSource = () =>
  rowSource(
    'scatter rows',
    'u32',
    `if (item >= p.n) { return; }
let row = item / p.width;
let id = ids(row);
for (var later = row + 1u; later < p.rows; later++) { if (ids(later) == id) { return; } }
set_out(u32(id) * p.width + item % p.width, x(item));`,
  );

/** A lane adds up its column in the order of rows. */
const scatterAddSource = () =>
  rowSource(
    'scatter-add rows',
    'f32',
    `if (item >= p.width) { return; }
for (var row = 0u; row < p.rows; row++) {
  let at = u32(ids(row)) * p.width + item;
  set_out(at, out(at) + x(row * p.width + item));
}`,
  );

type LayoutOps = Pick<RequiredOps, 'slice' | 'concat' | 'permute' | 'expand' | 'pad' | 'gatherRows' | 'scatterRows'>;

/** `gatherWeight` dequantizes rows of a matrix. */
export function layoutOps(host: OpHost, gatherWeight: (out: Tensor, table: Weight, ids: Tensor) => void): LayoutOps {
  const { recorder } = host;
  const copies = kernels(host, copySource);
  const fill = lazy(host, fillSource);
  const gather = lazy(host, gatherSource);
  const scatter = lazy(host, scatterSource);
  const scatterAdd = lazy(host, scatterAddSource);
  const box = new CopyBox();

  const run = (out: Tensor, x: Tensor): void => {
    const start = recorder.start(copies(box.axes)).bind(x).bind(out).u(box.size).u(box.from).u(box.to);
    for (let i = box.axes - 1; i >= 0; i--) {
      start
        .u(box.sizes[i] as number)
        .i(box.fromStrides[i] as number)
        .i(box.toStrides[i] as number);
    }
    start.dispatchItems(box.size, LANES);
  };

  return {
    slice(out, x, axis, first, step) {
      const stride = strideOf(x.shape, axis);
      box.begin(first * stride, 0);
      for (let a = 0; a < out.rank; a++) {
        const own = strideOf(x.shape, a);
        box.add(out.shape[a] as number, a === axis ? own * step : own, strideOf(out.shape, a));
      }
      run(out, x);
    },
    concat(out, xs, axis) {
      let at = 0;
      for (const x of xs) {
        box.begin(0, at * strideOf(out.shape, axis));
        for (let a = 0; a < x.rank; a++) box.add(x.shape[a] as number, strideOf(x.shape, a), strideOf(out.shape, a));
        at += x.shape[axis] as number;
        if (x.size > 0) run(out, x);
      }
    },
    permute(out, x, axes) {
      box.begin(0, 0);
      for (let a = 0; a < out.rank; a++) {
        box.add(out.shape[a] as number, strideOf(x.shape, axes[a] as number), strideOf(out.shape, a));
      }
      run(out, x);
    },
    expand(out, x) {
      box.begin(0, 0);
      for (let a = 0; a < out.rank; a++) {
        const repeated = x.shape[a] !== out.shape[a];
        box.add(out.shape[a] as number, repeated ? 0 : strideOf(x.shape, a), strideOf(out.shape, a));
      }
      run(out, x);
    },
    pad(out, x, before, value) {
      recorder.start(fill()).bind(out).u(out.size).u(wordOf(value, out.dtype)).dispatchItems(out.size, LANES);
      if (x.size === 0) return;
      let to = 0;
      for (let a = 0; a < out.rank; a++) to += (before[a] as number) * strideOf(out.shape, a);
      box.begin(0, to);
      for (let a = 0; a < x.rank; a++) box.add(x.shape[a] as number, strideOf(x.shape, a), strideOf(out.shape, a));
      run(out, x);
    },
    gatherRows(out, table, ids) {
      if (!('storage' in table)) return gatherWeight(out, table, ids);
      const rows = out.shape[0] as number;
      recorder
        .start(gather())
        .bind(ids)
        .bind(table)
        .bind(out)
        .u(out.size)
        .u(out.size / rows)
        .u(rows);
      recorder.dispatchItems(out.size, LANES);
    },
    scatterRows(out, x, ids, accumulate) {
      const rows = x.shape[0] as number;
      const width = x.size / rows;
      const kernel = accumulate ? scatterAdd() : scatter();
      recorder.start(kernel).bind(ids).bind(x).bind(out).u(x.size).u(width).u(rows);
      recorder.dispatchItems(accumulate ? width : x.size, LANES);
    },
  };
}

/** Elements between neighbours along an axis. */
function strideOf(shape: Shape, axis: number): number {
  let stride = 1;
  for (let i = axis + 1; i < shape.length; i++) stride *= shape[i] as number;
  return stride;
}

/** A number as the word that stores it. */
function wordOf(value: number, dtype: DType): number {
  switch (dtype) {
    case 'f32':
      return new Uint32Array(Float32Array.of(value).buffer)[0] as number;
    case 'i32':
      return value | 0;
    case 'u8':
      return value & 255;
    case 'f16':
      return f32ToF16(value);
    case 'bf16':
      return f32ToBf16(value);
  }
}

/** The box of a copy, its axes merged where both sides run on. Reused, so that a copy allocates nothing. */
class CopyBox {
  axes = 0;
  size = 1;
  from = 0;
  to = 0;
  readonly sizes = new Int32Array(MAX_AXES);
  readonly fromStrides = new Int32Array(MAX_AXES);
  readonly toStrides = new Int32Array(MAX_AXES);

  begin(from: number, to: number): void {
    this.axes = 0;
    this.size = 1;
    this.from = from;
    this.to = to;
  }

  add(size: number, from: number, to: number): void {
    this.size *= size;
    if (size === 1 && this.axes > 0) return;
    const last = this.axes - 1;
    if (last >= 0 && this.fromStrides[last] === from * size && this.toStrides[last] === to * size) {
      this.sizes[last] = (this.sizes[last] as number) * size;
      this.fromStrides[last] = from;
      this.toStrides[last] = to;
      return;
    }
    if (this.axes === MAX_AXES)
      throw new ShapeError(`copy: expected at most ${MAX_AXES} axes, got more; reshape first`);
    this.sizes[this.axes] = size;
    this.fromStrides[this.axes] = from;
    this.toStrides[this.axes] = to;
    this.axes++;
  }
}
