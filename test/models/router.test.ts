/** Which experts are chosen and how they are weighed, against plain arithmetic on numbers. */
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backend } from '../../src/core/backend.ts';
import { storageType } from '../../src/core/dtype.ts';
import { sourceOf } from '../../src/core/io/weightSource.ts';
import { Weights } from '../../src/core/weights.ts';
import { projection } from '../../src/models/blocks/linear.ts';
import type { Routing } from '../../src/models/blocks/router.ts';
import { checkRouting, router } from '../../src/models/blocks/router.ts';
import { backends, codec } from './harness.ts';

interface Case {
  readonly rows: number;
  readonly routing: Routing;
  readonly logits: readonly number[];
  readonly correction: readonly number[] | undefined;
}

const sum = (xs: readonly number[]) => xs.reduce((a, b) => a + b, 0);
const softmax = (xs: readonly number[]) => {
  const top = Math.max(...xs);
  const es = xs.map((x) => Math.exp(x - top));
  return es.map((e) => e / sum(es));
};
/** Positions of the largest, largest first, the earlier one of equals. */
const best = (xs: readonly number[], k: number) =>
  xs
    .map((x, i) => ({ x, i }))
    .sort((a, b) => b.x - a.x || a.i - b.i)
    .slice(0, k)
    .map(({ i }) => i);

/** One row, as published descriptions have it. */
function plain(logits: readonly number[], r: Routing, correction: readonly number[] | undefined) {
  const { topK, groups, renormalize, scale = 1 } = r;
  if (r.scores === 'sparsemixer') {
    const first = best(logits, 1)[0]!;
    const second = best(
      logits.map((x, i) => (i === first ? -Infinity : x)),
      1,
    )[0]!;
    const weigh = (chosen: number, left: readonly number[]) => {
      const top = logits[chosen]!;
      const near = left.map((x, i) => {
        const beaten = (top - logits[i]!) / Math.max(Math.abs(logits[i]!), top) > 2 * r.jitter!;
        return beaten ? -Infinity : x;
      });
      return softmax(near)[chosen]!;
    };
    const rest = logits.map((x, i) => (i === first ? -Infinity : x));
    return { experts: [first, second], weights: [weigh(first, logits), weigh(second, rest)] };
  }
  const scores =
    r.scores === 'sigmoid'
      ? logits.map((x) => 1 / (1 + Math.exp(-x)))
      : r.scores === 'softmax'
        ? softmax(logits)
        : logits;
  let ranked = scores.map((x, i) => x + (correction?.[i] ?? 0));
  if (groups) {
    const size = logits.length / groups.count;
    const merits = Array.from({ length: groups.count }, (_, g) => {
      const own = ranked.slice(g * size, (g + 1) * size).sort((a, b) => b - a);
      return sum(own.slice(0, groups.best));
    });
    const kept = best(merits, groups.kept);
    ranked = ranked.map((x, i) => (kept.includes(Math.floor(i / size)) ? x : -Infinity));
  }
  const experts = best(ranked, topK);
  let weights = experts.map((i) => scores[i]!);
  if (r.scores === 'chosen') weights = softmax(weights);
  else if (renormalize) {
    const { added = 0, least = 0 } = typeof renormalize === 'object' ? renormalize : {};
    const total = Math.max(sum(weights) + added, least);
    weights = weights.map((x) => x / total);
  }
  return { experts, weights: weights.map((x) => x * scale) };
}

/** Distinct numbers in `±spread`. */
function numbers(seed: number, n: number, spread: number): number[] {
  let state = seed >>> 0;
  return Array.from({ length: n }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.fround((state / 2 ** 31 - 1) * spread);
  });
}

const cases: fc.Arbitrary<Case> = fc
  .record({
    rows: fc.integer({ min: 0, max: 5 }),
    size: fc.integer({ min: 2, max: 4 }),
    count: fc.integer({ min: 1, max: 4 }),
    kept: fc.integer({ min: 1, max: 4 }),
    best: fc.constantFrom(1, 2) as fc.Arbitrary<1 | 2>,
    grouped: fc.boolean(),
    scores: fc.constantFrom('softmax', 'sigmoid', 'chosen', 'sparsemixer') as fc.Arbitrary<Routing['scores']>,
    topK: fc.integer({ min: 1, max: 5 }),
    corrected: fc.boolean(),
    renormalize: fc.constantFrom(false, true, { added: 0.1 }, { least: 0.7 }),
    scale: fc.constantFrom(1, 2.5),
    jitter: fc.constantFrom(0.01, 0.2, 0.6),
    seed: fc.integer(),
    spread: fc.constantFrom(1, 6),
  })
  .map((p) => {
    const pool = numbers(p.seed, 96, p.spread);
    const experts = p.size * p.count;
    const kept = Math.min(p.kept, p.count);
    const sparse = p.scores === 'sparsemixer';
    const groups = p.grouped && !sparse ? { count: p.count, kept, best: p.best } : undefined;
    const topK = sparse ? 2 : Math.min(p.topK, groups ? kept * p.size : experts);
    const { scores, renormalize, jitter } = p;
    return {
      rows: p.rows,
      routing: { experts, topK, scores, groups, renormalize, jitter, scale: sparse ? 1 : p.scale },
      logits: pool.slice(0, p.rows * experts),
      correction: p.corrected && !sparse ? pool.slice(96 - experts).map((x) => x / 10) : undefined,
    };
  });

