import type { LinearOptions } from '../backend.ts';
import type { Tensor } from '../tensor.ts';
import type { Weight } from '../weight.ts';
import { likeWithWidth, needF32, needVector, refuse } from './check.ts';

const PLAIN: LinearOptions = Object.freeze({});
const ACCUMULATE: LinearOptions = Object.freeze({ accumulate: true });

/** `x Wᵀ (+ bias)` for `x` `[…, in]`. */
export function linear(x: Tensor, w: Weight, options: LinearOptions = PLAIN): Tensor {
  checkLinear('linear', x, w, options);
  if (options.accumulate) refuse('linear', 'options without accumulate; use linearAdd', 'accumulate');
  const out = likeWithWidth(x, w.shape[0]);
  if (out.size) {
    if (w.observer !== undefined) w.observer.see(x);
    x.backend.ops.linear(out, x, w, options);
    if (w.delta !== undefined) w.delta.add(out, x);
  }
  return out;
}

/** `residual += x Wᵀ (+ bias)`; returns the residual. Given `options` must have `accumulate`. */
export function linearAdd(residual: Tensor, x: Tensor, w: Weight, options: LinearOptions = ACCUMULATE): Tensor {
  checkLinear('linearAdd', x, w, options);
  needF32('linearAdd', 'residual', residual);
  if (!options.accumulate) refuse('linearAdd', 'options with accumulate', 'none');
  if (residual.width !== w.shape[0] || residual.rowCount !== x.rowCount) {
    refuse('linearAdd', `a residual [${x.rowCount}, ${w.shape[0]}]`, residual);
  }
  if (residual.size) {
    if (w.observer !== undefined) w.observer.see(x);
    x.backend.ops.linear(residual, x, w, options);
    if (w.delta !== undefined) w.delta.add(residual, x);
  }
  return residual;
}

function checkLinear(op: string, x: Tensor, w: Weight, o: LinearOptions): void {
  needF32(op, 'x', x);
  if (x.shape.length === 0 || x.width !== w.shape[1]) refuse(op, `x […, ${w.shape[1]}] for "${w.name}"`, x);
  needVector(op, 'bias', o.bias, w.shape[0]);
}

/** `[…, m, k] × […, k, n]`, or `[…, n, k]` when `transposed`; leading axes are equal. */
export function matmul(a: Tensor, b: Tensor, transposed = false): Tensor {
  needF32('matmul', 'a', a);
  needF32('matmul', 'b', b);
  const rank = a.shape.length;
  const inner = b.shape[rank - (transposed ? 1 : 2)];
  const columns = b.shape[rank - (transposed ? 2 : 1)];
  let fits = rank >= 2 && b.shape.length === rank && inner === a.shape[rank - 1];
  for (let i = 0; i < rank - 2; i++) fits &&= a.shape[i] === b.shape[i];
  if (!fits || columns === undefined) refuse('matmul', `[…, m, k] and […, ${transposed ? 'n, k' : 'k, n'}]`, a, b);
  const out = likeWithWidth(a, columns);
  if (out.size) a.backend.ops.matmul(out, a, b, transposed);
  return out;
}
