import fc from 'fast-check';
import type { KvDType, NormOptions } from '../../src/core/backend.ts';
import * as ops from '../../src/core/ops.ts';
import type { Tensor } from '../../src/core/tensor.ts';
import { type Case, define } from './case.ts';
import type { Environment, SequenceSpec } from './environment.ts';

const dim = fc.oneof(
  fc.constantFrom(2, 4, 6, 8, 12, 16, 20, 32, 64),
  fc.integer({ min: 1, max: 40 }).map((n) => 2 * n),
);
const geometry = fc.record({
  kvHeads: fc.integer({ min: 1, max: 3 }),
  group: fc.integer({ min: 1, max: 4 }),
  headDim: dim,
  valueDim: dim,
  sameDim: fc.boolean(),
});
const sequences = (past: number, rows: number) =>
  fc.array(fc.record({ past: fc.integer({ min: 0, max: past }), rows: fc.integer({ min: 0, max: rows }) }), {
    minLength: 1,
    maxLength: 3,
  });

interface Paged {
  readonly geometry: { kvHeads: number; group: number; headDim: number; valueDim: number; sameDim: boolean };
  readonly sequences: readonly SequenceSpec[];
  readonly blockSize: number;
  readonly dtype: KvDType;
  readonly qNorm: boolean;
  readonly kNorm: boolean;
  readonly normAfterRope: boolean;
  readonly rope: 'none' | 'halves' | 'pairs' | 'partial';
  readonly window: number | undefined;
  readonly softcap: number | undefined;
  readonly sinks: boolean;
  /** Values are the first entries of the keys, and queries do not come with the keys. */
  readonly latent: boolean;
  /** Moves the first block of the first sequence between the two steps. */
  readonly copied: boolean;
}

const paged = (past: number, rows: number, dtype: KvDType): fc.Arbitrary<Paged> =>
  fc.record({
    geometry,
    sequences: sequences(past, rows),
    blockSize: fc.constantFrom(32, 32, 64, 96),
    dtype: fc.constant(dtype),
    qNorm: fc.boolean(),
    kNorm: fc.boolean(),
    normAfterRope: fc.boolean(),
    rope: fc.constantFrom('none', 'halves', 'pairs', 'partial' as const),
    window: fc.option(fc.integer({ min: 1, max: 40 }), { nil: undefined }),
    softcap: fc.option(fc.constantFrom(2, 30), { nil: undefined }),
    sinks: fc.boolean(),
    latent: fc.constant(false),
    copied: fc.boolean(),
  });

/** Stores the past in one step and the rows in a second one, then attends. */
function runPaged(e: Environment, p: Paged): Tensor[] {
  const { kvHeads, group, headDim } = p.geometry;
  const { latent: valuesInKeys } = p;
  const ownDim = p.geometry.sameDim ? headDim : p.geometry.valueDim;
  const valueDim = valuesInKeys ? Math.min(headDim, ownDim) : ownDim;
  const heads = kvHeads * group;
  const blocksOf = (s: SequenceSpec) => Math.ceil((s.past + s.rows) / p.blockSize);
  const total = p.sequences.reduce((n, s) => n + blocksOf(s), 1);
  const order = e.random.shuffled(total);
  const tables = p.sequences.map((s) => order.splice(0, blocksOf(s)));
  const cache = e.keep(
    ops.createKvCache(
      e.backend,
      { kvHeads, keyDim: headDim, valueDim, valuesInKeys, dtype: p.dtype },
      total,
      p.blockSize,
    ),
  );
  const rotaryDim = p.rope === 'partial' ? 2 * Math.ceil(headDim / 4) : headDim;
  const rope = p.rope === 'none' ? undefined : { headDim, rotaryDim, interleaved: p.rope === 'pairs' };
  const normOf = (wanted: boolean, kind: 'rms' | 'layer'): NormOptions | undefined =>
    wanted ? { kind, eps: 1e-5, weight: e.normal([headDim]), plusOne: kind === 'rms' } : undefined;
  const options = {
    ...{ heads, kvHeads, headDim, valueDim, rope, normAfterRope: p.normAfterRope },
    qNorm: normOf(p.qNorm, 'rms'),
    kNorm: normOf(p.kNorm, p.normAfterRope ? 'layer' : 'rms'),
  };
  const store = (steps: readonly SequenceSpec[]) => {
    const batch = e.batch(steps, p.blockSize, tables);
    const cosSin = rope && e.normal([batch.rows, rotaryDim]);
    const fused = { ...options, heads: valuesInKeys ? 0 : heads };
    const width = (fused.heads + kvHeads) * headDim + (valuesInKeys ? 0 : kvHeads * valueDim);
    const stored = ops.qkvStore(e.normal([batch.rows, width]), cosSin, cache, batch, fused);
    return { batch, q: valuesInKeys ? e.normal([batch.rows, heads * headDim]) : stored };
  };
  store(p.sequences.map((s) => ({ past: 0, rows: s.past })));
  const [first, spare] = [tables[0]?.[0], order[0]];
  if (p.copied && first !== undefined && spare !== undefined) {
    ops.copyKvBlock(e.backend, cache, first, spare);
    tables[0]?.splice(0, 1, spare);
  }
  const { batch, q } = store(p.sequences);
  const out = ops.attention(q, cache, batch, {
    ...{ heads, kvHeads, headDim, valueDim, scale: headDim ** -0.5, window: p.window, softcap: p.softcap },
    sinks: p.sinks ? e.normal([heads]) : undefined,
  });
  return [q, out];
}

