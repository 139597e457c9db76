import type { ReduceKind } from '../backend.ts';
import type { Tensor } from '../tensor.ts';
import { axisOf, like, needF32, refuse } from './check.ts';

/** Along one axis, which stays with size 1. `argmax` gives the first index of the largest, in i32. */
export function reduce(kind: ReduceKind, x: Tensor, axis: number): Tensor {
  needF32('reduce', 'x', x);
  const a = axisOf('reduce', x, axis);
  if (x.shape[a] === 0 && kind !== 'sum') refuse('reduce', `a non-empty axis for ${kind}`, x);
  const out = x.backend.alloc(
    x.shape.map((d, i) => (i === a ? 1 : d)),
    kind === 'argmax' ? 'i32' : 'f32',
  );
  if (out.size) x.backend.ops.reduce(kind, out, x, a);
  return out;
}

/** Running sums along one axis. */
export function cumsum(x: Tensor, axis: number): Tensor {
  needF32('cumsum', 'x', x);
  const a = axisOf('cumsum', x, axis);
  const out = like(x);
  if (out.size) x.backend.ops.cumsum(out, x, a);
  return out;
}

/** The `k` largest of each row in falling order, ties by lower index. */
export function topk(x: Tensor, k: number): { readonly values: Tensor; readonly indices: Tensor } {
  needF32('topk', 'x', x);
  if (!Number.isInteger(k) || k < 1 || k > x.width) refuse('topk', `1 <= k <= ${x.width}`, `${k}`);
  const shape = [...x.shape.slice(0, -1), k];
  const values = x.backend.alloc(shape, 'f32');
  const indices = x.backend.alloc(shape, 'i32');
  if (values.size) x.backend.ops.topk(values, indices, x, k);
  return { values, indices };
}
