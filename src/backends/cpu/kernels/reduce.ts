import type { ReduceKind } from '../../../core/backend.ts';
import { defineKernel, type Kernel, split, splitRange } from '../kernel.ts';
import type { Expr, V128 } from '../wasm/expr.ts';
import { f32, f32x4, f64, i32, v128 } from '../wasm/ops.ts';
import { reduceRow, reduceTwin } from './rows.ts';

type Fold = Exclude<ReduceKind, 'argmax'>;

const FOLDS: Readonly<
  Record<
    Fold,
    {
      readonly neutral: number;
      readonly vector: (a: V128, b: V128) => V128;
      readonly one: (a: Expr<'f32'>, b: Expr<'f32'>) => Expr<'f32'>;
      readonly twin: (a: number, b: number) => number;
    }
  >
> = {
  sum: { neutral: 0, vector: f32x4.add, one: f32.add, twin: (a, b) => Math.fround(a + b) },
  mean: { neutral: 0, vector: f32x4.add, one: f32.add, twin: (a, b) => Math.fround(a + b) },
  max: { neutral: -Infinity, vector: f32x4.max, one: f32.max, twin: Math.max },
  min: { neutral: Infinity, vector: f32x4.min, one: f32.min, twin: Math.min },
};

/**
 * Folds the middle axis of `[outer, n, inner]`. With `inner` 1 the elements of a line are neighbours; otherwise four
 * lines are folded at a time. Threads share the lines.
 */
const foldKernel = (kind: Fold) => {
  const { neutral, vector, one, twin } = FOLDS[kind];
  return defineKernel({
    name: `reduce.${kind}`,
    fields: { out: 'i32', x: 'i32', outer: 'i32', n: 'i32', inner: 'i32' },
    emit(f, { out, x, outer, n, inner }, ctx) {
      const lines = f.i32('lines', i32.mul(outer, inner));
      const { from, to } = split(f, lines, ctx);
      const line = f.i32('line', from);
      const p = f.i32('p');
      const count = f.v128('count', f32x4.splat(f32.convertI32S(n)));
      const finish = (v: V128): V128 => (kind === 'mean' ? f32x4.div(v, count) : v);
      f.if(i32.eq(inner, 1), () => {
        f.while(i32.ltU(line, to), () => {
          p.set(i32.add(x, i32.shl(i32.mul(line, n), 2)));
          const fill = f.pooled.f32x4(neutral);
          const all = reduceRow(f, p, i32.shl(n, 2), { neutral: fill, missing: fill, step: vector, combine: vector });
          f.v128StoreLane(32, i32.add(out, i32.shl(line, 2)), f.v128('result', finish(all)), 0);
          line.inc(1);
        });
        f.return();
      });
      const stride = f.i32('stride', i32.shl(inner, 2));
      const end = f.i32('end');
      const position = f.i32('position');
      const start = () => {
        position.set(i32.remU(line, inner));
        p.set(i32.add(x, i32.shl(i32.add(i32.mul(i32.mul(i32.divU(line, inner), n), inner), position), 2)));
        end.set(i32.add(p, i32.mul(n, stride)));
      };
      f.while(i32.ltU(line, to), () => {
        start();
        const room = i32.and(i32.geU(i32.sub(inner, position), 4), i32.geU(i32.sub(to, line), 4));
        f.if(
          room,
          () => {
            const sum = f.v128('sum', f.pooled.f32x4(neutral));
            f.while(i32.ne(p, end), () => {
              sum.set(vector(sum, v128.load(p)));
              p.inc(stride);
            });
            f.v128Store(i32.add(out, i32.shl(line, 2)), finish(sum));
            line.inc(4);
          },
          () => {
            const sum = f.f32('sum', neutral);
            f.while(i32.ne(p, end), () => {
              sum.set(one(sum, f32.load(p)));
              p.inc(stride);
            });
            f.v128StoreLane(32, i32.add(out, i32.shl(line, 2)), f.v128('result', finish(f32x4.splat(sum))), 0);
            line.inc(1);
          },
        );
      });
    },
    twin({ f32 }, { out, x, outer, n, inner }, tid, nt) {
      const [from, to] = splitRange(outer * inner, tid, nt);
      for (let line = from; line < to; line++) {
        const start = (x >>> 2) + Math.floor(line / inner) * n * inner + (line % inner);
        const at = (i: number) => f32[start + i * inner]!;
        let total = neutral;
        if (inner === 1) total = reduceTwin(n, neutral, (sum, i) => twin(sum, at(i)), twin);
        else for (let i = 0; i < n; i++) total = twin(total, at(i));
        f32[(out >>> 2) + line] = kind === 'mean' ? Math.fround(total / n) : total;
      }
    },
  });
};

