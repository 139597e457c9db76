import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Sampler, SamplerWorkspace } from '../../src/core/engine/sampler.ts';
import {
  applyDry,
  applyFrequencyPresence,
  applyRepetition,
  type TokenHistory,
} from '../../src/core/engine/sampling/penalties.ts';
import type { SamplingParams } from '../../src/core/engine/types.ts';
import { InferenceError } from '../../src/core/errors.ts';
import { naiveDistribution } from './naiveSampler.ts';

interface Case {
  name: string;
  logits: number[];
  context: number[];
  prompt_len: number;
  temperature?: number;
  top_k?: number;
  top_p?: number;
  min_p?: number;
  frequency?: number;
  presence?: number;
  repetition?: number;
  bias?: Record<string, number>;
  dry?: { multiplier: number; base: number; allowed: number; breakers: number[] };
  expected: {
    after_dry?: number[];
    after_penalties: number[];
    final_logits: number[];
    argmax: number;
    probs_before_truncation?: number[];
    probs?: number[];
    top5_logprobs: [number, number][];
  };
}

const fixture = new URL('../fixtures/engine/sampling.json', import.meta.url);
const { cases } = JSON.parse(readFileSync(fixture, 'utf8')) as { cases: Case[] };

function paramsOf(c: Case): SamplingParams {
  return {
    temperature: c.temperature,
    topK: c.top_k,
    topP: c.top_p,
    minP: c.min_p,
    frequencyPenalty: c.frequency,
    presencePenalty: c.presence,
    repetitionPenalty: c.repetition,
    topNLogprobs: 5,
    logitsBias: c.bias && new Map(Object.entries(c.bias).map(([id, bias]) => [Number(id), bias])),
    dryParams: c.dry && { multiplier: c.dry.multiplier, base: c.dry.base, allowedLength: c.dry.allowed },
  };
}

function historyOf(c: Case): TokenHistory {
  return { tokens: Int32Array.from(c.context), promptLength: c.prompt_len, length: c.context.length };
}

function expectClose(actual: ArrayLike<number>, expected: readonly number[], tolerance: number): void {
  expect(actual.length).toBe(expected.length);
  for (let i = 0; i < expected.length; i++) {
    // Beyond 100, float32 itself is coarser than the tolerance.
    const bound = tolerance * Math.max(1, Math.abs(expected[i]!) / 100);
    expect(Math.abs(actual[i]! - expected[i]!)).toBeLessThan(bound);
  }
}

describe('oracle cases', () => {
  it('are all there', () => expect(cases.length).toBe(81));

  it.each(cases.map((c, i) => [`${i} ${c.name}`, c] as const))('%s', (_, c) => {
    const vocabSize = c.logits.length;
    const logits = Float32Array.from(c.logits);
    const context = { prompt: c.context.slice(0, c.prompt_len), generated: c.context.slice(c.prompt_len) };
    const options = { vocabSize, breakers: c.dry?.breakers, logprobs: true };

    const row = logits.slice();
    const scratch = new Int32Array(vocabSize);
    if (c.dry) {
      const rule = { ...c.dry, allowedLength: c.dry.allowed, breakers: new Set(c.dry.breakers) };
      applyDry(row, historyOf(c), rule, scratch);
      expectClose(row, c.expected.after_dry!, 1e-4);
    }
    applyFrequencyPresence(row, historyOf(c), c.frequency ?? 0, c.presence ?? 0, scratch);
    applyRepetition(row, historyOf(c), c.repetition ?? 1, scratch);
    expectClose(row, c.expected.after_penalties, 1e-4);
    expect(scratch.every((n) => n === 0)).toBe(true);

    let seen: Float32Array | undefined;
    const spy = new Sampler(paramsOf(c), { ...options, processors: [(l) => void (seen = l.slice())] });
    spy.sample(logits, context);
    expectClose(seen!, c.expected.final_logits, 1e-4);

    const sampler = new Sampler(paramsOf(c), options);
    const { ids, probabilities } = sampler.distribution(logits, context);
    const dense = new Float64Array(vocabSize);
    for (let i = 0; i < ids.length; i++) dense[ids[i]!] = probabilities[i]!;
    if (c.expected.probs) expectClose(dense, c.expected.probs, 1e-6);
    else expect([...ids]).toEqual([c.expected.argmax]);

    const greedy = new Sampler({ ...paramsOf(c), topK: 1 }, options).sample(logits, context);
    expect(greedy.token).toBe(c.expected.argmax);

    const { token, logprob, topLogprobs } = sampler.sample(logits, context);
    expect(dense[token]).toBeGreaterThan(0);
    const before = c.expected.probs_before_truncation;
    if (before) expect(Math.abs(logprob! - Math.log(before[token]!))).toBeLessThan(1e-5);
    if (before && new Set(c.logits).size > 5) {
      expect(topLogprobs!.map((t) => t.token)).toEqual(c.expected.top5_logprobs.map(([id]) => id));
      expectClose(
        topLogprobs!.map((t) => t.logprob),
        c.expected.top5_logprobs.map(([, p]) => p),
        1e-5,
      );
    }
    expect([...logits]).toEqual(c.logits.map(Math.fround));
  });
});

