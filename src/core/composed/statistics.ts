import { addInto, unary } from '../ops/elementwise.ts';
import { expand, scatterRows } from '../ops/layout.ts';
import { reduce } from '../ops/reduce.ts';
import type { Tensor } from '../tensor.ts';
import { fill } from './basics.ts';

export function composedAddSquares(sums: Tensor, x: Tensor): void {
  x.backend.scope(() => {
    const squares = unary('square', x.reshape([x.rowCount, x.width]));
    addInto(sums.reshape([x.width]), reduce('sum', squares, 0).reshape([x.width]));
  });
}

export function composedAddExpertSquares(sums: Tensor, counts: Tensor, x: Tensor, experts: Tensor): void {
  const { backend, width, rowCount } = x;
  const pairs = experts.size;
  const perRow = pairs / rowCount;
  backend.scope(() => {
    const squares = unary('square', x.reshape([rowCount, width]));
    const repeated = perRow === 1 ? squares : expand(squares.reshape([rowCount, 1, width]), [rowCount, perRow, width]);
    const ids = experts.reshape([pairs]);
    scatterRows(sums, repeated.reshape([pairs, width]), ids, true);
    scatterRows(counts.reshape([counts.size, 1]), fill(backend, [pairs, 1], 1), ids, true);
  });
}