export const foldKernels = {
  sum: foldKernel('sum'),
  mean: foldKernel('mean'),
  max: foldKernel('max'),
  min: foldKernel('min'),
} as const;

/** First index of the largest number along the middle axis of `[outer, n, inner]`; NaN is never the largest. */
export const argmax = defineKernel({
  name: 'argmax',
  fields: { out: 'i32', x: 'i32', outer: 'i32', n: 'i32', inner: 'i32' },
  emit(f, { out, x, outer, n, inner }, ctx) {
    const lines = f.i32('lines', i32.mul(outer, inner));
    const { from, to } = split(f, lines, ctx);
    const line = f.i32('line');
    const p = f.i32('p');
    const index = f.i32('index');
    const found = f.i32('found');
    const stride = f.i32('stride', i32.shl(inner, 2));
    f.for(line, from, to, 1, () => {
      const first = i32.add(i32.mul(i32.mul(i32.divU(line, inner), n), inner), i32.remU(line, inner));
      const start = f.i32('start', i32.add(x, i32.shl(first, 2)));
      found.set(0);
      index.set(0);
      p.set(start);
      f.if(
        i32.eq(inner, 1),
        () => {
          const lowest = f.pooled.f32x4(-Infinity);
          const best = reduceRow(f, p, i32.shl(n, 2), {
            neutral: lowest,
            missing: lowest,
            step: f32x4.pmax,
            combine: f32x4.pmax,
          });
          // The first vector that holds the maximum, then its first lane, or the rest one by one.
          p.set(start);
          const vectors = f.i32('vectors', i32.and(n, -4));
          f.block((out4) => {
            f.while(i32.ltU(index, vectors), () => {
              f.branchIf(out4, v128.anyTrue(f32x4.eq(v128.load(p), best)));
              index.inc(4);
              p.inc(16);
            });
          });
          const value = f32x4.extractLane(best, 0);
          f.block((done) => {
            f.while(i32.ltU(index, n), () => {
              f.if(f32.eq(f32.load(p), value), () => {
                found.set(index);
                f.branch(done);
              });
              index.inc(1);
              p.inc(4);
            });
          });
        },
        () => {
          const best = f.f32('best', -Infinity);
          f.for(index, 0, n, 1, () => {
            f.if(f32.gt(f32.load(p), best), () => {
              best.set(f32.load(p));
              found.set(index);
            });
            p.inc(stride);
          });
        },
      );
      f.i32Store(i32.add(out, i32.shl(line, 2)), found);
    });
  },
  twin({ f32, i32 }, { out, x, outer, n, inner }, tid, nt) {
    const [from, to] = splitRange(outer * inner, tid, nt);
    for (let line = from; line < to; line++) {
      const start = (x >>> 2) + Math.floor(line / inner) * n * inner + (line % inner);
      let best = -Infinity;
      let found = 0;
      for (let i = 0; i < n; i++) {
        if (f32[start + i * inner]! > best) {
          best = f32[start + i * inner]!;
          found = i;
        }
      }
      i32[(out >>> 2) + line] = found;
    }
  },
});

/** Running sums, kept in double precision, along the middle axis of `[outer, n, inner]`. */
export const cumsum = defineKernel({
  name: 'cumsum',
  fields: { out: 'i32', x: 'i32', outer: 'i32', n: 'i32', inner: 'i32' },
  emit(f, { out, x, outer, n, inner }, ctx) {
    const lines = f.i32('lines', i32.mul(outer, inner));
    const { from, to } = split(f, lines, ctx);
    const line = f.i32('line');
    const offset = f.i32('offset');
    const index = f.i32('index');
    const total = f.local('f64', 'total');
    f.for(line, from, to, 1, () => {
      const first = i32.add(i32.mul(i32.mul(i32.divU(line, inner), n), inner), i32.remU(line, inner));
      offset.set(i32.shl(first, 2));
      total.set(0);
      f.for(index, 0, n, 1, () => {
        total.set(f64.add(total, f64.promoteF32(f32.load(i32.add(x, offset)))));
        f.f32Store(i32.add(out, offset), f32.demoteF64(total));
        offset.inc(i32.shl(inner, 2));
      });
    });
  },
  twin({ f32 }, { out, x, outer, n, inner }, tid, nt) {
    const [from, to] = splitRange(outer * inner, tid, nt);
    for (let line = from; line < to; line++) {
      const first = Math.floor(line / inner) * n * inner + (line % inner);
      let total = 0;
      for (let i = 0; i < n; i++) {
        total += f32[(x >>> 2) + first + i * inner]!;
        f32[(out >>> 2) + first + i * inner] = total;
      }
    }
  },
});

export const reduceKernels = [...Object.values(foldKernels), argmax, cumsum] as readonly Kernel[];
