/** Reductions of a row of floats, in one order for kernels and twins: 16 running values, then a tree. */
import type { Expr, V128 } from '../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { f32x4, i8x16, i32, v128 } from '../wasm/ops.ts';
import { loadPart } from './loops.ts';

const ACCUMULATORS = 4;
const BLOCK_BYTES = 16 * ACCUMULATORS;

interface Reduction {
  /** Neutral vector: the start, and what stands for missing lanes. */
  readonly neutral: V128;
  step(sum: V128, x: Local<'v128'>): V128;
  /** What a missing lane of `x` must be so that `step` leaves the sum alone; zero when absent. */
  readonly missing?: V128;
  combine(a: V128, b: V128): V128;
}

/** Reduces the floats in `[p, p + bytes)`; `p` ends behind the last whole vector. The result is the same in all lanes. */
export function reduceRow(f: FunctionBuilder, p: Local<'i32'>, bytes: Expr<'i32'>, r: Reduction): Local<'v128'> {
  const left = f.i32('left', bytes);
  const sums = Array.from({ length: ACCUMULATORS }, () => f.v128('sum', r.neutral));
  f.while(i32.geS(left, BLOCK_BYTES), () => {
    sums.forEach((sum, i) => {
      sum.set(r.step(sum, f.v128('x', v128.load(p, 16 * i))));
    });
    p.inc(BLOCK_BYTES);
    left.inc(-BLOCK_BYTES);
  });
  const first = sums[0]!;
  f.while(i32.geS(left, 16), () => {
    first.set(r.step(first, f.v128('x', v128.load(p))));
    p.inc(16);
    left.inc(-16);
  });
  f.if(left, () => {
    const second = i32.gtS(left, 4);
    const third = i32.gtS(left, 8);
    const x = loadPart(f, p, second, third);
    if (r.missing) {
      const lanes = (n: number) => Array.from({ length: 16 }, (_, i) => (i < 4 * n ? 0 : 255));
      const fill = (n: number) => x.set(v128.bitselect(r.missing!, x, v128.const(lanes(n))));
      f.if(
        third,
        () => fill(3),
        () =>
          f.if(
            second,
            () => fill(2),
            () => fill(1),
          ),
      );
    }
    first.set(r.step(first, x));
  });
  while (sums.length > 1) sums.push(f.v128('sum', r.combine(sums.shift()!, sums.shift()!)));
  return spread(f, sums[0]!, r.combine);
}

/** The four lanes combined, in every lane. */
export function spread(f: FunctionBuilder, x: Local<'v128'>, combine: (a: V128, b: V128) => V128): Local<'v128'> {
  const pairs = f.v128(
    'pairs',
    combine(x, i8x16.shuffle(x, x, [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7])),
  );
  return f.v128(
    'all',
    combine(pairs, i8x16.shuffle(pairs, pairs, [4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11])),
  );
}

/** The sum of `map(x)` over a row. */
export function sumRow(
  f: FunctionBuilder,
  p: Local<'i32'>,
  bytes: Expr<'i32'>,
  step: (sum: V128, x: Local<'v128'>) => V128,
  missing?: V128,
): Local<'v128'> {
  return reduceRow(f, p, bytes, { neutral: v128.zero(), step, combine: f32x4.add, ...(missing ? { missing } : {}) });
}

/** The same reduction in a twin: `step(sum, i)` takes in element `i`. */
export function reduceTwin(
  n: number,
  neutral: number,
  step: (sum: number, i: number) => number,
  combine: (a: number, b: number) => number,
): number {
  const sums = new Float64Array(16).fill(neutral);
  const blocks = n - (n % 16);
  for (let i = 0; i < n; i++) {
    const lane = i < blocks ? i % 16 : i % 4;
    sums[lane] = step(sums[lane]!, i);
  }
  const lanes = [0, 1, 2, 3].map((l) =>
    combine(combine(sums[l]!, sums[l + 4]!), combine(sums[l + 8]!, sums[l + 12]!)),
  ) as [number, number, number, number];
  return combine(combine(lanes[0], lanes[2]), combine(lanes[1], lanes[3]));
}
