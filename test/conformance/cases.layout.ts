import fc from 'fast-check';
import type { DType } from '../../src/core/dtype.ts';
import * as ops from '../../src/core/ops.ts';
import type { Tensor } from '../../src/core/tensor.ts';
import { type Case, define, rows, shape, width } from './case.ts';
import type { Environment } from './environment.ts';

const dtype = fc.constantFrom<DType>('f32', 'i32', 'f16', 'u8');
const fraction = fc.integer({ min: 0, max: 999 });
const exact = { nmse: 0 };

function typed(e: Environment, of: readonly number[], type: DType): Tensor {
  const x = e.normal(of, 30);
  return type === 'f32' ? x : ops.cast(x, type);
}

const pick = (f: number, n: number) => Math.floor((f / 1000) * n);

export const layoutCases: readonly Case[] = [
  define(
    'slice',
    '',
    fc.record({ shape, dtype, axis: fraction, start: fraction, step: fc.constantFrom(1, 1, 2, 3, -1, -2) }),
    (e, p) => {
      const axis = pick(p.axis, p.shape.length);
      const n = p.shape[axis] as number;
      const start = pick(p.start, n);
      return ops.slice(typed(e, p.shape, p.dtype), axis, start, p.step > 0 ? n : -1, p.step);
    },
    exact,
  ),
  define(
    'concat',
    '',
    fc.record({
      shape,
      dtype,
      axis: fraction,
      sizes: fc.array(fc.integer({ min: 0, max: 4 }), { minLength: 1, maxLength: 4 }),
    }),
    (e, p) => {
      const axis = pick(p.axis, p.shape.length);
      const parts = p.sizes.map((n) =>
        typed(
          e,
          p.shape.map((d, i) => (i === axis ? n : d)),
          p.dtype,
        ),
      );
      return ops.concat(parts, axis);
    },
    exact,
  ),
  define(
    'permute',
    '',
    fc.record({ shape, dtype, order: fc.nat() }),
    (e, p) => {
      const axes = p.shape.map((_, i) => i);
      let code = p.order;
      for (let i = axes.length - 1; i > 0; i--) {
        const j = code % (i + 1);
        code = Math.floor(code / (i + 1));
        [axes[i], axes[j]] = [axes[j] as number, axes[i] as number];
      }
      return ops.permute(typed(e, p.shape, p.dtype), axes);
    },
    exact,
  ),
  define(
    'expand',
    '',
    fc.record({ shape, dtype, ones: fc.nat() }),
    (e, p) => {
      const small = p.shape.map((d, i) => ((p.ones >> i) & 1 ? 1 : d));
      return ops.expand(typed(e, small, p.dtype), p.shape);
    },
    exact,
  ),
  define(
    'pad',
    '',
    fc.record({ shape, dtype, around: fc.array(fc.integer({ min: 0, max: 3 }), { minLength: 10, maxLength: 10 }) }),
    (e, p) => {
      const x = typed(e, p.shape, p.dtype);
      const n = p.shape.length;
      return [ops.pad(x, p.around.slice(0, n), p.around.slice(5, 5 + n), 7), ops.pad(e.normal([0]), [n], [1], 2)];
    },
    exact,
  ),
  define(
    'gatherRows',
    'tensor',
    fc.record({ shape, dtype, count: rows, more: fc.integer({ min: 0, max: 3 }) }),
    (e, p) => {
      const ids = e.integers([p.count + p.more], p.shape[0] as number);
      return ops.gatherRows(typed(e, p.shape, p.dtype), ids, p.count);
    },
    exact,
  ),
  define(
    'scatterRows',
    'overwrite',
    fc.record({ rows, width, more: fc.integer({ min: 0, max: 5 }) }),
    (e, p) => {
      const ids = e.put(Int32Array.from(e.random.shuffled(p.rows + p.more)), [p.rows + p.more]);
      const out = e.normal([p.rows + p.more, p.width], 1, false);
      return ops.scatterRows(out, e.normal([p.rows, p.width]), ids);
    },
    exact,
  ),
  define('scatterRows', 'accumulate', fc.record({ rows, width }), (e, p) => {
    const out = e.normal([3, p.width], 1, false);
    return ops.scatterRows(out, e.normal([p.rows, p.width]), e.integers([p.rows], 3), true);
  }),
];
