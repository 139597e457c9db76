import { ShapeError } from '../../core/errors.ts';
import type { Shape, Tensor } from '../../core/tensor.ts';
import type { Weight } from '../../core/weight.ts';
import { dataOf, ENCODE, floats, ints } from './memory.ts';
import type { ReferenceWeight } from './weight.ts';

/** Row-major strides. */
function stridesOf(shape: Shape): number[] {
  const strides: number[] = new Array(shape.length).fill(1);
  for (let i = shape.length - 2; i >= 0; i--) strides[i] = strides[i + 1]! * shape[i + 1]!;
  return strides;
}

/** Calls `visit(at, from)` for every index of `shape`: its row-major number and its place under `start` and `strides`. */
function walk(
  shape: Shape,
  start: number,
  strides: readonly number[],
  visit: (at: number, from: number) => void,
): void {
  const rank = shape.length;
  const index = new Array<number>(rank).fill(0);
  let from = start;
  const total = shape.reduce((n, d) => n * d, 1);
  for (let at = 0; at < total; at++) {
    visit(at, from);
    for (let axis = rank - 1; axis >= 0; axis--) {
      from += strides[axis]!;
      if (++index[axis]! < shape[axis]!) break;
      from -= shape[axis]! * strides[axis]!;
      index[axis] = 0;
    }
  }
}

export function slice(out: Tensor, x: Tensor, axis: number, start: number, step: number): void {
  const from = dataOf(x);
  const to = dataOf(out);
  const strides = stridesOf(x.shape);
  const first = start * strides[axis]!;
  strides[axis]! *= step;
  walk(out.shape, first, strides, (at, source) => {
    to[at] = from[source]!;
  });
}

export function concat(out: Tensor, xs: readonly Tensor[], axis: number): void {
  const to = dataOf(out);
  const strides = stridesOf(out.shape);
  let start = 0;
  for (const x of xs) {
    const from = dataOf(x);
    walk(x.shape, start, strides, (at, target) => {
      to[target] = from[at]!;
    });
    start += x.shape[axis]! * strides[axis]!;
  }
}

export function permute(out: Tensor, x: Tensor, axes: readonly number[]): void {
  const from = dataOf(x);
  const to = dataOf(out);
  const strides = stridesOf(x.shape);
  walk(
    out.shape,
    0,
    axes.map((a) => strides[a]!),
    (at, source) => {
      to[at] = from[source]!;
    },
  );
}

export function expand(out: Tensor, x: Tensor): void {
  const from = dataOf(x);
  const to = dataOf(out);
  const strides = stridesOf(x.shape).map((s, i) => (x.shape[i] === out.shape[i] ? s : 0));
  walk(out.shape, 0, strides, (at, source) => {
    to[at] = from[source]!;
  });
}

export function pad(out: Tensor, x: Tensor, before: readonly number[], value: number): void {
  const from = dataOf(x);
  const to = dataOf(out).fill(ENCODE[out.dtype](value));
  const strides = stridesOf(out.shape);
  const start = before.reduce((n, b, i) => n + b * strides[i]!, 0);
  walk(x.shape, start, strides, (at, target) => {
    to[target] = from[at]!;
  });
}

export function gatherRows(out: Tensor, table: Tensor | Weight, ids: Tensor): void {
  const rows = out.shape[0]!;
  const width = out.size / rows;
  const numbers = ints(ids);
  const weight = 'storage' in table ? undefined : (table.data as ReferenceWeight);
  const source = 'storage' in table ? dataOf(table) : undefined;
  const to = dataOf(out);
  for (let r = 0; r < rows; r++) {
    const id = checked('gatherRows', numbers[r]!, table.shape[0]!);
    to.set(source?.subarray(id * width, (id + 1) * width) ?? weight!.row(id), r * width);
  }
}

export function scatterRows(out: Tensor, x: Tensor, ids: Tensor, accumulate: boolean): void {
  const rows = x.shape[0]!;
  const width = x.size / rows;
  const numbers = ints(ids);
  for (let r = 0; r < rows; r++) {
    const id = checked('scatterRows', numbers[r]!, out.shape[0]!);
    if (accumulate) {
      const from = floats(x);
      const to = floats(out);
      for (let i = 0; i < width; i++) to[id * width + i]! += from[r * width + i]!;
    } else {
      dataOf(out).set(dataOf(x).subarray(r * width, (r + 1) * width), id * width);
    }
  }
}

function checked(op: string, id: number, rows: number): number {
  if (id < 0 || id >= rows) throw new ShapeError(`${op}: expected ids from 0 to ${rows - 1}, got ${id}`);
  return id;
}
