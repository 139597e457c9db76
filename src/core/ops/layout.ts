import type { DType } from '../dtype.ts';
import type { Shape, Tensor } from '../tensor.ts';
import type { Weight } from '../weight.ts';
import { axisOf, needI32, refuse, sameShape } from './check.ts';

/** A copy of entries `start, start + step, …` before `end` of one axis. A negative step runs down to above `end`. */
export function slice(x: Tensor, axis: number, start: number, end: number, step = 1): Tensor {
  const a = axisOf('slice', x, axis);
  const n = x.shape[a] as number;
  const count = step === 0 ? -1 : Math.max(0, Math.ceil((end - start) / step));
  const last = start + (count - 1) * step;
  const inside = count === 0 || (start >= 0 && start < n && last >= 0 && last < n);
  if (count < 0 || !Number.isInteger(start) || !Number.isInteger(step) || !Number.isInteger(count) || !inside) {
    refuse('slice', `entries of an axis of ${n}`, `start ${start}, end ${end}, step ${step}`);
  }
  const out = make(x, with1(x.shape, a, count), x.dtype);
  if (out.size) x.backend.ops.slice(out, x, a, start, step);
  return out;
}

/** Tensors of one element type, equal in all axes but `axis`, one behind the other. */
export function concat(xs: readonly Tensor[], axis: number): Tensor {
  const first = xs[0];
  if (first === undefined) refuse('concat', 'at least one tensor', 'none');
  const a = axisOf('concat', first, axis);
  let total = 0;
  for (const x of xs) {
    const n = x.shape[a];
    if (n === undefined || x.dtype !== first.dtype || !sameShape(x.shape, with1(first.shape, a, n))) {
      refuse('concat', `tensors that differ in axis ${a} only`, ...xs);
    }
    total += n;
  }
  const out = make(first, with1(first.shape, a, total), first.dtype);
  if (out.size) first.backend.ops.concat(out, xs, a);
  return out;
}

/** Axis `i` of the result is axis `axes[i]` of `x`. */
export function permute(x: Tensor, axes: readonly number[]): Tensor {
  const seen = new Set(axes);
  if (axes.length !== x.rank || seen.size !== x.rank || axes.some((a) => x.shape[a] === undefined)) {
    refuse('permute', `an order of ${x.rank} axes`, `[${axes}]`);
  }
  const out = make(
    x,
    axes.map((a) => x.shape[a] as number),
    x.dtype,
  );
  if (out.size) x.backend.ops.permute(out, x, axes);
  return out;
}

/** Repeats axes of size 1 to `shape`, which has the rank of `x`. */
export function expand(x: Tensor, shape: Shape): Tensor {
  if (shape.length !== x.rank || shape.some((d, i) => x.shape[i] !== d && x.shape[i] !== 1)) {
    refuse('expand', `a shape that differs where [${x.shape}] has 1 only`, `[${shape}]`);
  }
  const out = make(x, shape, x.dtype);
  if (out.size) x.backend.ops.expand(out, x);
  return out;
}

/** `before[i]` and `after[i]` entries of `value` around axis `i`. */
export function pad(x: Tensor, before: readonly number[], after: readonly number[], value = 0): Tensor {
  const bad = (n: number) => !Number.isInteger(n) || n < 0;
  if (before.length !== x.rank || after.length !== x.rank || before.some(bad) || after.some(bad)) {
    refuse('pad', `${x.rank} counts before and after`, `[${before}] and [${after}]`);
  }
  const out = make(
    x,
    x.shape.map((d, i) => d + (before[i] as number) + (after[i] as number)),
    x.dtype,
  );
  if (out.size) x.backend.ops.pad(out, x, before, value);
  return out;
}

/**
 * `table[ids[r]]` for the first `count` ids (all of them when absent): `[count, …table.shape[1…]]`. A `Weight` table is
 * dequantized to f32; a tensor keeps its element type. Ids must lie inside the table.
 */
export function gatherRows(table: Tensor | Weight, ids: Tensor, count = ids.size): Tensor {
  needI32('gatherRows', 'ids', ids);
  if (count > ids.size) refuse('gatherRows', `at least ${count} ids`, ids);
  if (table.shape.length === 0) refuse('gatherRows', 'a table with rows', `[${table.shape}]`);
  const { backend } = ids;
  const dtype = 'storage' in table ? table.dtype : 'f32';
  const out =
    table.shape.length === 2 && dtype === 'f32'
      ? backend.allocRows(count, table.shape[1] as number)
      : backend.alloc([count, ...table.shape.slice(1)], dtype);
  if (out.size) backend.ops.gatherRows(out, table, ids);
  return out;
}

/** `out[ids[r]] = x[r]`, or `+=` in row order when `accumulate`; in place, returns `out`. */
export function scatterRows(out: Tensor, x: Tensor, ids: Tensor, accumulate = false): Tensor {
  needI32('scatterRows', 'ids', ids);
  const rows = x.shape[0];
  if (rows === undefined || rows > ids.size || x.dtype !== out.dtype || !sameTail(x.shape, out.shape)) {
    refuse('scatterRows', 'rows of one width and type, and an id for each', out, x, ids);
  }
  if (accumulate && x.dtype !== 'f32') refuse('scatterRows', 'f32 to accumulate', x);
  if (x.size) x.backend.ops.scatterRows(out, x, ids, accumulate);
  return out;
}

function sameTail(a: Shape, b: Shape): boolean {
  if (a.length !== b.length) return false;
  for (let i = 1; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

function with1(shape: Shape, axis: number, size: number): number[] {
  const s = [...shape];
  s[axis] = size;
  return s;
}

function make(x: Tensor, shape: Shape, dtype: DType): Tensor {
  return shape.length === 2 && dtype === 'f32'
    ? x.backend.allocRows(shape[0] as number, shape[1] as number)
    : x.backend.alloc(shape, dtype);
}
