import fc from 'fast-check';
import type { Activation, NormKind } from '../../src/core/backend.ts';
import * as ops from '../../src/core/ops.ts';
import { type Case, define, rows, some, width } from './case.ts';

const kinds: readonly NormKind[] = ['rms', 'layer', 'l2'];
const activations: readonly Activation[] = ['silu', 'gelu', 'geluTanh', 'geluQuick', 'relu', 'relu2'];
const normParams = fc.record({
  rows,
  part: width,
  groups: fc.constantFrom(1, 1, 2, 3),
  weighted: fc.boolean(),
  biased: fc.boolean(),
  plusOne: fc.boolean(),
});

export const normalizeCases: readonly Case[] = [
  ...kinds.map((kind) =>
    define('norm', kind, normParams, (e, p) => {
      const n = p.part * p.groups;
      return ops.norm(e.normal([p.rows, n], 2), {
        kind,
        eps: 1e-3,
        groups: p.groups,
        plusOne: p.plusOne,
        weight: p.weighted ? e.normal([n]) : undefined,
        bias: p.biased ? e.normal([n]) : undefined,
      });
    }),
  ),
  define(
    'norm',
    'group',
    fc.record({
      batch: some,
      groups: some,
      perGroup: some,
      spatial: fc.array(some, { maxLength: 3 }),
      weighted: fc.boolean(),
    }),
    (e, p) => {
      const channels = p.groups * p.perGroup;
      return ops.norm(e.normal([p.batch, channels, ...p.spatial], 2), {
        kind: 'group',
        eps: 1e-3,
        groups: p.groups,
        weight: p.weighted ? e.normal([channels]) : undefined,
        bias: p.weighted ? e.normal([channels]) : undefined,
      });
    },
  ),
  define('addNorm', '', fc.record({ rows, width, kind: fc.constantFrom(...kinds), plusOne: fc.boolean() }), (e, p) => {
    const residual = e.normal([p.rows, p.width], 1, false);
    const weight = e.normal([p.width]);
    const out = ops.addNorm(residual, e.normal([p.rows, p.width]), {
      kind: p.kind,
      eps: 1e-5,
      weight,
      plusOne: p.plusOne,
    });
    return [out, residual];
  }),
  define(
    'softmax',
    '',
    fc.record({ rows, width, scale: fc.constantFrom(1, 0.125, 3), mask: fc.constantFrom('none', 'row', 'full') }),
    (e, p) => {
      const mask = p.mask === 'none' ? undefined : e.normal(p.mask === 'row' ? [p.width] : [p.rows, p.width], 3);
      return ops.softmax(e.normal([p.rows, p.width], 4), p.scale, mask);
    },
  ),
  define('softmax', 'minus infinity', fc.record({ width: some }), (e, p) => {
    const x = e.put(new Float32Array(2 * p.width).fill(-Infinity, 0, p.width + 1), [2, p.width]);
    return ops.softmax(x, 2);
  }),
  ...activations.map((activation) =>
    define('glu', activation, fc.record({ rows, width, interleaved: fc.boolean() }), (e, p) =>
      ops.glu(e.normal([p.rows, 2 * p.width], 3), { activation, interleaved: p.interleaved }),
    ),
  ),
  define('glu', 'clamped', fc.record({ rows, width, interleaved: fc.boolean() }), (e, p) =>
    ops.glu(e.normal([p.rows, 2 * p.width], 4), {
      activation: 'silu',
      interleaved: p.interleaved,
      clamped: { alpha: 1.702, limit: 3 },
    }),
  ),
  define(
    'rope',
    '',
    fc.record({
      rows,
      heads: some,
      half: fc.integer({ min: 0, max: 20 }),
      rest: fc.integer({ min: 0, max: 5 }),
      interleaved: fc.boolean(),
    }),
    (e, p) => {
      const headDim = 2 * p.half + p.rest + (p.half ? 0 : 1);
      const x = e.normal([p.rows, p.heads * headDim], 1, false);
      const cosSin = e.normal([p.rows + 1, 2 * p.half]);
      return ops.rope(x, cosSin, { headDim, rotaryDim: 2 * p.half, interleaved: p.interleaved });
    },
  ),
];
