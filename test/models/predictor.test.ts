/** Heads for multi-token prediction: their guesses are those of an independent implementation, on every back-end. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { Engine } from '../../src/core/engine/engine.ts';
import { blocksForGuesses, HeadDrafter } from '../../src/core/engine/headDrafter.ts';
import type { ModelRunner, PredictorRunner } from '../../src/core/engine/types.ts';
import { readGguf } from '../../src/core/io/gguf.ts';
import { ggufModel } from '../../src/core/io/ggufModel.ts';
import { readSafetensors } from '../../src/core/io/safetensors.ts';
import { safetensorsSource } from '../../src/core/io/weightSource.ts';
import { DecoderRunner } from '../../src/core/runner.ts';
import { readValues, type SourceTensor, type WeightSource, Weights } from '../../src/core/weights.ts';
import { buildDecoder } from '../../src/models/arch.ts';
import { archOf } from '../../src/models/registry.ts';
import { backends, codec, FAMILIES_WITH_HEADS, fixtures, type Opened, openModel, type TestBackend } from './harness.ts';

const DEPTH = 3;
/** As in the tests of the models themselves; see the README of the fixtures. */
const TOLERANCE = 4e-4;

const heads = new URL('../fixtures/mtp/', import.meta.url);
const read = (url: URL) => readSafetensors(readFileSync(url));

async function expected(name: string) {
  const checkpoint = await read(new URL(`${name}/expected.safetensors`, heads));
  const prompt = checkpoint.tensors.get('prompt')!;
  const bytes = await prompt.source.slice(prompt.offset, prompt.offset + prompt.bytes);
  return {
    prompt: [...new Int32Array(bytes.slice().buffer)],
    logits: await readValues(safetensorsSource(checkpoint).get('logits')!, codec),
  };
}

function both(a: WeightSource, b: WeightSource): WeightSource {
  return { get: (name) => a.get(name) ?? b.get(name), names: () => [...a.names(), ...b.names()] };
}

/** A model without its head, whose configuration says that it has one, and the head. */
async function openHeaded(name: string) {
  const { config, source } = await openModel(new URL(`${name}/`, fixtures));
  const head = safetensorsSource(await read(new URL(`${name}/mtp.safetensors`, heads)));
  return { config: { ...(config as object), num_nextn_predict_layers: 1 }, source, head };
}

async function openWhole(name: string): Promise<Opened> {
  const { config, source, head } = await openHeaded(name);
  return { config, source: both(source, head) };
}

/** A head of Qwen under the names that GGUF files lead to. */
async function openRenamed(name: string): Promise<Opened> {
  const { config, source, head } = await openHeaded(name);
  const at = `model.layers.${(config as unknown as { num_hidden_layers: number }).num_hidden_layers}.`;
  const renamed = new Map<string, SourceTensor>();
  for (const stored of head.names()) {
    const to = stored
      .replace('mtp.layers.0.', at)
      .replace('mtp.fc.', `${at}eh_proj.`)
      .replace('mtp.pre_fc_norm_embedding.', `${at}enorm.`)
      .replace('mtp.pre_fc_norm_hidden.', `${at}hnorm.`)
      .replace('mtp.norm.', `${at}shared_head.norm.`);
    renamed.set(to, { ...head.get(stored)!, name: to });
  }
  return { config, source: both(source, { get: (tensor) => renamed.get(tensor), names: () => renamed.keys() }) };
}

const openGguf = async () => ggufModel(await readGguf(readFileSync(new URL('gguf_glm4moe.gguf', heads))));

/** The model with its head, and the logits of all guesses that are made with it. */
async function load({ config, source }: Opened, { create, blockSize }: TestBackend) {
  const backend = await create();
  const arch = await archOf(config);
  const weights = Weights.open({ backend, source, codec, dtype: 'f32' });
  const decoder = buildDecoder(arch, weights, arch.config(config), { predictor: true });
  await weights.load();
  const extraBlocks = blocksForGuesses(2, blockSize, DEPTH);
  const sizes = { blocks: 24, blockSize, maxRows: 64, maxSequences: 2, maxBlocks: 12, extraBlocks };
  const runner = new DecoderRunner(backend, decoder, { ...sizes, stateSlots: 6 });
  const guesses: Float32Array[] = [];
  const inner = runner.predictor as PredictorRunner;
  const predictor: PredictorRunner = {
    extraBlocks,
    async predict(batch, sources, own) {
      const logits = await inner.predict(batch, sources, own);
      if (batch.logitCount > 0) guesses.push(Float32Array.from(logits as Float32Array));
      return logits;
    },
  };
  const { vocabSize, contextLength, blocks, maxRows, maxSequences, maxLogitRows, stateSlots } = runner;
  const served: ModelRunner = {
    ...{ vocabSize, contextLength, blockSize, blocks, maxRows, maxSequences, maxLogitRows, stateSlots, predictor },
    forward: (batch) => runner.forward(batch),
  };
  const dispose = async () => {
    runner.dispose();
    weights.dispose();
    await backend.dispose();
  };
  return { served, guesses, decoder, vocabSize, dispose };
}

describe.each(backends)('$name', (backend) => {
  it.each<[string, string, (name: string) => Promise<Opened>]>([
    ...FAMILIES_WITH_HEADS.map((name) => [name, name, openWhole] as [string, string, typeof openWhole]),
    ['a GGUF file', 'glm4_moe', openGguf],
    ['names of GGUF files', 'qwen3_5_text', openRenamed],
    ['names of GGUF files, experts', 'qwen3_5_moe_text', openRenamed],
  ])('%s', async (_, name, open) => {
    const { prompt, logits } = await expected(name);
    const { served, guesses, vocabSize, dispose } = await load(await open(name), backend);
    // In one piece, and in pieces of four tokens.
    for (const maxBatchTokens of [64, 4]) {
      guesses.length = 0;
      const drafter = new HeadDrafter(served, { maxDraft: DEPTH });
      const engine = new Engine(served, { drafter, maxBatchTokens, prefixCache: false });
      await engine.generate({ prompt, sampling: { topK: 1, maxLen: 6 } });
      await engine.dispose();
      for (let depth = 0; depth < DEPTH; depth++) {
        const want = logits.subarray(depth * vocabSize, (depth + 1) * vocabSize);
        let worst = 0;
        for (const [i, x] of want.entries()) worst = Math.max(worst, Math.abs(x - guesses[depth]![i]!));
        expect(worst, `guess ${depth}`).toBeLessThan(TOLERANCE);
      }
    }
    await dispose();
  });
});

it('no head is built, and none of its tensors missed, unless it is asked for', async () => {
  for (const name of FAMILIES_WITH_HEADS) {
    const backend = await backends[0]!.create();
    const { config, source, head } = await openHeaded(name);
    const arch = await archOf(config);
    const build = (from: WeightSource, predictor: boolean) =>
      buildDecoder(arch, Weights.open({ backend, source: from, codec }), arch.config(config), { predictor });
    const plain = build(both(source, head), false);
    const headed = build(both(source, head), true);
    expect(plain.predictor).toBeUndefined();
    expect(headed.caches.length).toBe(plain.caches.length + 1);
    expect(headed.predictor?.firstCache).toBe(plain.caches.length);
    expect(build(source, true).predictor).toBeUndefined();
    await backend.dispose();
  }
});
