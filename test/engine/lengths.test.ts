/** Models whose positions are rotated by the length of the sequence. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Engine } from '../../src/core/engine/engine.ts';
import { LengthRules } from '../../src/core/engine/lengths.ts';
import type { EngineOptions } from '../../src/core/engine/types.ts';
import { FakeModel, type FakeOptions, logitsAfter, type Rotation } from './fakeModel.ts';

const VOCAB = 32;

interface Kind {
  readonly name: string;
  readonly model: Pick<FakeOptions, 'recomputeAt' | 'growsBeyond'> & { readonly rotation: Rotation };
  /** The length for which a position is computed, in a sequence of `known` tokens that began with `prompt`. */
  readonly lengthAt: (position: number, prompt: number, known: number) => number;
}

/** Published long-context models switch the whole sequence over; dynamic ones leave what is cached as it is. */
const kinds: readonly Kind[] = [
  {
    name: 'one other rotation beyond 20 tokens',
    model: { recomputeAt: [20], rotation: (length) => (length > 20 ? 1 : 0) },
    lengthAt: (_, __, known) => known,
  },
  {
    name: 'two switches',
    model: { recomputeAt: [11, 24], rotation: (length) => (length > 24 ? 2 : length > 11 ? 1 : 0) },
    lengthAt: (_, __, known) => known,
  },
  {
    name: 'one that changes with every token beyond 16',
    model: { growsBeyond: 16, rotation: (length) => (length > 16 ? length : 0) },
    lengthAt: (position, prompt) => Math.max(position + 1, prompt),
  },
];

function greedy(kind: Kind, prompt: readonly number[], count: number): number[] {
  const tokens = [...prompt];
  for (let i = 0; i < count; i++) {
    const known = tokens.length;
    const lengthAt = (position: number) => kind.lengthAt(position, prompt.length, known);
    const logits = logitsAfter(tokens, VOCAB, kind.model.rotation, lengthAt);
    tokens.push(logits.indexOf(Math.max(...logits)));
  }
  return tokens.slice(prompt.length);
}

function create(kind: Kind, model: FakeOptions = {}, options: EngineOptions = {}) {
  const runner = new FakeModel({ vocabSize: VOCAB, ...kind.model, ...model });
  return { runner, engine: new Engine(runner, options) };
}

function letters(n: number, seed: number): number[] {
  return Array.from({ length: n }, (_, i) => (Math.imul(i + 1, seed * 2654435761) >>> 27) % VOCAB);
}

describe.each(kinds)('$name', (kind) => {
  /** Prompts of one seed begin alike. */
  const request = fc.record({
    length: fc.integer({ min: 1, max: 34 }),
    seed: fc.integer({ min: 3, max: 4 }),
    count: fc.integer({ min: 1, max: 24 }),
    choices: fc.constantFrom(1, 1, 1, 2),
    after: fc.nat(2),
  });
  const engines = fc.record({
    blocks: fc.constantFrom(16, 40, 400),
    maxBatchTokens: fc.constantFrom(1, 7, 512),
    prefixCache: fc.boolean(),
    noKvCache: fc.constantFrom(false, false, true),
    maxNumSeqs: fc.constantFrom(1, 3, 32),
  });

  it('answers do not depend on pieces, company, memory, or what was asked before', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(request, { minLength: 1, maxLength: 12 }), engines, async (requests, settings) => {
        const { blocks, ...options } = settings;
        const { engine } = create(kind, { blocks }, options);
        // In three waves: later ones find what earlier ones left in the cache.
        for (let wave = 0; wave < 3; wave++) {
          const now = requests.filter((r) => r.after === wave);
          const results = await Promise.all(
            now.map((r) =>
              engine.generate({
                prompt: letters(r.length, r.seed),
                sampling: { topK: 1, maxLen: r.count, nChoices: r.choices },
              }),
            ),
          );
          for (const [i, { choices }] of results.entries()) {
            const { length, seed, count } = now[i]!;
            const expected = greedy(kind, letters(length, seed), count);
            for (const choice of choices) expect([...choice.tokens]).toEqual(expected);
          }
        }
        expect(engine.stats()).toMatchObject({ running: 0, waiting: 0, blocksUsed: 0 });
      }),
      { numRuns: 60 },
    );
  });
});

describe('a sequence that grows beyond a limit', () => {
  const [kind] = kinds as readonly [Kind];

  it('runs once more from its first token, and only once', async () => {
    const { engine, runner } = create(kind, {}, { prefixCache: false });
    await engine.generate({ prompt: letters(18, 3), sampling: { topK: 1, maxLen: 10 } });
    // 18 of the prompt, two more, then 21 anew, and six more.
    expect(runner.rows).toBe(18 + 2 + 21 + 6);
    expect(engine.stats()).toMatchObject({ blocksUsed: 0, preemptions: 0 });
  });

  it('shares blocks with sequences beyond the limit, and with no others', async () => {
    const { engine } = create(kind);
    const prompt = letters(30, 3);
    const ask = async (length: number) => {
      const { prefixHits } = engine.stats();
      await engine.generate({ prompt: prompt.slice(0, length), sampling: { topK: 1, maxLen: 1 } });
      return engine.stats().prefixHits - prefixHits;
    };
    expect(await ask(20)).toBe(0);
    expect(await ask(21)).toBe(0);
    expect(await ask(30)).toBe(5);
    expect(await ask(19)).toBe(4);
  });
});

describe('a rotation that changes with every token', () => {
  it('lets prompts share blocks within the trained length, and beyond it with those of their own length', async () => {
    const { engine } = create(kinds[2]!);
    const prompt = letters(30, 3);
    const hits: number[] = [];
    for (const length of [16, 13, 20, 21, 20, 12]) {
      const { prefixHits } = engine.stats();
      await engine.generate({ prompt: prompt.slice(0, length), sampling: { topK: 1, maxLen: 1 } });
      hits.push(engine.stats().prefixHits - prefixHits);
    }
    expect(hits).toEqual([0, 3, 0, 0, 4, 2]);
  });
});

describe('length rules', () => {
  it('of a model without any', () => {
    const rules = new LengthRules({});
    expect(rules.outgrown(1, 1e6)).toBe(false);
    expect([1, 1e6].map((n) => rules.salt(n))).toEqual([0, 0]);
  });

  it('of several kinds at once: equal salts mean an equal past', () => {
    const rules = new LengthRules({ recomputeAt: [10, 30], growsBeyond: 20 });
    expect([1, 10, 11, 20, 21, 22, 30, 31].map((n) => rules.salt(n))).toEqual([0, 0, 11, 11, 21, 22, 30, 31]);
    expect(rules.outgrown(10, 11)).toBe(true);
    expect(rules.outgrown(11, 30)).toBe(false);
    expect(rules.outgrown(5, 31)).toBe(true);
  });
});
