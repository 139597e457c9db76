/** Heads for multi-token prediction through the public entry: same answers, counted guesses, clear refusals. */
import { rmSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import * as api from '../../src/index.ts';
import { FAMILIES_WITH_HEADS } from '../models/harness.ts';
import { fixture, headedModel } from './headedModel.ts';

const opened: api.Model[] = [];
const folders: string[] = [];
afterEach(async () => {
  for (const m of opened.splice(0)) await m.dispose();
  for (const f of folders.splice(0)) rmSync(f, { recursive: true });
});

async function headed(name: string): Promise<string> {
  const folder = await headedModel(name);
  folders.push(folder);
  return folder;
}

async function load(spec: api.ModelSpec, options: api.LoadOptions = {}): Promise<api.Model> {
  const model = await api.loadModel(spec, { device: 'cpu', threads: 1, dtype: 'f32', ...options });
  opened.push(model);
  return model;
}

const prompts = [[70, 71, 72], ...[29, 41, 30].map((n) => Array.from({ length: n }, (_, i) => n + ((i * 7) % 11)))];
const requests: readonly api.CompletionParams[] = [
  { sampling: { topK: 1, maxLen: 40, ignoreEos: true } },
  { sampling: { temperature: 0.9, maxLen: 30, ignoreEos: true }, seed: 5 },
  { sampling: { temperature: 1.3, topP: 0.9, repetitionPenalty: 1.2, maxLen: 12, nChoices: 2 }, seed: 6 },
];

async function answers(model: api.Model): Promise<number[][]> {
  const asked = prompts.flatMap((prompt) => requests.map((params) => model.complete(prompt, params)));
  return (await Promise.all(asked)).flatMap(({ choices }) => choices.map((c) => [...c.tokenIds]));
}

describe('answers with a head are those without', () => {
  it.each(FAMILIES_WITH_HEADS)('%s', async (name) => {
    const folder = await headed(name);
    const alone = await answers(await load(folder));
    // Alone, in pieces, with so little memory that requests give theirs up, and behind lookups.
    for (const options of [
      { mtp: {} },
      { mtp: { nPredict: 5 }, maxBatchTokens: 9 },
      { mtp: { nPredict: 3 }, pagedAttn: { memory: { contextSize: 96 } }, maxNumSeqs: 6 },
      { mtp: {}, speculation: { lookup: { minMatch: 1 } } },
    ]) {
      const model = await load(folder, options);
      expect(await answers(model)).toEqual(alone);
      const stats = model.engineStats();
      expect(stats.draftTokensProposed).toBeGreaterThan(options.maxBatchTokens ? 0 : 100);
      expect(stats).toMatchObject({ blocksUsed: 0, statesUsed: 0 });
      expect(stats.draftTokensAcceptedByPlace.reduce((a, b) => a + b, 0)).toBe(stats.draftTokensAccepted);
      if (options.mtp.nPredict === 3) expect(stats.preemptions).toBeGreaterThan(0);
      await model.dispose();
    }
  });

  it('when others are cancelled meanwhile', async () => {
    const folder = await headed('qwen3_5_text');
    const alone = await answers(await load(folder));
    const model = await load(folder, { mtp: { nPredict: 4 } });
    const leaving = prompts.map(async (prompt, i) => {
      let seen = 0;
      for await (const _ of model.streamComplete(prompt, { sampling: { temperature: 1, maxLen: 200 } })) {
        if (seen++ > 3 * i) break;
      }
    });
    expect(await answers(model)).toEqual(alone);
    await Promise.all(leaving);
    expect(model.engineStats()).toMatchObject({ blocksUsed: 0, statesUsed: 0 });
  });
});

describe('refused is', () => {
  it('a head that the checkpoint lacks, or the architecture', async () => {
    for (const name of ['qwen3_next', 'deepseek_v3', 'llama']) {
      const error = await load(fixture(`models/${name}`), { mtp: {} }).catch((e: unknown) => e);
      expect(error).toBeInstanceOf(api.UnsupportedError);
      expect(String(error)).toMatch(/mtp: expected a checkpoint with a head .* draftModel or speculation\.lookup/);
    }
  });

  it('a head beside adapters', async () => {
    const folder = await headed('glm4_moe');
    await expect(load(folder, { mtp: {}, lora: true })).rejects.toThrow(api.ConfigError);
  });

  it.each([
    [{ mtp: { nPredict: 0 } }, 'mtp.nPredict'],
    [{ mtp: { nPredict: 65 } }, 'mtp.nPredict'],
    [{ mtp: { nPredict: 1.5 } }, 'mtp.nPredict'],
    [{ mtp: true }, 'mtp'],
    [{ mtp: { model: 'x', draftLmHeadIsq: 'Q4K' } }, 'mtp.draftLmHeadIsq'],
    [{ mtp: { heads: 2 } }, 'mtp.heads'],
    [{ mtp: {}, noKvCache: true }, 'noKvCache'],
    [{ mtp: {}, draftModel: 'other' }, 'mtp'],
    [{ mtp: {}, speculation: { nPredict: 3 } }, 'speculation.nPredict'],
  ])('%j', async (options, name) => {
    const error = await load('nowhere', options as api.LoadOptions).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(api.ConfigError);
    expect(String(error)).toContain(`option ${name}:`);
  });
});

it('the output matrix of a head can be quantized alone', async () => {
  for (const [name, matrix] of [
    ['qwen3_5_text', 'mtp.lm_head'],
    ['deepseek_v3', 'model.layers.3.shared_head.head'],
  ] as const) {
    const folder = await headed(name);
    const alone = await answers(await load(folder, { dtype: 'auto' }));
    const model = await load(folder, { dtype: 'auto', mtp: { draftLmHeadIsq: 'Q8_0' } });
    expect(await answers(model)).toEqual(alone);
    expect(model.engineStats().draftTokensProposed).toBeGreaterThan(100);
    const { layers } = (await model.quantReport())!;
    expect(layers).toMatchObject([{ module: matrix, stored: 'Q8_0', pinned: true }]);
  }
});

it('another model guesses where mtp names one', async () => {
  const llama = fixture('models/gguf_llama_q8_0/model.gguf');
  const model = await load(llama, { mtp: { model: llama, nPredict: 3 } });
  await model.complete([65, 66, 67], { sampling: { topK: 1, maxLen: 41, ignoreEos: true } });
  expect(model.engineStats().draftTokensAcceptedByPlace).toEqual([10, 10, 10]);
});
