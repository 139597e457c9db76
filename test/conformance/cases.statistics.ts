import fc from 'fast-check';
import * as ops from '../../src/core/ops.ts';
import { type Case, define, rows, some, width } from './case.ts';

export const statisticsCases: readonly Case[] = [
  define('addSquares', '', fc.record({ rows, width }), (e, p) =>
    ops.addSquares(e.normal([p.width], 1, false), e.normal([p.rows, p.width])),
  ),
  define(
    'addSquares',
    'of a prompt, twice',
    fc.record({ rows: fc.integer({ min: 60, max: 300 }), width: fc.integer({ min: 100, max: 300 }) }),
    (e, p) => {
      const sums = e.normal([p.width], 1, false);
      ops.addSquares(sums, e.normal([p.rows, p.width]));
      return ops.addSquares(sums, e.normal([p.rows, p.width], 3));
    },
  ),
  ...[false, true].map((own) =>
    define(
      'addExpertSquares',
      own ? 'a row for each choice' : 'a row for all choices',
      fc.record({ rows, width, perRow: some, count: some }),
      (e, p) => {
        const sums = e.normal([p.count, p.width], 1, false);
        const counts = e.put(new Float32Array(p.count).fill(3), [p.count], false);
        const x = e.normal([own ? p.rows * p.perRow : p.rows, p.width]);
        ops.addExpertSquares(sums, counts, x, e.integers([p.rows, p.perRow], p.count));
        return [sums, counts];
      },
    ),
  ),
];
