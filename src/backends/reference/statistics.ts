import type { Tensor } from '../../core/tensor.ts';
import { floats, ints } from './memory.ts';

export function addSquares(sums: Tensor, x: Tensor): void {
  const from = floats(x);
  const to = floats(sums);
  const { width, rowCount } = x;
  for (let c = 0; c < width; c++) {
    let total = to[c]!;
    for (let r = 0; r < rowCount; r++) total += from[r * width + c]! ** 2;
    to[c] = total;
  }
}

export function addExpertSquares(sums: Tensor, counts: Tensor, x: Tensor, experts: Tensor): void {
  const from = floats(x);
  const to = floats(sums);
  const rows = floats(counts);
  const chosen = ints(experts);
  const { width } = x;
  const perRow = experts.size / x.rowCount;
  for (let e = 0; e < counts.size; e++) {
    const totals = Float64Array.from(to.subarray(e * width, (e + 1) * width));
    for (let p = 0; p < experts.size; p++) {
      if (chosen[p] !== e) continue;
      const row = Math.floor(p / perRow) * width;
      for (let c = 0; c < width; c++) totals[c]! += from[row + c]! ** 2;
      rows[e]!++;
    }
    to.set(totals, e * width);
  }
}
