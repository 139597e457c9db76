import fc from 'fast-check';
import type { ReduceKind } from '../../src/core/backend.ts';
import * as ops from '../../src/core/ops.ts';
import { type Case, define, rows, shape, width } from './case.ts';

const kinds: readonly ReduceKind[] = ['sum', 'mean', 'max', 'min', 'argmax'];
const axis = fc.integer({ min: 0, max: 999 });
const at = (f: number, n: number) => Math.floor((f / 1000) * n);

export const reduceCases: readonly Case[] = [
  ...kinds.map((kind) =>
    define(
      'reduce',
      kind,
      fc.record({ shape, axis }),
      // An offset keeps sums away from zero, where their relative error has no bound.
      (e, p) => ops.reduce(kind, ops.scale(e.normal(p.shape), 1, 3), at(p.axis, p.shape.length)),
      { nmse: kind === 'sum' || kind === 'mean' ? 1e-12 : 0 },
    ),
  ),
  define('reduce', 'argmax of ties', fc.record({ rows, width }), (e, p) => {
    return ops.reduce('argmax', ops.unary('round', e.normal([p.rows, p.width])), 1);
  }),
  define('cumsum', '', fc.record({ shape, axis }), (e, p) =>
    ops.cumsum(ops.scale(e.normal(p.shape), 1, 3), at(p.axis, p.shape.length)),
  ),
  define(
    'topk',
    '',
    fc.record({ rows, width, k: axis, ties: fc.boolean() }),
    (e, p) => {
      const x = e.normal([p.rows, p.width], 2);
      const { values, indices } = ops.topk(p.ties ? ops.unary('round', x) : x, 1 + at(p.k, p.width));
      return [values, indices];
    },
    { nmse: 0 },
  ),
  define(
    'topk',
    'a vocabulary row',
    fc.record({ width: fc.integer({ min: 5000, max: 9000 }), k: fc.integer({ min: 1, max: 64 }) }),
    (e, p) => {
      const { values, indices } = ops.topk(e.normal([2, p.width]), p.k);
      return [values, indices];
    },
    { nmse: 0 },
  ),
];
