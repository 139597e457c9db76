import { composedLinearExperts } from '../composed/experts.ts';
import type { Tensor } from '../tensor.ts';
import type { Weight } from '../weight.ts';
import { needF32, needI32, refuse } from './check.ts';

/**
 * `out[r * k + j] = x[…] W[experts[r, j]]ᵀ`: `experts` is i32 `[rows, k]`, `x` has `rows` rows or `rows * k` of them, and
 * `w` stacks the matrices of `expertCount` experts. Expert numbers must lie below `expertCount`.
 */
export function linearExperts(x: Tensor, w: Weight, experts: Tensor, expertCount: number): Tensor {
  needF32('linearExperts', 'x', x);
  needI32('linearExperts', 'experts', experts);
  const [stacked, width] = w.shape;
  if (!(expertCount >= 1) || stacked % expertCount !== 0) {
    refuse('linearExperts', `"${w.name}" of ${expertCount} stacked matrices`, `[${w.shape}]`);
  }
  if (experts.shape.length !== 2 || x.shape.length !== 2 || x.width !== width) {
    refuse('linearExperts', `x [rows, ${width}] and experts [rows, k]`, x, experts);
  }
  const rows = x.shape[0] as number;
  if (rows !== experts.shape[0] && rows !== experts.size) {
    refuse('linearExperts', `${experts.shape[0]} or ${experts.size} rows of x`, x);
  }
  const out = x.backend.allocRows(experts.size, stacked / expertCount);
  const { ops } = x.backend;
  if (out.size) {
    if (w.observer !== undefined) w.observer.seeExperts(x, experts);
    if (ops.linearExperts) ops.linearExperts(out, x, w, experts, expertCount);
    else composedLinearExperts(out, x, w, experts, expertCount);
    if (w.delta !== undefined) w.delta.addExperts(out, x, experts, expertCount);
  }
  return out;
}
