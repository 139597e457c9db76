/** Guesses on the GPU, by heads inside checkpoints: beside recurrent layers, and beside latent attention. */
import { rmSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import * as api from '../../src/index.ts';
import { headedModel } from '../sdk/headedModel.ts';
import { openWebGpu } from './support.ts';

const backend = await openWebGpu();
const why = typeof backend === 'string' ? backend : undefined;
if (why !== undefined) console.warn(`speculation on webgpu: skipped: ${why}`);
else await (backend as Exclude<typeof backend, string>).dispose();

const prompts = [29, 12, 5].map((n) => Array.from({ length: n }, (_, i) => n + ((i * 7) % 11)));

async function answers(folder: string, options: api.LoadOptions) {
  const model = await api.loadModel(folder, { device: 'webgpu', dtype: 'f32', ...options });
  const sampling = { topK: 1, maxLen: 12, ignoreEos: true };
  const tokens = (await Promise.all(prompts.map((p) => model.complete(p, { sampling })))).map((r) => [
    ...r.choices[0]!.tokenIds,
  ]);
  const stats = model.engineStats();
  await model.dispose();
  return { tokens, stats };
}

describe.skipIf(why !== undefined)('answers with guesses are those without', () => {
  it.each(['qwen3_5_text', 'glm4_moe_lite'])('%s', async (name) => {
    const folder = await headedModel(name);
    const alone = await answers(folder, {});
    const { tokens, stats } = await answers(folder, { mtp: { nPredict: 3 }, speculation: { lookup: true } });
    expect(tokens).toEqual(alone.tokens);
    expect(stats.draftTokensProposed).toBeGreaterThan(20);
    expect(stats).toMatchObject({ blocksUsed: 0, statesUsed: 0 });
    rmSync(folder, { recursive: true });
  });
});
