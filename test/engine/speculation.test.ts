/** Drafts change how fast answers come, and nothing else. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { EitherDrafter } from '../../src/core/engine/drafters.ts';
import { ModelDrafter } from '../../src/core/engine/draftModel.ts';
import { Engine } from '../../src/core/engine/engine.ts';
import { HeadDrafter } from '../../src/core/engine/headDrafter.ts';
import { LookupDrafter } from '../../src/core/engine/lookup.ts';
import { Sequence, SequenceGroup } from '../../src/core/engine/sequence.ts';
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

type Options = Omit<EngineOptions, 'drafter'> & { readonly drafter?: Drafter | ((runner: FakeModel) => Drafter) };

async function answers(requests: readonly GenerationRequest[], model: FakeOptions, options: Options) {
  const runner = new FakeModel({ vocabSize: VOCAB, ...model });
  const drafter = typeof options.drafter === 'function' ? options.drafter(runner) : options.drafter;
  const engine = new Engine(runner, { ...options, drafter });
  const results = await Promise.all(requests.map((r) => engine.generate(r)));
  const stats = engine.stats();
  expect(stats).toMatchObject({ running: 0, waiting: 0, blocksUsed: 0, statesUsed: 0 });
  await engine.dispose();
  return {
    stats,
    runner,
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
  const drafters: readonly [string, (runner: FakeModel) => Drafter][] = [
    ['right ones', () => new OracleDrafter(() => false)],
    ['wrong ones', () => new OracleDrafter(() => true)],
    ['ones that are wrong at times', () => new OracleDrafter((at) => at % 3 === 0)],
    ['lookups', () => new LookupDrafter({ minMatch: 1 })],
    [
      'those of another model',
      () => new ModelDrafter(new FakeModel({ vocabSize: VOCAB, blocks: 60 }), { vocabSize: VOCAB, maxDraft: 3 }),
    ],
    ['those of a head', (runner) => new HeadDrafter(runner, { maxDraft: 3 })],
    [
      'those of a head, behind lookups',
      (runner) => new EitherDrafter(new LookupDrafter({ minMatch: 1 }), new HeadDrafter(runner, { maxDraft: 6 })),
    ],
  ];
  it.each(drafters)('%s', async (_, make) => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(request, { minLength: 1, maxLength: 12 }),
        fc.record({
          blocks: fc.constantFrom(24, 200),
          stateSlots: fc.constantFrom(0, 0, 3, 12, 80),
          remote: fc.boolean(),
          maxBatchTokens: fc.constantFrom(5, 16, 512),
        }),
        async (requests, { blocks, stateSlots, remote, maxBatchTokens }) => {
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
          const model = { blocks, stateSlots, remote, extraBlocks: 64 };
          const drafted = await answers(asked, model, { maxBatchTokens, drafter: make });
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

  it('are found by a model with other ids beside the shared ones, as long as those are in use', async () => {
    const ask = [3, 5].map((seed) => ({ prompt: letters(20, seed), sampling: { topK: 1, maxLen: 30 } }));
    const model = new FakeModel({ vocabSize: VOCAB + 5 });
    const shared = (sharedIds: number) => new ModelDrafter(model, { vocabSize: VOCAB, sharedIds });
    const plain = await answers(ask, {}, {});
    const all = await answers(ask, {}, { drafter: shared(VOCAB) });
    expect(all.choices).toEqual(plain.choices);
    expect(all.stats.draftTokensAccepted).toBeGreaterThan(30);
    const few = await answers(ask, {}, { drafter: shared(3) });
    expect(few.choices).toEqual(plain.choices);
    expect(few.stats.draftTokensProposed).toBe(0);
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

describe('a head', () => {
  const ask = [2, 9, 17, 30].map((n) => ({ prompt: letters(n, n), sampling: { topK: 1, maxLen: 40 } }));

  it.each([
    [0, 512],
    [0, 7],
    [12, 512],
    [12, 7],
  ])('sees every token in order: %d state slots, steps of %d rows', async (stateSlots, maxBatchTokens) => {
    const plain = await answers(ask, {}, {});
    const { stats, runner, steps, choices } = await answers(
      ask,
      { stateSlots, extraBlocks: 32 },
      { maxBatchTokens, prefixCache: false, drafter: (r) => new HeadDrafter(r, { maxDraft: 3 }) },
    );
    expect(choices).toEqual(plain.choices);
    expect(runner.headRows).toBeGreaterThan(190);
    expect(runner.headGaps).toBe(0);
    expect(stats.draftTokensAccepted).toBe(stats.draftTokensProposed);
    if (maxBatchTokens === 512) expect(steps).toBeLessThan(plain.steps / 2);
  });

  it('is needed, and blocks for its guesses', () => {
    expect(() => new HeadDrafter(new FakeModel())).toThrow(/head for prediction/);
    const few = new FakeModel({ extraBlocks: 3, maxSequences: 2 });
    expect(() => new HeadDrafter(few, { maxDraft: 9 })).toThrow('expected 6 blocks for guesses, got 3');
  });
});

describe('the length of lookups', () => {
  const repeated = () => new Sequence(new SequenceGroup(0, [], 1, { choices: 1, raw: false }), 0, [], 4);
  /** Proposals of 400 steps whose guesses are right as often as `right` says; those that are become the text. */
  function run(rowPrice: number, right: (step: number) => boolean, company = 0) {
    const drafter = new LookupDrafter({ rowPrice });
    const sequence = repeated();
    for (let i = 0; i < 40; i++) sequence.append(i % 8);
    const all = [sequence, ...Array.from({ length: company }, repeated)];
    const lengths: number[] = [];
    for (let step = 0; step < 400; step++) {
      for (const s of all) s.draftCount = 0;
      drafter.draft(all, new Int32Array(all.length).fill(16));
      const proposed = sequence.draftCount;
      lengths.push(proposed);
      if (proposed > 0) drafter.checked(sequence, proposed, right(step) ? proposed : 0);
      sequence.append(sequence.length % 8);
    }
    return lengths;
  }
  const sum = (xs: readonly number[]) => xs.reduce((a, b) => a + b, 0);

  it('grows while guesses are right, further where rows are cheap and fewer requests share a step', () => {
    const [dear, cheap, shared] = [run(0.65, () => true), run(0.1, () => true), run(0.1, () => true, 31)];
    expect(dear[0]).toBeLessThan(4);
    expect(dear.at(-1)).toBeGreaterThan(dear[0]!);
    expect(cheap.at(-1)).toBe(16);
    expect(shared[5]).toBeLessThan(cheap[5]!);
  });

  it('falls to rare trials of one token while they are wrong', () => {
    const lengths = run(0.65, () => false);
    // Of 400 steps these are the cost: below 3 %, each row at 0.65 of a step.
    expect(sum(lengths) * 0.65).toBeLessThan(12);
    expect(sum(lengths.slice(100))).toBeGreaterThan(2);
    expect(Math.max(...lengths.slice(10))).toBe(1);
  });

  it('comes back when they are right again', () => {
    const lengths = run(0.65, (step) => step > 200);
    expect(sum(lengths.slice(20, 200))).toBeLessThan(8);
    expect(lengths.at(-1)).toBeGreaterThan(3);
  });
});

it('a draft model of other tokens is refused', () => {
  const make = () => new ModelDrafter(new FakeModel({ vocabSize: 7 }), { vocabSize: VOCAB });
  expect(make).toThrow(ConfigError);
  expect(make).toThrow(/12 tokens.*got 7/);
});
