import fc from 'fast-check';
import type { Batch } from '../../src/core/backend.ts';
import * as ops from '../../src/core/ops.ts';
import type { Tensor } from '../../src/core/tensor.ts';
import { type Case, define } from './case.ts';
import type { Environment } from './environment.ts';

/** Rows of every sequence in a first and in a second step. */
interface Steps {
  readonly sequences: readonly { readonly past: number; readonly rows: number }[];
  /** Columns of the inputs in front of and behind those that take part. */
  readonly before: number;
  readonly after: number;
}

const steps = (past: number, rows: number): fc.Arbitrary<Steps> =>
  fc.record({
    sequences: fc.array(
      fc.record({ past: fc.integer({ min: 0, max: past }), rows: fc.integer({ min: 0, max: rows }) }),
      {
        minLength: 1,
        maxLength: 4,
      },
    ),
    before: fc.integer({ min: 0, max: 5 }),
    after: fc.integer({ min: 0, max: 3 }),
  });
const small = fc.integer({ min: 1, max: 4 });
const dim = fc.oneof(fc.constantFrom(1, 2, 4, 8, 16, 32), fc.integer({ min: 1, max: 40 }));
/** Negative numbers of the size that decay rates have. */
const decays = (e: Environment, n: number): Tensor =>
  e.put(
    e.random.normals(n).map((v) => -Math.abs(v)),
    [n],
  );

/**
 * The same layer in two steps over one state, whose slots are out of order and hold remains of others. Compares both
 * results, and the state.
 */
function run(
  e: Environment,
  { sequences }: Steps,
  shape: readonly number[],
  step: (state: Tensor, batch: Batch) => Tensor,
): Tensor[] {
  const slots = e.random.shuffled(sequences.length + 2);
  const state = e.normal([slots.length, ...shape], 1, false);
  const tables = sequences.map(() => [0]);
  const first = e.batch(
    sequences.map((s) => ({ past: 0, rows: s.past })),
    32,
    tables,
    slots,
  );
  const second = e.batch(sequences, 32, tables, slots);
  return [step(state, first), step(state, second), state];
}

/** `width` columns that take part, among others. */
const columns = (e: Environment, batch: Batch, width: number, { before, after }: Steps): Tensor =>
  e.normal([batch.rows, before + width + after]);

/** States are sums over all rows, which decay. */
const bound = { nmse: 1e-10 };

export const recurrentCases: readonly Case[] = [
  ['decode', steps(6, 1)] as const,
  ['prefill', steps(3, 12)] as const,
].flatMap(([detail, plan]) => [
  define(
    'causalConv',
    detail,
    fc.record({
      plan,
      kernel: fc.integer({ min: 1, max: 5 }),
      channels: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 21, max: 100 })),
      bias: fc.boolean(),
      silu: fc.boolean(),
    }),
    (e, p) => {
      const w = e.normal([p.kernel, p.channels]);
      const bias = p.bias ? e.normal([p.channels]) : undefined;
      return run(e, p.plan, [p.kernel - 1, p.channels], (state, batch) => {
        const x = columns(e, batch, p.channels, p.plan);
        return ops.causalConv(x, w, state, batch, { start: p.plan.before, bias, silu: p.silu });
      });
    },
    bound,
  ),
  define(
    'ssmScan',
    detail,
    fc.record({ plan, groups: small, share: small, headDim: dim, stateDim: dim, limited: fc.boolean() }),
    (e, p) => {
      const { groups, headDim, stateDim } = p;
      const heads = groups * p.share;
      const options = {
        ...{ heads, headDim, groups, stateDim, start: p.plan.before },
        ...{ decay: decays(e, heads), bias: e.normal([heads]), skip: e.normal([heads]) },
        ...(p.limited ? { minStep: 0.3, maxStep: 1.5 } : { minStep: 0, maxStep: Number.POSITIVE_INFINITY }),
      };
      return run(e, p.plan, [heads, stateDim, headDim], (state, batch) => {
        const x = e.normal([batch.rows, heads * headDim + 2 * groups * stateDim]);
        return ops.ssmScan(x, columns(e, batch, heads, p.plan), state, batch, options);
      });
    },
    bound,
  ),
  define(
    'gatedDelta',
    detail,
    fc.record({ plan, keyHeads: small, share: small, keyDim: dim, valueDim: dim, cyclic: fc.boolean() }),
    (e, p) => {
      const { keyHeads, keyDim, valueDim } = p;
      const valueHeads = keyHeads * p.share;
      const options = {
        ...{ keyHeads, valueHeads, keyDim, valueDim, start: p.plan.before, scale: keyDim ** -0.5, eps: 1e-6 },
        ...{ decay: decays(e, valueHeads), bias: e.normal([valueHeads]), cyclic: p.cyclic },
      };
      return run(e, p.plan, [valueHeads, keyDim, valueDim], (state, batch) => {
        const x = e.normal([batch.rows, 2 * keyHeads * keyDim + valueHeads * valueDim]);
        return ops.gatedDelta(x, columns(e, batch, 2 * valueHeads, p.plan), state, batch, options);
      });
    },
    bound,
  ),
]);
