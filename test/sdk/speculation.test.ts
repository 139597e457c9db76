/** Speculation through the public entry: answers of real models do not change, and the counters tell what was guessed. */
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { readGguf } from '../../src/core/io/gguf.ts';
import { sharedIds } from '../../src/core/sdk/sharedIds.ts';
import * as api from '../../src/index.ts';

const fixtures = new URL('../fixtures/models/', import.meta.url);
const pathOf = (name: string) => fileURLToPath(new URL(name, fixtures));
const TARGET = pathOf('gguf_llama_q8_0/model.gguf');
const SAME_TOKENS = pathOf('gguf_qwen2_q8_0/model.gguf');

const opened: api.Model[] = [];
afterEach(async () => {
  for (const m of opened.splice(0)) await m.dispose();
});
async function load(options: api.LoadOptions, spec: api.ModelSpec = TARGET): Promise<api.Model> {
  const model = await api.loadModel(spec, { device: 'cpu', threads: 1, dtype: 'f32', ...options });
  opened.push(model);
  return model;
}

const repeated = [65, 66, 67, 68, 69, 70, 71, 72, 65, 66, 67, 68, 69, 70, 71, 72, 65, 66, 67];
const prompts = [repeated, [70, 71], Array.from({ length: 50 }, (_, i) => 60 + ((i * 7) % 11))];
const requests: readonly api.CompletionParams[] = [
  { sampling: { topK: 1, maxLen: 40, ignoreEos: true } },
  { sampling: { temperature: 0.9, maxLen: 40, ignoreEos: true }, seed: 5 },
  { sampling: { temperature: 1.3, topP: 0.9, repetitionPenalty: 1.2, maxLen: 30, nChoices: 2 }, seed: 6 },
];

async function answers(model: api.Model): Promise<number[][]> {
  const asked = prompts.flatMap((prompt) => requests.map((params) => model.complete(prompt, params)));
  return (await Promise.all(asked)).flatMap(({ choices }) => choices.map((c) => [...c.tokenIds]));
}

describe('answers are those without speculation', () => {
  it.each<[string, api.LoadOptions]>([
    ['lookup', { speculation: { lookup: { minMatch: 1 } } }],
    ['the model itself as its draft model', { draftModel: TARGET, speculation: { nPredict: 3 } }],
    ['another model', { draftModel: SAME_TOKENS }],
    ['a draft model of bytes, behind a lookup', { draftModel: readFileSync(TARGET), speculation: { lookup: true } }],
  ])('%s', async (_, options) => {
    const alone = await load({});
    const drafted = await load(options);
    expect(await answers(drafted)).toEqual(await answers(alone));
    const stats = drafted.engineStats();
    expect(stats.draftTokensProposed).toBeGreaterThan(0);
    expect(stats.draftTokensAccepted).toBeLessThanOrEqual(stats.draftTokensProposed);
    expect(stats.draftTokensAcceptedByPlace.reduce((a, b) => a + b, 0)).toBe(stats.draftTokensAccepted);
    expect(alone.engineStats()).toMatchObject({ drafts: 0, draftTokensProposed: 0 });
  });
});

describe('answers of recurrent models, whose states go back behind wrong guesses', () => {
  it.each(['lfm2', 'qwen3_next', 'falcon_h1', 'granitemoehybrid'])('%s', async (name) => {
    const spec = pathOf(name);
    const alone = await load({}, spec);
    const drafted = await load({ speculation: { lookup: { minMatch: 1 } } }, spec);
    expect(await answers(drafted)).toEqual(await answers(alone));
    expect(drafted.engineStats().draftTokensProposed).toBeGreaterThan(0);
  });
});

describe('a model that drafts for itself', () => {
  it('is always right, so that greedy answers take a fraction of the steps', async () => {
    const model = await load({ draftModel: TARGET, speculation: { nPredict: 3 } });
    await model.complete(repeated, { sampling: { topK: 1, maxLen: 41, ignoreEos: true } });
    const stats = model.engineStats();
    expect(stats.draftTokensAccepted).toBe(stats.draftTokensProposed);
    expect(stats.draftTokensAcceptedByPlace).toEqual([10, 10, 10]);
    expect(stats.steps).toBe(11);
  });
});

describe('what a draft model takes is given back', () => {
  it('when loading it fails, and with the model', async () => {
    const missing = await load({ draftModel: pathOf('nowhere.gguf') }).catch((e: unknown) => e);
    expect(missing).toBeInstanceOf(api.ModelLoadError);
    const model = await load({ draftModel: SAME_TOKENS });
    const alone = await load({});
    expect(model.memory().persistent).toBeGreaterThan(alone.memory().persistent);
    await model.dispose();
    await expect(model.complete([65], requests[0])).rejects.toThrow(api.ChannelError);
  });
});

describe('a draft model with a table of another size', () => {
  /** A model of 256 tokens beside the 264 of the target, with the target's spelling of them, or one of its own. */
  async function smaller(spell: (token: string, id: number) => string): Promise<string> {
    const folder = mkdtempSync(join(tmpdir(), 'tramontane-draft-'));
    for (const file of ['config.json', 'model.safetensors'])
      copyFileSync(join(pathOf('llama'), file), join(folder, file));
    const { metadata } = await readGguf(readFileSync(TARGET));
    const tokens = (metadata.get('tokenizer.ggml.tokens') as string[]).slice(0, 256).map(spell);
    const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
    writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify({ model: { type: 'BPE', vocab, merges: [] } }));
    return folder;
  }

  it('guesses where the shared tokens are the same', async () => {
    const draftModel = await smaller((token) => token);
    const alone = await load({});
    const drafted = await load({ draftModel });
    expect(await answers(drafted)).toEqual(await answers(alone));
    expect(drafted.engineStats().draftTokensProposed).toBeGreaterThan(0);
    rmSync(draftModel, { recursive: true });
  });

  it('is refused where one is another', async () => {
    const draftModel = await smaller((token, id) => (id === 99 ? 'other' : token));
    await expect(load({ draftModel })).rejects.toThrow(/got "other" for .* as token 99/);
    rmSync(draftModel, { recursive: true });
  });
});

describe('tables of tokens of two sizes', () => {
  const named = (...tokens: readonly (string | undefined)[]) => ({ tokenOf: (id: number) => tokens[id] });

  it('share the ids that both name, up to the last of those', () => {
    expect(sharedIds(named('a', 'b', undefined, 'd', 'e'), named('a', 'b', 'c', 'd'), 8)).toBe(4);
    expect(sharedIds(named('a', 'b', 'c'), named('a', 'b', 'x'), 2)).toBe(2);
    expect(sharedIds(named('a'), named(undefined, 'b'), 2)).toBe(0);
  });

  it('are refused where they differ', () => {
    const compare = () => sharedIds(named('a', 'b'), named('a', 'x'), 2);
    expect(compare).toThrow(api.ConfigError);
    expect(compare).toThrow('got "x" for "b" as token 1');
  });
});

describe('what cannot draft is refused', () => {
  it('a model with other tokens', async () => {
    const error = await load({ draftModel: pathOf('llama') }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(api.ConfigError);
    expect(String(error)).toContain('draft model: expected the 264 tokens');
  });

  it('a recurrent model', async () => {
    await expect(load({ draftModel: pathOf('lfm2') }, pathOf('llama'))).rejects.toThrow(/without recurrent layers/);
  });
});