const logit = fc.oneof(
  { weight: 8, arbitrary: fc.float({ min: -20, max: 20, noNaN: true }) },
  { weight: 1, arbitrary: fc.constantFrom(0, 1, 2) },
  { weight: 1, arbitrary: fc.constant(Number.NEGATIVE_INFINITY) },
);
const optional = <T>(a: fc.Arbitrary<T>) => fc.option(a, { nil: undefined, freq: 1 });
const params: fc.Arbitrary<SamplingParams> = fc.record({
  temperature: optional(fc.double({ min: 0.1, max: 3, noNaN: true })),
  topK: optional(fc.integer({ min: -1, max: 900 })),
  topP: optional(fc.double({ min: 0, max: 1.2, noNaN: true })),
  minP: optional(fc.double({ min: 0, max: 1, noNaN: true })),
  frequencyPenalty: optional(fc.double({ min: -1, max: 1, noNaN: true })),
  presencePenalty: optional(fc.double({ min: -1, max: 1, noNaN: true })),
  repetitionPenalty: optional(fc.double({ min: 0.5, max: 2, noNaN: true })),
  logitsBias: optional(
    fc.array(fc.tuple(fc.nat(1000), fc.double({ min: -5, max: 5, noNaN: true }))).map((list) => new Map(list)),
  ),
  dryParams: optional(
    fc.record({
      multiplier: fc.double({ min: 0, max: 2, noNaN: true }),
      base: fc.double({ min: 1, max: 2, noNaN: true }),
      allowedLength: fc.integer({ min: 0, max: 4 }),
    }),
  ),
});

describe('against a plain float64 model', () => {
  it('keeps the same tokens with the same probabilities', () => {
    fc.assert(
      fc.property(
        fc.array(logit, { minLength: 2, maxLength: 40 }),
        fc.constantFrom(1, 2, 30, 60),
        params,
        fc.array(fc.nat(45), { minLength: 1, maxLength: 60 }),
        fc.nat(60),
        fc.array(fc.nat(45), { maxLength: 4 }),
        (base, repeat, p, tokens, split, breakers) => {
          // Repeated with small shifts so that rows exceed the heap's limit now and then.
          const logits = Float32Array.from(
            { length: base.length * repeat },
            (_, i) => base[i % base.length]! - i * 1e-3,
          );
          fc.pre(logits.some((x) => x !== Number.NEGATIVE_INFINITY));
          const context = { prompt: tokens.slice(0, split), generated: tokens.slice(split) };
          const expected = naiveDistribution(logits, context, p, breakers);
          const sampler = new Sampler(p, { vocabSize: logits.length, breakers });
          const actual = sampler.distribution(logits, context);
          const dense = new Float64Array(logits.length);
          for (let i = 0; i < actual.ids.length; i++) dense[actual.ids[i]!] = actual.probabilities[i]!;
          // A rounding difference may move the last token in or out where two are all but equal.
          fc.pre(expected.margin > 1e-6);
          let worst = 0;
          let misplaced = 0;
          for (let i = 0; i < logits.length; i++) {
            worst = Math.max(worst, Math.abs(dense[i]! - expected.probabilities[i]!));
            if (dense[i]! > 0 !== expected.probabilities[i]! > 0) misplaced++;
          }
          expect(worst).toBeLessThan(2e-6);
          expect(misplaced).toBe(0);
          expect(expected.probabilities[sampler.sample(logits, context).token]).toBeGreaterThan(0);
        },
      ),
      { numRuns: 400 },
    );
  });

  it('drops what is not above min-p, exactly', () => {
    const logits = Float32Array.from({ length: 1000 }, (_, i) => -i / 64);
    for (const minP of [0.5, 0.1, 0.011, Math.exp(-1)]) {
      const { ids } = new Sampler({ temperature: 1, minP }, { vocabSize: 1000 }).distribution(logits, none);
      const kept = [...logits].filter((logit) => Math.exp(logit) > minP).length;
      expect([...ids]).toEqual(Array.from({ length: kept }, (_, i) => i));
    }
  });

  it('breaks ties by the lower id, whatever the number kept', () => {
    const flat = new Float32Array(2000);
    for (const topK of [2, 512, 513, 1999]) {
      const { ids } = new Sampler({ temperature: 1, topK }, { vocabSize: 2000 }).distribution(flat, none);
      expect([...ids].sort((a, b) => a - b)).toEqual(Array.from({ length: topK }, (_, i) => i));
    }
    const { ids } = new Sampler({ temperature: 1, topP: 0.25 }, { vocabSize: 2000 }).distribution(flat, none);
    expect([...ids].sort((a, b) => a - b)).toEqual(Array.from({ length: 500 }, (_, i) => i));
  });
});

