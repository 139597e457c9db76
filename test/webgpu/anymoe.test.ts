/** Experts chosen by gates on the GPU, or on a processor that plays one. */
import { describe, expect, it } from 'vitest';
import * as api from '../../src/index.ts';
import { CASES, casePath, chatTemplate, expectedOf, optionsOf, tokenizerJson } from '../anymoe/harness.ts';
import { distance, modelPath, rawLogits } from '../lora/harness.ts';
import { openWebGpu } from './support.ts';

const TOLERANCE = 1e-3;

const backend = await openWebGpu();
if (typeof backend === 'string') console.warn(`anymoe on webgpu: skipped: ${backend}`);
else await backend.dispose();

describe.skipIf(typeof backend === 'string')('webgpu', () => {
  const load = (name: string, config: Partial<api.AnyMoeConfig> = {}, anyMoe: Partial<api.AnyMoeOptions> = {}) =>
    api.loadModel(modelPath(CASES[name]!.model), {
      ...{ device: 'webgpu', strict: true, dtype: 'f32', tokenizerJson, chatTemplate },
      anyMoe: { ...optionsOf(name, config), ...anyMoe },
    });

  it.each(['llama_tuned', 'starcoder2_tuned', 'phi_lora'])('%s: sequences and tokens choose', async (name) => {
    const ids = await expectedOf(name, 'ids');
    for (const [logits, answer, routing] of [
      ['logits', 'greedy', 'sequence'],
      ['token_2', undefined, { topK: 2 }],
    ] as const) {
      await using model = await load(name, { routing });
      expect(distance(await rawLogits(model, ids), await expectedOf(name, logits))).toBeLessThan(TOLERANCE);
      if (answer === undefined) continue;
      const sampling = { temperature: 0, maxLen: 8, ignoreEos: true };
      const { choices } = await model.complete([...ids.subarray(0, 9)], { sampling });
      expect([...choices[0]!.tokenIds]).toEqual([...(await expectedOf(name, answer))]);
    }
  });

  it('trains', async () => {
    const { gateModelId: _, ...config } = optionsOf('llama_tuned').config;
    const datasetPath = casePath('llama_tuned', 'dataset.csv');
    const training = { ...config, training: true, epochs: 12, batchSize: 6, lr: 0.05 };
    await using model = await load('llama_tuned', {}, { config: training, datasetPath });
    expect((await model.complete([5, 6, 7], { sampling: { maxLen: 3 } })).usage.completionTokens).toBeGreaterThan(0);
  });
});
