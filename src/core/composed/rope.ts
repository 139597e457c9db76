import type { RopeOptions } from '../backend.ts';
import { addInto, binaryInto, mul } from '../ops/elementwise.ts';
import { concat, expand, slice } from '../ops/layout.ts';
import type { Tensor } from '../tensor.ts';
import { copy } from './basics.ts';

/** Rotates pairs `(a, b)` to `(a cos - b sin, b cos + a sin)`, in place. */
export function composedRope(x: Tensor, cosSin: Tensor, options: RopeOptions): void {
  const { headDim, rotaryDim, interleaved } = options;
  const rows = x.shape[0] as number;
  const heads = x.width / headDim;
  const half = rotaryDim / 2;
  if (half === 0) return;
  x.backend.scope(() => {
    const all = x.reshape([rows * heads, headDim]);
    const a = interleaved ? slice(all, 1, 0, rotaryDim, 2) : slice(all, 1, 0, half);
    const b = interleaved ? slice(all, 1, 1, rotaryDim, 2) : slice(all, 1, half, rotaryDim);
    const perHead = (start: number) =>
      expand(slice(cosSin.rows(0, rows), 1, start, start + half).reshape([rows, 1, half]), [rows, heads, half]).reshape(
        [rows * heads, half],
      );
    const cos = perHead(0);
    const sin = perHead(half);
    const first = binaryInto('sub', mul(a, cos), mul(b, sin));
    const second = addInto(mul(b, cos), mul(a, sin));
    const column = (t: Tensor) => t.reshape([rows * heads, half, 1]);
    const rotated = interleaved
      ? concat([column(first), column(second)], 2).reshape([rows * heads, rotaryDim])
      : concat([first, second], 1);
    copy(x, rotaryDim === headDim ? rotated : concat([rotated, slice(all, 1, rotaryDim, headDim)], 1));
  });
}
