import fc from 'fast-check';
import { type StorageTypeName, storageType } from '../../src/core/dtype.ts';
import * as ops from '../../src/core/ops.ts';
import { type Case, define, rows, some } from './case.ts';
import type { WeightSpec } from './environment.ts';

const types: readonly StorageTypeName[] = [
  'F32',
  'F16',
  'BF16',
  'Q4_0',
  'Q4_1',
  'Q5_0',
  'Q5_1',
  'Q8_0',
  'Q4_K',
  'Q6_K',
  'IQ4_XS',
  'AFQ3_G32',
  'AFQ4',
  'AFQ8_G128',
  'F8Q8',
  'NF4',
];
const block = (type: StorageTypeName) => storageType(type).blockSize;
const features = fc.integer({ min: 1, max: 40 });
const blocks = fc.integer({ min: 1, max: 5 });
const of = (type: StorageTypeName, p: { features: number; blocks: number }): readonly WeightSpec[] => [
  { shape: [p.features, p.blocks * block(type)], type },
];

export const linearCases: readonly Case[] = [
  ...types.flatMap((type) => [
    define(
      'linear',
      type,
      fc.record({ rows, features, blocks }),
      (e, p) => {
        const w = e.weights[0];
        if (!w) return [];
        return ops.linear(e.normal([p.rows, w.shape[1]]), w);
      },
      { weights: (p) => of(type, p) },
    ),
    define(
      'gatherRows',
      `weight in ${type}`,
      fc.record({ rows, features, blocks }),
      (e, p) => {
        const w = e.weights[0];
        if (!w) return [];
        return ops.gatherRows(w, e.integers([p.rows], p.features));
      },
      { weights: (p) => of(type, p) },
    ),
  ]),
  define(
    'linear',
    'bias, accumulate',
    fc.record({ rows, features, blocks: fc.integer({ min: 1, max: 90 }) }),
    (e, p) => {
      const w = e.weights[0];
      if (!w) return [];
      const bias = e.normal([p.features]);
      const x = e.normal([p.rows, p.blocks]);
      const residual = e.normal([p.rows, p.features], 1, false);
      return [
        ops.linear(x, w, { bias }),
        ops.linearAdd(residual, x, w),
        ops.linearAdd(residual, x, w, { bias, accumulate: true }),
      ];
    },
    { weights: (p) => of('F32', p) },
  ),
  define(
    'linearExperts',
    '',
    fc.record({
      rows,
      features,
      blocks,
      experts: some,
      perRow: fc.integer({ min: 1, max: 3 }),
      spread: fc.boolean(),
      type: fc.constantFrom<StorageTypeName>('F32', 'Q8_0', 'Q4_0'),
    }),
    (e, p) => {
      const w = e.weights[0];
      if (!w) return [];
      const chosen = e.integers([p.rows, p.perRow], p.experts);
      const x = e.normal([p.spread ? p.rows * p.perRow : p.rows, w.shape[1]]);
      return ops.linearExperts(x, w, chosen, p.experts);
    },
    { weights: (p) => [{ shape: [p.experts * p.features, p.blocks * block(p.type)], type: p.type }] },
  ),
  define(
    'matmul',
    '',
    fc.record({
      lead: fc.array(some, { maxLength: 2 }),
      m: some,
      k: fc.integer({ min: 1, max: 70 }),
      n: fc.integer({ min: 1, max: 30 }),
      transposed: fc.boolean(),
    }),
    (e, p) => {
      const a = e.normal([...p.lead, p.m, p.k]);
      const b = e.normal([...p.lead, ...(p.transposed ? [p.n, p.k] : [p.k, p.n])]);
      return ops.matmul(a, b, p.transposed);
    },
  ),
];
