/** Ten thousand requests of every kind and end through one engine: the same answers, and nothing left behind. */
import { describe, expect, it } from 'vitest';
import { Engine } from '../../src/core/engine/engine.ts';
import { LookupDrafter } from '../../src/core/engine/lookup.ts';
import { FakeModel, greedyAfter } from './fakeModel.ts';

const VOCAB = 16;
const WAVES = 100;
const REQUESTS = 100;

describe.each([
  [0, 1000, false],
  // All in use by running sequences most of the time: hardly a snapshot stays.
  [6, 0, false],
  [30, 1000, false],
  [0, 1000, true],
  [30, 1000, true],
] as const)('%d state slots, %d hits at least, drafts: %s', (stateSlots, hits, drafts) => {
  it('10,000 lifecycles with aborts leave no block and no slot taken', async () => {
    let state = 1;
    const below = (n: number) => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      return (state >>> 8) % n;
    };
    const runner = new FakeModel({ vocabSize: VOCAB, blocks: 40, blockSize: 4, maxRows: 32, stateSlots });
    const engine = new Engine(runner, {
      maxNumSeqs: 8,
      maxBatchTokens: 32,
      drafter: drafts ? new LookupDrafter({ minMatch: 1 }) : undefined,
    });
    const known = new Map<string, number[]>();
    let ended = 0;
    const request = async () => {
      const prompt = Array.from({ length: 1 + below(20) }, () => below(2));
      const maxLen = 1 + below(8);
      const stream = engine.submit({ prompt, sampling: { topK: 1, maxLen, nChoices: below(8) === 0 ? 3 : 1 } });
      const cut = below(3) === 0 ? below(6) : Number.POSITIVE_INFINITY;
      const leaves = below(2) === 0;
      const answers: number[][] = [[], [], []];
      let seen = 0;
      for await (const event of stream) {
        if (event.kind === 'token') answers[event.index]!.push(event.token);
        if (event.kind !== 'token' || seen++ < cut) continue;
        if (leaves) break;
        stream.cancel();
      }
      const key = prompt.join('');
      if (!known.has(key)) known.set(key, greedyAfter(prompt, 8, VOCAB));
      for (const answer of answers) expect(answer).toEqual(known.get(key)!.slice(0, answer.length));
      if (cut === Number.POSITIVE_INFINITY) expect(answers[0]!.length).toBe(maxLen);
      ended++;
    };
    for (let wave = 0; wave < WAVES; wave++) {
      await Promise.all(Array.from({ length: REQUESTS }, request));
      // A reader that left is noticed before the next step.
      while (engine.stats().running > 0) await new Promise((resolve) => setImmediate(resolve));
      expect(engine.stats()).toMatchObject({ running: 0, waiting: 0, blocksUsed: 0, statesUsed: 0 });
    }
    expect(ended).toBe(WAVES * REQUESTS);
    expect(engine.stats().prefixHits).toBeGreaterThan(hits);
    expect(engine.stats().draftTokensAccepted > 0).toBe(drafts);
    await engine.dispose();
  }, 60_000);
});
