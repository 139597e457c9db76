/** Adapters mixed by a classifier on the GPU, or on a processor that plays one. */
import { describe, expect, it } from 'vitest';
import * as api from '../../src/index.ts';
import { distance, modelPath, rawLogits } from '../lora/harness.ts';
import { CASES, casePath, expectedOf, orderingOf } from '../xlora/harness.ts';
import { openWebGpu } from './support.ts';

const TOLERANCE = 1e-3;

const backend = await openWebGpu();
if (typeof backend === 'string') console.warn(`xlora on webgpu: skipped: ${backend}`);
else await backend.dispose();

describe.skipIf(typeof backend === 'string')('webgpu', () => {
  it.each(['llama_deep', 'phi3_topk', 'mixtral_experts'])(
    '%s: logits and answers are those of PyTorch',
    async (name) => {
      const ids = await expectedOf(name, 'ids');
      for (const [answer, settings] of [
        ['greedy', {}],
        ['frozen_2', { tgtNonGranularIndex: 2 }],
      ] as const) {
        await using model = await api.loadModel(modelPath(CASES[name]!), {
          device: 'webgpu',
          strict: true,
          dtype: 'f32',
          xlora: { modelId: casePath(name), ordering: orderingOf(name), ...settings },
        });
        expect(distance(await rawLogits(model, ids), await expectedOf(name, 'logits'))).toBeLessThan(TOLERANCE);
        const sampling = { temperature: 0, maxLen: 8, ignoreEos: true };
        const { choices } = await model.complete([...ids.subarray(0, 9)], { sampling });
        expect([...choices[0]!.tokenIds]).toEqual([...(await expectedOf(name, answer))]);
      }
    },
  );
});
