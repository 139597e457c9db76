/** Drafts change how fast answers come, and nothing else. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ModelDrafter } from '../../src/core/engine/draftModel.ts';
import { Engine } from '../../src/core/engine/engine.ts';
import { LookupDrafter } from '../../src/core/engine/lookup.ts';
import type { Sequence } from '../../src/core/engine/sequence.ts';
import type { Drafter, EngineOptions, GenerationRequest, SamplingParams } from '../../src/core/engine/types.ts';
import { ConfigError } from '../../src/core/errors.ts';
import { FakeModel, type FakeOptions, greedyAfter } from './fakeModel.ts';

const VOCAB = 12;

/** Guesses right in most cases: it knows what the greedy model says, and errs where a number says so. */
class OracleDrafter implements Drafter {
  readonly maxDraft = 5;
  readonly #wrong: (position: number) => boolean;
  constructor(wrong: (position: number) => boolean) {
    this.#wrong = wrong;
  }
  draft(sequences: readonly Sequence[], limits: Int32Array): undefined {
    for (const [i, s] of sequences.entries()) {
      const next = greedyAfter([...s.tokens.subarray(0, s.length)], limits[i]!, VOCAB);
      for (const [j, token] of next.entries()) s.propose(this.#wrong(s.length + j) ? (token + 1) % VOCAB : token);
    }
  }
}

const letters = (n: number, seed: number) =>
  Array.from({ length: n }, (_, i) => (Math.imul(i + 1, seed * 2654435761) >>> 27) % VOCAB);

async function answers(requests: readonly GenerationRequest[], model: FakeOptions, options: EngineOptions) {
  const runner = new FakeModel({ vocabSize: VOCAB, ...model });
  const engine = new Engine(runner, options);
  const results = await Promise.all(requests.map((r) => engine.generate(r)));
  const stats = engine.stats();
  expect(stats).toMatchObject({ running: 0, waiting: 0, blocksUsed: 0 });
  await engine.dispose();
  return {
    stats,
    steps: runner.steps,
    choices: results.map((r) => r.choices.map((c) => [[...c.tokens], c.finishReason])),
  };
}

describe('answers with drafts are those without', () => {
  const sampling = fc.constantFrom<SamplingParams>(
    { topK: 1 },
    { temperature: 0.8 },
    { temperature: 1.2, topK: 5, topP: 0.9 },
    { temperature: 0.7, repetitionPenalty: 1.3, frequencyPenalty: 0.2 },
  );
  const request = fc.record({
    length: fc.integer({ min: 1, max: 30 }),
    seed: fc.nat(9),
    maxLen: fc.integer({ min: 1, max: 40 }),
    nChoices: fc.constantFrom(1, 1, 2),
    sampling,
    stop: fc.option(fc.nat(VOCAB - 1), { nil: undefined }),
  });
  const drafters: readonly [string, () => Drafter][] = [
    ['right ones', () => new OracleDrafter(() => false)],
    ['wrong ones', () => new OracleDrafter(() => true)],
    ['ones that are wrong at times', () => new OracleDrafter((at) => at % 3 === 0)],
    ['lookups', () => new LookupDrafter({ minMatch: 1 })],
    [
      'those of another model',
      () => new ModelDrafter(new FakeModel({ vocabSize: VOCAB, blocks: 60 }), { vocabSize: VOCAB, maxDraft: 3 }),
    ],
  ];
  it.each(drafters)('%s', async (_, make) => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(request, { minLength: 1, maxLength: 12 }),
        fc.record({
          blocks: fc.constantFrom(24, 200),
          remote: fc.boolean(),
          maxBatchTokens: fc.constantFrom(5, 16, 512),
        }),
        async (requests, { blocks, remote, maxBatchTokens }) => {
          const asked = requests.map(
            (r): GenerationRequest => ({
              prompt: letters(r.length, r.seed + 3),
              seed: r.seed,
              sampling: {
                ...r.sampling,
                maxLen: r.maxLen,
                nChoices: r.nChoices,
                ...(r.stop === undefined ? {} : { stopToks: { ids: [r.stop] } }),
              },
            }),
          );
          const plain = await answers(asked, { blocks: 200 }, {});
          const drafted = await answers(asked, { blocks, remote }, { maxBatchTokens, drafter: make() });
          expect(drafted.choices).toEqual(plain.choices);
        },
      ),
      { numRuns: 30, seed: 17 },
    );
  });
});

describe('right drafts', () => {
  it('save steps, and are counted by place', async () => {
    const ask = [{ prompt: letters(9, 3), sampling: { topK: 1, maxLen: 60 } }];
    const plain = await answers(ask, {}, {});
    const drafted = await answers(ask, {}, { drafter: new OracleDrafter(() => false) });
    expect(plain.steps).toBe(60);
    expect(drafted.steps).toBeLessThan(13);
    const { drafts, draftTokensProposed, draftTokensAccepted, draftTokensAcceptedByPlace } = drafted.stats;
    expect(draftTokensAccepted).toBe(draftTokensProposed);
    expect(drafts).toBe(drafted.steps - 1);
    expect(draftTokensAcceptedByPlace.reduce((n, x) => n + x, 0)).toBe(draftTokensAccepted);
    expect(draftTokensAcceptedByPlace[0]).toBe(drafts);
  });

  it('are found by a model that is the same', async () => {
    const ask = [3, 5, 7].map((seed) => ({ prompt: letters(20, seed), sampling: { topK: 1, maxLen: 30 } }));
    const drafter = new ModelDrafter(new FakeModel({ vocabSize: VOCAB }), { vocabSize: VOCAB, maxDraft: 4 });
    const { stats, steps } = await answers(ask, {}, { drafter });
    expect(stats.draftTokensAccepted).toBe(stats.draftTokensProposed);
    expect(steps).toBeLessThan(9);
  });

  it('are found where the text repeats', async () => {
    // One token ever after another: the model of these logits repeats itself with a short period.
    const onLogits = (
      logits: Float32Array,
      batch: { tokens: Int32Array; logitRows: Int32Array; logitCount: number },
    ) => {
      for (let r = 0; r < batch.logitCount; r++) {
        logits.fill(0, r * VOCAB, (r + 1) * VOCAB);
        logits[r * VOCAB + ((batch.tokens[batch.logitRows[r]!]! + 1) % 4)] = 9;
      }
    };
    const ask = [{ prompt: [0, 1, 2, 3, 0, 1], sampling: { topK: 1, maxLen: 40 } }];
    const plain = await answers(ask, { onLogits }, {});
    const drafted = await answers(ask, { onLogits }, { drafter: new LookupDrafter() });
    expect(drafted.choices).toEqual(plain.choices);
    expect(drafted.steps).toBeLessThan(plain.steps / 2);
  });
});

it('a draft model of other tokens is refused', () => {
  const make = () => new ModelDrafter(new FakeModel({ vocabSize: 7 }), { vocabSize: VOCAB });
  expect(make).toThrow(ConfigError);
  expect(make).toThrow(/12 tokens.*got 7/);
});