/** One or more heads of latent attention. */
const latent = (past: number, rows: number, dtype: KvDType) =>
  paged(past, rows, dtype).map((p): Paged => ({ ...p, latent: true }));

/** Contexts long enough to be cut into pieces. */
const long = (dtype: KvDType) =>
  fc.tuple(paged(0, 0, dtype), sequences(400, 2), fc.integer({ min: 1, max: 4 })).map(
    ([p, added, half]): Paged => ({
      ...p,
      geometry: { ...p.geometry, headDim: 4 * half, valueDim: 2 * half },
      sequences: added.slice(0, 2).map((s) => ({ past: s.past + 800, rows: s.rows })),
      window: p.window && 20 * p.window,
    }),
  );

export const attentionCases: readonly Case[] = [
  ...(['f32', 'f16', 'q8_0'] as const).flatMap((dtype) => {
    // A last bit of difference can round a cached number the other way: by a part in 2^11, or in 127 of the largest of
    // 32. Scales of q8_0 caches are of full or of half precision.
    const bound = { f32: {}, f16: { nmse: 1e-9 }, q8_0: { nmse: 1e-4 } }[dtype];
    return [
      define('attention', `decode, ${dtype}`, paged(150, 1, dtype), runPaged, bound),
      define('attention', `prefill, ${dtype}`, paged(20, 40, dtype), runPaged, bound),
      define('attention', `mixed, ${dtype}`, paged(70, 5, dtype), runPaged, bound),
      define('attention', `long, ${dtype}`, long(dtype), runPaged, bound),
      define('attention', `values in keys, decode, ${dtype}`, latent(150, 1, dtype), runPaged, bound),
      define('attention', `values in keys, prefill, ${dtype}`, latent(70, 20, dtype), runPaged, bound),
    ];
  }),
  define(
    'denseAttention',
    '',
    fc.record({
      geometry,
      rows: fc.integer({ min: 0, max: 20 }),
      more: fc.integer({ min: 1, max: 30 }),
      causal: fc.boolean(),
      mask: fc.constantFrom('none', 'shared', 'byHead'),
      softcap: fc.option(fc.constantFrom(3), { nil: undefined }),
    }),
    (e, p) => {
      const { kvHeads, group, headDim } = p.geometry;
      const valueDim = p.geometry.sameDim ? headDim : p.geometry.valueDim;
      const heads = kvHeads * group;
      const keys = p.rows + p.more;
      const q = e.normal([p.rows, heads * headDim]);
      const k = e.normal([keys, kvHeads * headDim]);
      const v = e.normal([keys, kvHeads * valueDim]);
      const mask =
        p.mask === 'none' ? undefined : e.normal(p.mask === 'shared' ? [p.rows, keys] : [heads, p.rows, keys], 2);
      const scale = headDim ** -0.5;
      return ops.denseAttention(
        q,
        k,
        v,
        { heads, kvHeads, headDim, valueDim, scale, causal: p.causal, softcap: p.softcap },
        mask,
      );
    },
  ),
];
