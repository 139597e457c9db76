/** Adapters mixed by a classifier give what PyTorch gives, alone and beside other requests. */
import { describe, expect, it } from 'vitest';
import * as api from '../../src/index.ts';
import { distance, modelPath, rawLogits } from '../lora/harness.ts';
import { CASES, casePath, expectedOf, orderingOf } from './harness.ts';

const TOLERANCE = 2e-4;
const GREEDY = { temperature: 0, maxLen: 8, ignoreEos: true } as const;

async function answer(model: api.Model, prompt: Float32Array) {
  const { choices } = await model.complete([...prompt], { sampling: GREEDY, logprobs: true });
  const { tokenIds, logprobs } = choices[0]!;
  return { tokens: [...tokenIds], logprobs: Float32Array.from(logprobs!.content.map((e) => e.logprob)) };
}

describe.each(['reference', 'cpu'] as const)('%s', (device) => {
  const load = (name: string, more: Partial<api.XLoraOptions> = {}, options: api.LoadOptions = {}) =>
    api.loadModel(modelPath(CASES[name]!), {
      device,
      dtype: 'f32',
      xlora: { modelId: casePath(name), ordering: orderingOf(name), ...more },
      ...options,
    });

  it.each(Object.keys(CASES))('%s: logits and answers are those of PyTorch', async (name) => {
    const ids = await expectedOf(name, 'ids');
    const logits = await expectedOf(name, 'logits');
    expect(distance(logits, await expectedOf(name, 'base'))).toBeGreaterThan(100 * TOLERANCE);
    await using model = await load(name);
    expect(distance(await rawLogits(model, ids), logits)).toBeLessThan(TOLERANCE);
    const greedy = await answer(model, ids.subarray(0, 9));
    expect(greedy.tokens).toEqual([...(await expectedOf(name, 'greedy'))]);
    expect(distance(greedy.logprobs, await expectedOf(name, 'greedy_logprobs'))).toBeLessThan(TOLERANCE);
  });

  it.each(['llama_deep', 'mixtral_experts', 'phi3_topk'])(
    '%s: scalings stay as they are after some tokens',
    async (name) => {
      const ids = await expectedOf(name, 'ids');
      for (const index of [0, 2]) {
        for (const options of [{}, { noKvCache: true }, { maxBatchTokens: 4 }]) {
          await using model = await load(name, { tgtNonGranularIndex: index }, options);
          const greedy = await answer(model, ids.subarray(0, 9));
          expect(greedy.tokens).toEqual([...(await expectedOf(name, `frozen_${index}`))]);
          const logprobs = await expectedOf(name, `frozen_${index}_logprobs`);
          expect(distance(greedy.logprobs, logprobs)).toBeLessThan(TOLERANCE);
        }
      }
    },
  );
});