const none = { prompt: [0], generated: [] };
const noTokens = new Int32Array(0);

describe('drawing', () => {
  it('follows the distribution', () => {
    const logits = Float32Array.from([1, 0, 2, -1, 0.5, -8]);
    const draws = 20000;
    const counts = new Float64Array(logits.length);
    const generated: number[] = [];
    const sampler = new Sampler({ temperature: 1 }, { vocabSize: 6, seed: 1 });
    for (let i = 0; i < draws; i++) {
      const token = sampler.next(logits, { tokens: noTokens, promptLength: 0, length: i });
      counts[token]!++;
      generated.push(token);
    }
    const { probabilities } = naiveDistribution(logits, none, { temperature: 1 }, []);
    let chi2 = 0;
    for (let i = 0; i < 6; i++) chi2 += (counts[i]! - draws * probabilities[i]!) ** 2 / (draws * probabilities[i]!);
    expect(chi2).toBeLessThan(20.5); // 5 degrees of freedom: exceeded once in 1000 seeds
    const pairs = generated.filter((t, i) => i > 0 && t === generated[i - 1]).length / draws;
    const expected = probabilities.reduce((s, p) => s + p * p, 0);
    expect(Math.abs(pairs - expected)).toBeLessThan(0.015);
  });

  it('depends on seed, stream and place alone', () => {
    const logits = Float32Array.from({ length: 100 }, (_, i) => Math.sin(i));
    const workspace = new SamplerWorkspace(100);
    const run = (seed: number, stream: number) => {
      const sampler = new Sampler({ temperature: 1 }, { vocabSize: 100, seed, stream, workspace });
      return [5, 3, 4, 3].map((n) => sampler.sample(logits, { prompt: [1], generated: new Array(n).fill(2) }).token);
    };
    const first = run(7, 0);
    expect(first[1]).toBe(first[3]);
    expect(run(7, 0)).toEqual(first);
    expect(run(8, 0)).not.toEqual(first);
    expect(run(7, 1)).not.toEqual(first);
    expect(run(7 + 2 ** 32, 0)).not.toEqual(first);
    expect(run(-7, 0)).not.toEqual(first);
  });

  it('never draws a token without weight', () => {
    const logits = new Float32Array(1000).fill(Number.NEGATIVE_INFINITY);
    for (let i = 0; i < 300; i++) logits[i] = Math.cos(i) * 3;
    const sampler = new Sampler({ temperature: 1 }, { vocabSize: 1000 });
    for (let n = 0; n < 2000; n++) {
      expect(sampler.next(logits, { tokens: noTokens, promptLength: 0, length: n })).toBeLessThan(300);
    }
  });
});

