import type { LinearOptions } from '../../core/backend.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Weight } from '../../core/weight.ts';
import { floats, ints } from './memory.ts';
import type { ReferenceWeight } from './weight.ts';

/** `Σ a[at + i] b[bt + i·stride]`. */
export function dot(a: Float32Array, at: number, b: Float32Array, bt: number, n: number, stride = 1): number {
  let total = 0;
  for (let i = 0; i < n; i++) total += a[at + i]! * b[bt + i * stride]!;
  return total;
}

export function matmul(out: Tensor, a: Tensor, b: Tensor, transposed: boolean): void {
  const left = floats(a);
  const right = floats(b);
  const to = floats(out);
  const m = a.dim(-2);
  const k = a.width;
  const n = out.width;
  for (let g = 0; g < out.size / (m * n); g++) {
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        const column = g * k * n + (transposed ? j * k : j);
        to[(g * m + i) * n + j] = dot(left, (g * m + i) * k, right, column, k, transposed ? 1 : n);
      }
    }
  }
}

export function linear(out: Tensor, x: Tensor, w: Weight, options: LinearOptions): void {
  const [features, width] = w.shape;
  const weight = w.data as ReferenceWeight;
  const from = floats(x);
  const to = floats(out);
  const bias = options.bias && floats(options.bias);
  for (let o = 0; o < features; o++) {
    const row = weight.row(o);
    for (let r = 0; r < x.rowCount; r++) {
      const before = options.accumulate ? to[r * features + o]! : 0;
      to[r * features + o] = before + dot(from, r * width, row, 0, width) + (bias?.[o] ?? 0);
    }
  }
}

export function linearExperts(out: Tensor, x: Tensor, w: Weight, experts: Tensor, expertCount: number): void {
  const width = w.shape[1];
  const features = w.shape[0] / expertCount;
  const weight = w.data as ReferenceWeight;
  const from = floats(x);
  const to = floats(out);
  const chosen = ints(experts);
  const perRow = experts.size / x.shape[0]!;
  for (let p = 0; p < experts.size; p++) {
    for (let o = 0; o < features; o++) {
      const row = weight.row(chosen[p]! * features + o);
      to[p * features + o] = dot(from, Math.floor(p / perRow) * width, row, 0, width);
    }
  }
}