/** Whether two choices lie so close that rounding decides. */
function near(xs: readonly number[]): boolean {
  const sorted = [...xs].sort((a, b) => a - b);
  return sorted.some((x, i) => i > 0 && x - sorted[i - 1]! < 1e-4);
}

describe.each(backends)('$name', ({ create }) => {
  let backend: Backend;
  beforeAll(async () => {
    backend = await create();
  });
  afterAll(() => backend?.dispose());

  /** The router's logits are its input: the matrix is the identity. */
  async function route({ rows, routing, logits, correction }: Case) {
    const { experts } = routing;
    const identity = new Float32Array(experts * experts);
    for (let i = 0; i < experts; i++) identity[i * experts + i] = 1;
    const stored = (name: string, shape: readonly number[], values: Float32Array) =>
      [
        name,
        {
          ...{ name, shape, type: storageType('F32'), order: 0 },
          readRows: async (first: number, n: number, target: Uint8Array) => {
            const width = shape[shape.length - 1]!;
            target.set(new Uint8Array(values.slice(first * width, (first + n) * width).buffer));
          },
        },
      ] as const;
    const tensors = [stored('gate.weight', [experts, experts], identity)];
    if (correction) tensors.push(stored('correction', [experts], Float32Array.from(correction)));
    const w = Weights.open({ backend, source: sourceOf(new Map(tensors)), codec, dtype: 'f32' });
    const gate = projection(w, [{ name: 'gate', rows: experts }], experts, false);
    const choose = router(gate, { ...routing, correction: correction && w.tensor('correction', [experts]) });
    await w.load();
    const x = backend.upload(Float32Array.from(logits), [rows, experts]);
    let found: ReturnType<typeof choose> | undefined;
    const copies: Promise<unknown>[] = [];
    backend.scope(() => {
      found = choose(x);
      copies.push(backend.read(found.weights), backend.read(found.experts));
    });
    const [weights, chosen] = (await Promise.all(copies)) as [Float32Array, Int32Array];
    x.dispose();
    w.dispose();
    return { weights, chosen };
  }

  it('chooses and weighs as published', async () => {
    await fc.assert(
      fc.asyncProperty(cases, async (c) => {
        const { experts, topK } = c.routing;
        const rows = Array.from({ length: c.rows }, (_, r) => c.logits.slice(r * experts, (r + 1) * experts));
        fc.pre(!rows.some((row) => near(row)));
        const { weights, chosen } = await route(c);
        expect(weights.length).toBe(c.rows * topK);
        rows.forEach((row, r) => {
          const expected = plain(row, c.routing, c.correction);
          const own = [...weights.slice(r * topK, (r + 1) * topK)];
          expect([...chosen.slice(r * topK, (r + 1) * topK)]).toEqual(expected.experts);
          own.forEach((x, i) => {
            expect(x).toBeCloseTo(expected.weights[i]!, 4);
          });
        });
      }),
      { numRuns: 60 },
    );
  });
});

describe('choices that cannot be made', () => {
  const groups = (count: number, kept: number, best: 1 | 2) => ({ count, kept, best });
  it.each([
    [{ experts: 4, topK: 5 }, /num_experts_per_tok: expected at most 4/],
    [{ experts: 8, topK: 2, groups: groups(3, 1, 1) }, /n_group: expected a divisor of 8/],
    [{ experts: 4, topK: 2, groups: groups(4, 2, 2) }, /n_group: expected groups of at least 2/],
    [{ experts: 8, topK: 2, groups: groups(2, 3, 1) }, /topk_group: expected at most n_group/],
    [{ experts: 8, topK: 5, groups: groups(4, 2, 1) }, /num_experts_per_tok: expected at most the 4 experts/],
  ] as const)('%j', (routing, message) => {
    expect(() => checkRouting(routing)).toThrow(message);
  });
});