describe('logits that cannot be sampled from', () => {
  const modes: [string, SamplingParams][] = [
    ['greedy', { topK: 1, temperature: 1 }],
    ['top-k', { topK: 3, temperature: 1 }],
    ['all', { temperature: 1, topP: 0.9 }],
  ];
  it.each(modes)('%s', (_, p) => {
    const sampler = new Sampler(p, { vocabSize: 8 });
    const context = { prompt: [1, 2], generated: [3] };
    for (const at of [0, 4, 7]) {
      for (const value of [Number.NaN, Number.POSITIVE_INFINITY]) {
        const logits = new Float32Array(8);
        logits[at] = value;
        expect(() => sampler.sample(logits, context)).toThrow(InferenceError);
        expect(() => sampler.sample(logits, context)).toThrow(
          `after 3 tokens: expected finite numbers, got ${value} for token ${at}`,
        );
      }
    }
    const empty = new Float32Array(8).fill(Number.NEGATIVE_INFINITY);
    expect(() => sampler.sample(empty, context)).toThrow('only -Infinity');
    expect(() => sampler.sample(new Float32Array(7), context)).toThrow('expected 8 values, got 7');
  });
});

describe('logits processors', () => {
  it('run after penalties and bias, in order, and see the whole context', () => {
    const logits = new Float32Array(4);
    const seen: unknown[] = [];
    const sampler = new Sampler(
      { presencePenalty: 2, logitsBias: new Map([[1, 5]]) },
      {
        vocabSize: 4,
        processors: [
          (l, c) => {
            seen.push([...l], [...(c.prompt as Int32Array)], [...(c.generated as Int32Array)]);
            l[2] = 9;
          },
          (l) => {
            seen.push(l[2]);
            l[3] = 10;
          },
        ],
      },
    );
    expect(sampler.sample(logits, { prompt: [0, 3], generated: [1] }).token).toBe(3);
    expect(seen).toEqual([[0, 3, 0, 0], [0, 3], [1], 9]);
  });
});

describe('from the largest logits alone', () => {
  const params = fc.record({
    temperature: fc.constantFrom(0, 0.3, 1, 2),
    topK: fc.integer({ min: 1, max: 64 }),
    topP: fc.constantFrom(0, 0.5, 0.95, 1),
    minP: fc.constantFrom(0, 0.05, 0.5),
  });
  const logits = fc.array(fc.oneof(fc.integer({ min: -9, max: 9 }), fc.constant(Number.NEGATIVE_INFINITY)), {
    minLength: 70,
    maxLength: 90,
  });
  it('every draw is the one from all of them', () => {
    fc.assert(
      fc.property(params, logits, fc.nat(1000), (p, values, seed) => {
        fc.pre(values.some(Number.isFinite));
        const row = Float32Array.from(values);
        const sampler = new Sampler(p, { vocabSize: row.length, seed });
        const history = { tokens: Int32Array.of(1, 2), promptLength: 1, length: 2 };
        const { need } = sampler;
        expect(need).toBe(p.temperature === 0 ? 1 : p.topK);
        const order = [...row.keys()].sort((a, b) => (row[a] === row[b] ? a - b : row[b]! - row[a]!)).slice(0, need);
        const top = {
          k: need,
          at: 3,
          ids: Int32Array.from([0, 0, 0, ...order]),
          values: Float32Array.from([9e9, 9e9, 9e9, ...order.map((id) => row[id]!)]),
        };
        expect(sampler.nextOf(top, history)).toBe(sampler.next(row, history));
      }),
      { seed: 31, numRuns: 500 },
    );
  });
  it('what cannot be told from them says so', () => {
    const need = (p: SamplingParams, logprobs = false) => new Sampler(p, { vocabSize: 100, logprobs }).need;
    expect([need({}), need({ temperature: 1, topK: 5 }), need({ temperature: 1 })]).toEqual([1, 5, 100]);
    expect([need({ repetitionPenalty: 2 }), need({ logitsBias: new Map([[1, 2]]) }), need({}, true)]).toEqual([
      100, 100, 100,
    ]);
  });
  it('rows that are no numbers are refused', () => {
    const sampler = new Sampler({ topK: 1 }, { vocabSize: 4 });
    const history = { tokens: Int32Array.of(1), promptLength: 1, length: 1 };
    for (const [value, message] of [
      [Number.NaN, /NaN for token 2/],
      [Number.NEGATIVE_INFINITY, /only -Infinity/],
    ] as const) {
      const top = { k: 1, at: 0, ids: Int32Array.of(2), values: Float32Array.of(value) };
      expect(() => sampler.nextOf(top, history)).toThrow(message);
    }
  });
});
