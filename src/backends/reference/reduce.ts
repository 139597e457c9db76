import type { ReduceKind } from '../../core/backend.ts';
import type { Tensor } from '../../core/tensor.ts';
import { floats, ints } from './memory.ts';

/** Calls `visit(line, start)` for every line along `axis`, whose elements are `stride` apart. */
function lines(x: Tensor, axis: number, visit: (line: number, start: number) => void): number {
  const n = x.shape[axis]!;
  const inner = x.shape.slice(axis + 1).reduce((p, d) => p * d, 1);
  const outer = x.shape.slice(0, axis).reduce((p, d) => p * d, 1);
  for (let o = 0; o < outer; o++) for (let i = 0; i < inner; i++) visit(o * inner + i, o * n * inner + i);
  return inner;
}

export function reduce(kind: ReduceKind, out: Tensor, x: Tensor, axis: number): void {
  const from = floats(x);
  const n = x.shape[axis]!;
  const stride = x.shape.slice(axis + 1).reduce((p, d) => p * d, 1);
  const to = kind === 'argmax' ? ints(out) : floats(out);
  lines(x, axis, (line, start) => {
    let total = 0;
    let best = kind === 'min' ? Infinity : -Infinity;
    let bestAt = 0;
    for (let i = 0; i < n; i++) {
      const v = from[start + i * stride]!;
      total += v;
      if (kind === 'min') best = Math.min(best, v);
      else if (v > best) {
        best = v;
        bestAt = i;
      } else if (Number.isNaN(v) && kind === 'max') best = v;
    }
    to[line] = kind === 'sum' ? total : kind === 'mean' ? total / n : kind === 'argmax' ? bestAt : best;
  });
}

export function cumsum(out: Tensor, x: Tensor, axis: number): void {
  const from = floats(x);
  const to = floats(out);
  const n = x.shape[axis]!;
  const stride = x.shape.slice(axis + 1).reduce((p, d) => p * d, 1);
  lines(x, axis, (_, start) => {
    let total = 0;
    for (let i = 0; i < n; i++) to[start + i * stride] = total += from[start + i * stride]!;
  });
}

export function topk(values: Tensor, indices: Tensor, x: Tensor, k: number): void {
  const from = floats(x);
  const best = floats(values);
  const at = ints(indices);
  const { width } = x;
  for (let r = 0; r < x.rowCount; r++) {
    const row = from.subarray(r * width, (r + 1) * width);
    const order = Array.from(row.keys()).sort((i, j) => rank(row[j]!) - rank(row[i]!) || i - j);
    for (let j = 0; j < k; j++) {
      at[r * k + j] = order[j]!;
      best[r * k + j] = row[order[j]!]!;
    }
  }
}

/** Finite stand-in, so that differences order infinities, and NaN comes last. */
function rank(v: number): number {
  return Number.isNaN(v) ? -Number.MAX_VALUE / 2 : Math.max(-1e300, Math.min(1e300, v));
}
