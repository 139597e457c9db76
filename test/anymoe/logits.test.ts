/** Experts chosen by gates give what PyTorch gives: by prompts as a whole, and by every token. */
import { describe, expect, it } from 'vitest';
import * as api from '../../src/index.ts';
import { distance, modelPath, rawLogits } from '../lora/harness.ts';
import { CASES, expectedOf, optionsOf } from './harness.ts';

const TOLERANCE = 2e-4;

describe.each(['reference', 'cpu'] as const)('%s', (device) => {
  const load = (name: string, config: Partial<api.AnyMoeConfig> = {}, options: api.LoadOptions = {}) =>
    api.loadModel(modelPath(CASES[name]!.model), {
      device,
      dtype: 'f32',
      anyMoe: optionsOf(name, config),
      ...options,
    });

  async function answer(model: api.Model, prompt: Float32Array) {
    const sampling = { temperature: 0, maxLen: 8, ignoreEos: true };
    const { choices } = await model.complete([...prompt], { sampling, logprobs: true });
    const { tokenIds, logprobs } = choices[0]!;
    return { tokens: [...tokenIds], logprobs: Float32Array.from(logprobs!.content.map((e) => e.logprob)) };
  }

  it.each(Object.keys(CASES))('%s: sequences choose', async (name) => {
    const ids = await expectedOf(name, 'ids');
    await using model = await load(name);
    expect(distance(await rawLogits(model, ids), await expectedOf(name, 'logits'))).toBeLessThan(TOLERANCE);
    const greedy = await answer(model, ids.subarray(0, 9));
    expect(greedy.tokens).toEqual([...(await expectedOf(name, 'greedy'))]);
    expect(distance(greedy.logprobs, await expectedOf(name, 'greedy_logprobs'))).toBeLessThan(TOLERANCE);
  });

  it.each(Object.keys(CASES))('%s: tokens choose one or two', async (name) => {
    const ids = await expectedOf(name, 'ids');
    for (const topK of [1, 2]) {
      await using model = await load(name, { routing: { topK } });
      const logits = await expectedOf(name, `token_${topK}`);
      expect(distance(logits, await expectedOf(name, 'logits'))).toBeGreaterThan(20 * TOLERANCE);
      expect(distance(await rawLogits(model, ids), logits)).toBeLessThan(TOLERANCE);
      if (topK > 1) continue;
      expect((await answer(model, ids.subarray(0, 9))).tokens).toEqual([...(await expectedOf(name, 'greedy_token'))]);
    }
  });

  it.each(['llama_tuned', 'phi3_tuned', 'gemma2_tuned'])(
    '%s: all of a prompt chooses, whatever is wanted',
    async (name) => {
      const ids = await expectedOf(name, 'ids');
      await using model = await load(name);
      for (let n = 2; n <= ids.length; n++) {
        const prompt = ids.subarray(0, n);
        const raw = (await rawLogits(model, prompt)).slice(-256);
        const { choices } = await model.complete([...prompt], {
          sampling: { temperature: 0, maxLen: 1, ignoreEos: true },
          logprobs: true,
        });
        const most = Math.max(...raw);
        const sum = raw.reduce((total, x) => total + Math.exp(x - most), 0);
        expect(choices[0]!.logprobs!.content[0]!.logprob).toBeCloseTo(-Math.log(sum), 4);
      }
    },
  );

  it('company, pieces and the cache change no answer', async () => {
    const ids = await expectedOf('llama_tuned', 'ids');
    const ask = async (model: api.Model, length: number, n: number) => {
      const sampling = { temperature: 0.8, maxLen: 9, ignoreEos: true, nChoices: n };
      const response = await model.complete([...ids.subarray(0, length)], { sampling, seed: 3 });
      return response.choices.map((c) => [...c.tokenIds]);
    };
    const cases = [
      [4, 1],
      [9, 1],
      [5, 3],
      [10, 1],
      [9, 2],
    ] as const;
    const alone: number[][][] = [];
    {
      await using model = await load('llama_tuned', {}, { noKvCache: true });
      for (const [length, n] of cases) alone.push(await ask(model, length, n));
    }
    for (const speculation of [undefined, { lookup: { maxDraft: 3, minMatch: 1 } }]) {
      await using model = await load('llama_tuned', {}, { maxBatchTokens: 10, speculation });
      expect(await Promise.all(cases.map(([length, n]) => ask(model, length, n)))).toEqual(alone);
      expect(model.engineStats()).toMatchObject({ blocksUsed: 0, prefixHits: 0 });
    }
  });
});
