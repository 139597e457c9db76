import { composedAddExpertSquares, composedAddSquares } from '../composed/statistics.ts';
import type { Tensor } from '../tensor.ts';
import { needF32, needI32, refuse } from './check.ts';

/** `sums[c] += Σ_r x[r, c]²` for `x` `[…, width]`; returns `sums`. The op behind it must write neither. */
export function addSquares(sums: Tensor, x: Tensor): Tensor {
  needF32('addSquares', 'x', x);
  needF32('addSquares', 'sums', sums);
  if (sums.size !== x.width) refuse('addSquares', `sums of ${x.width} columns`, sums);
  if (x.size) {
    const { ops } = x.backend;
    if (ops.addSquares) ops.addSquares(sums, x);
    else composedAddSquares(sums, x);
  }
  return sums;
}

/**
 * The same by expert: `sums` is `[experts, width]`, `counts` f32 `[experts]` counts rows, and `experts` says as in
 * `linearExperts` which rows of `x` belong to which. The op behind it must write none of them.
 */
export function addExpertSquares(sums: Tensor, counts: Tensor, x: Tensor, experts: Tensor): void {
  needF32('addExpertSquares', 'x', x);
  needF32('addExpertSquares', 'sums', sums);
  needF32('addExpertSquares', 'counts', counts);
  needI32('addExpertSquares', 'experts', experts);
  if (sums.rank !== 2 || sums.width !== x.width || counts.size !== sums.dim(0)) {
    refuse('addExpertSquares', `sums [experts, ${x.width}] and a count for each`, sums, counts);
  }
  const { rowCount } = x;
  if (experts.rank !== 2 || (rowCount !== experts.dim(0) && rowCount !== experts.size)) {
    refuse('addExpertSquares', `experts [${rowCount}, k] or of ${rowCount} pairs`, experts);
  }
  if (x.size === 0 || experts.size === 0) return;
  const { ops } = x.backend;
  if (ops.addExpertSquares) ops.addExpertSquares(sums, counts, x, experts);
  else composedAddExpertSquares(sums, counts, x, experts);
}
