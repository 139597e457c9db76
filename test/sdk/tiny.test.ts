/** Loading and asking a real model of a few hundred kilobytes, through the public entry. */
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import * as api from '../../src/index.ts';
import { furthest, readPrompts } from '../models/harness.ts';

const fixtures = new URL('../fixtures/models/', import.meta.url);
const pathOf = (name: string) => fileURLToPath(new URL(name, fixtures));
const GREEDY = { sampling: { temperature: 0, maxLen: 16, ignoreEos: true } };
const TOLERANCE = 2e-4;

const opened: api.Model[] = [];
const folders: string[] = [];
afterEach(async () => {
  for (const m of opened.splice(0)) await m.dispose();
  for (const f of folders.splice(0)) rmSync(f, { recursive: true });
});
async function load(spec: api.ModelSpec, options: api.LoadOptions = {}): Promise<api.Model> {
  const model = await api.loadModel(spec, { device: 'reference', ...options });
  opened.push(model);
  return model;
}

describe.each(['llama', 'gguf_llama_f16'])('%s', (name) => {
  const folder = new URL(`${name}/`, fixtures);
  const weights = name === 'llama' ? pathOf('llama') : pathOf(`${name}/model.gguf`);

  it('gives the reference logits for every position, and its greedy tokens', async () => {
    const model = await load(weights);
    for (const prompt of await readPrompts(folder)) {
      const raw = await model.sendRawTokens(prompt.ids);
      const rows = (await Promise.all(raw.logitsChunks.map((t) => t.toFloat32Array()))).flatMap((r) => [...r]);
      expect(furthest(Float32Array.from(rows), prompt.logits)).toBeLessThan(TOLERANCE);
      const { logits } = await model.inner().forward({ input_ids: prompt.ids });
      expect(furthest(await logits!.toFloat32Array(), prompt.logits)).toBeLessThan(TOLERANCE);
      const whole = await model.complete(prompt.ids, GREEDY);
      expect([...whole.choices[0]!.tokenIds]).toEqual([...prompt.greedy]);
      const streamed: number[] = [];
      for await (const { choices } of model.streamComplete(prompt.ids, GREEDY)) streamed.push(...choices[0]!.tokenIds);
      expect(streamed).toEqual([...prompt.greedy]);
    }
    expect(model.engineStats()).toMatchObject({ running: 0, waiting: 0 });
  });

  it('the same in pieces, without cache, and beside other requests', async () => {
    const prompts = await readPrompts(folder);
    for (const options of [
      { maxBatchTokens: 7, pagedAttn: { blockSize: 8 } },
      { noKvCache: true },
      { prefixCacheN: 0, maxNumSeqs: 1 },
    ]) {
      const model = await load(weights, options);
      const answers = await Promise.all([...prompts, ...prompts].map((p) => model.complete(p.ids, GREEDY)));
      expect(answers.map((a) => [...a.choices[0]!.tokenIds])).toEqual(
        [...prompts, ...prompts].map((p) => [...p.greedy]),
      );
    }
  });
});

describe('a small cache', () => {
  it('in blocks of any size on any device, refuses what it can never hold and names the memory', async () => {
    for (const device of ['cpu', 'reference'] as const) {
      const lines: string[] = [];
      const model = await load(pathOf('llama'), {
        device,
        pagedAttn: { blockSize: 8, memory: { contextSize: 64 } },
        logging: (level, line) => void (level === 'warn' && lines.push(line)),
      });
      expect(lines.some((line) => line.startsWith('pagedAttn.blockSize'))).toBe(device === 'cpu');
      const prompt = new Array(40).fill(5);
      const error = await model.complete(prompt, { sampling: { topK: 1, maxLen: 25 } }).catch((e: unknown) => e);
      expect(error).toBeInstanceOf(api.RequestValidationError);
      expect(String(error)).toMatch(/64 tokens .* got 40 and 25; they need 1 MB .* pagedAttn.memory/);
      const fits = await model.complete(prompt, { sampling: { topK: 1, maxLen: 24, ignoreEos: true } });
      expect(fits.choices[0]!.tokenIds).toHaveLength(24);
    }
  });
});

describe('a cache of 8 bits', () => {
  const logitsOf = async (model: api.Model, ids: Uint32Array) =>
    (await Promise.all((await model.sendRawTokens(ids)).logitsChunks.map((t) => t.toFloat32Array()))).flatMap((r) => [
      ...r,
    ]);

  it('takes about half the memory of 16 bits and changes logits by less than 2 %', async () => {
    const [prompt] = await readPrompts(new URL('llama/', fixtures));
    const ids = Uint32Array.from(prompt!.ids);
    for (const device of ['cpu', 'reference'] as const) {
      const settings = { device, dtype: 'f32', pagedAttn: { memory: { contextSize: 64 } } } as const;
      const exact = await logitsOf(await load(pathOf('llama'), settings), ids);
      const model = await load(pathOf('llama'), {
        ...settings,
        pagedAttn: { ...settings.pagedAttn, cacheType: 'q8_0' },
      });
      const coarse = await logitsOf(model, ids);
      const difference = Math.hypot(...coarse.map((x, i) => x - exact[i]!)) / Math.hypot(...exact);
      expect(difference).toBeGreaterThan(0);
      expect(difference).toBeLessThan(0.02);
    }
    const cached = async (cacheType: 'f32' | 'f16' | 'q8_0') => {
      const pagedAttn = { cacheType, memory: { contextSize: 4096 } };
      return (
        await load(pathOf('llama'), { device: 'cpu', maxNumSeqs: 1, maxBatchTokens: 32, maxModelLen: 64, pagedAttn })
      ).memory().persistent;
    };
    const [f32, f16, q8] = [await cached('f32'), await cached('f16'), await cached('q8_0')];
    expect(f16 - q8).toBeGreaterThan(0.2 * (f32 - f16));
  });

  it('is refused by name where a back-end has none', async () => {
    const { composedCreateKvCache } = await import('../../src/core/composed/attention.ts');
    const { ReferenceBackend } = await import('../../src/backends/reference/index.ts');
    const spec = { kvHeads: 1, keyDim: 8, valueDim: 8, dtype: 'q8_0' } as const;
    expect(() => composedCreateKvCache(new ReferenceBackend(), spec, 1, 32)).toThrow(/q8_0 cache .* take .* f16/);
  });
});

describe('loading', () => {
  const gguf = pathOf('gguf_llama_q8_0/model.gguf');

  it('takes a path, a file URL, bytes, a Blob, a folder, or named files of one', async () => {
    const bytes = readFileSync(gguf);
    const names = ['token_embd'];
    for (const model of [
      await load(gguf),
      await load(new URL('gguf_llama_q8_0/model.gguf', fixtures)),
      await load(new Uint8Array(bytes)),
      await load(new Blob([new Uint8Array(bytes)])),
      await load(pathOf('gguf_llama_q8_0'), { files: ['model.gguf'] }),
      await new api.GgufModelBuilder(pathOf('gguf_llama_q8_0'), ['model.gguf']).withDevice('reference').build(),
    ]) {
      expect(model.config()).toMatchObject({ category: 'text', hasTokenizer: true, vocabSize: 264 });
      expect([...(await model.tokenize('ab'))]).not.toHaveLength(0);
      names.push((await model.complete('ab', GREEDY)).choices[0]!.text);
      await model.dispose();
    }
    expect(new Set(names.slice(1)).size).toBe(1);
  });

  it('works without a tokenizer, for ids', async () => {
    const model = await new api.ModelBuilder(pathOf('llama')).withDtype('f32').withDevice('reference').build();
    opened.push(model);
    expect(model.config()).toMatchObject({ kind: 'LlamaForCausalLM', hasTokenizer: false, hasChatTemplate: false });
    const { choices } = await model.complete([1, 2, 3], GREEDY);
    expect(choices[0]).toMatchObject({ text: '', finishReason: 'length' });
    await expect(model.chat('hi')).rejects.toThrow(api.UnsupportedError);
    await expect(model.complete('hi')).rejects.toThrow(api.UnsupportedError);
  });

  it('takes template, tokenizer and generation defaults from where they are', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'model-'));
    folders.push(folder);
    symlinkSync(gguf, join(folder, 'model.gguf'));
    const template =
      '{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}{% if add_generation_prompt %}A:{% endif %}';
    writeFileSync(join(folder, 'chat_template.jinja'), template);
    writeFileSync(
      join(folder, 'generation_config.json'),
      '{"eos_token_id": [7], "temperature": 0.5, "do_sample": false}',
    );
    const model = await load(folder);
    expect(model.config()).toMatchObject({ hasChatTemplate: true, generationDefaults: { topK: 1, eosIds: [7] } });
    const ids = await model.tokenize({ messages: [{ role: 'user', content: 'x' }] });
    expect(await model.detokenize(ids, { skipSpecialTokens: true })).toBe('user:x;A:');
    expect(await model.chat('x')).toBe(
      (await model.sendChatRequest({ messages: [{ role: 'user', content: 'x' }] })).choices[0]?.message.content,
    );
    const own = await load(folder, { chatTemplate: '{{ messages[0].content }}' });
    expect(
      await own.detokenize(await own.tokenize({ messages: [{ role: 'user', content: 'x' }] }), {
        skipSpecialTokens: true,
      }),
    ).toBe('x');
    writeFileSync(join(folder, 'explicit.jinja'), 'E{{ messages[0].content }}');
    const explicit = await load(folder, { chatTemplate: 'T', jinjaExplicit: join(folder, 'explicit.jinja') });
    const explicitIds = await explicit.tokenize({ messages: [{ role: 'user', content: 'x' }] });
    expect(await explicit.detokenize(explicitIds, { skipSpecialTokens: true })).toBe('Ex');
  });

  it('ends answers at the tokens that checkpoint, tokenizer and template name', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'model-'));
    folders.push(folder);
    symlinkSync(join(pathOf('llama'), 'model.safetensors'), join(folder, 'model.safetensors'));
    const config = JSON.parse(readFileSync(join(pathOf('llama'), 'config.json'), 'utf8')) as object;
    writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, eos_token_id: 3 }));
    const vocab = Object.fromEntries(Array.from({ length: 250 }, (_, id) => [`t${id}`, id]));
    const added = ['<|im_end|>', '</s>', '<end_of_turn>'].map((content, i) => ({
      ...{ id: 250 + i, content, special: true, normalized: false },
      ...{ single_word: false, lstrip: false, rstrip: false },
    }));
    const tokenizer = { added_tokens: added, model: { type: 'WordLevel', vocab, unk_token: 't0' } };
    writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(tokenizer));
    const own = { eos_token: '</s>', chat_template: '{{ messages[0].content }}<|im_end|>' };
    writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify(own));
    const model = await load(folder);
    const reasons: string[] = [];
    // The last one is in the vocabulary and not in the template, so it is a token like any other.
    for (const id of [3, 250, 251, 252]) {
      const force = (logits: Float32Array) => void (logits[id] = 1e6);
      const answer = await model.complete([5], { sampling: { topK: 1, maxLen: 3 }, logitsProcessors: [force] });
      reasons.push(`${answer.choices[0]?.finishReason} ${answer.choices[0]?.tokenIds.length}`);
    }
    expect(reasons).toEqual(['stop 1', 'stop 1', 'stop 1', 'length 3']);
  });

  it('reports progress from nothing to all', async () => {
    const seen: api.LoadProgressEvent[] = [];
    await load(gguf, { onProgress: (p) => seen.push(p) });
    expect(seen.length).toBeGreaterThan(3);
    expect(seen.every((p, i) => p.stage === 'load' && p.done >= (seen[i - 1]?.done ?? 0))).toBe(true);
    expect(seen.at(-1)).toMatchObject({ done: seen[0]?.total, total: seen[0]?.total, unit: 'bytes' });
  });

  it('limits context and memory as asked', async () => {
    const model = await load(gguf, { maxModelLen: 20 });
    expect(model.maxSequenceLength()).toBe(20);
    const { choices } = await model.complete([1, 2, 3], { sampling: { topK: 1, ignoreEos: true } });
    expect(choices[0]).toMatchObject({ finishReason: 'length' });
    expect(choices[0]!.tokenIds.length).toBe(17);
    await expect(model.complete(new Array(30).fill(1))).rejects.toMatchObject({ code: 'prompt_too_long' });
  });

  it('can be cancelled, and fails with typed errors that name what is wrong', async () => {
    await expect(load(gguf, { signal: AbortSignal.abort() })).rejects.toThrow(api.AbortError);
    await expect(load(pathOf('nowhere'))).rejects.toThrow(api.ModelLoadError);
    await expect(load('no-such-model')).rejects.toThrow(/no-such-model/);
    await expect(load(new Uint8Array(100))).rejects.toThrow(api.FormatError);
    await expect(load(gguf, { device: 'webgpu', adapter: 'no such' })).rejects.toMatchObject({ feature: 'webgpu' });
    await expect(load(gguf, { tokenizerJson: pathOf('llama/config.json') })).rejects.toThrow(api.TramontaneError);
    const folder = mkdtempSync(join(tmpdir(), 'model-'));
    folders.push(folder);
    symlinkSync(join(pathOf('llama'), 'model.safetensors'), join(folder, 'model.safetensors'));
    await expect(load(folder)).rejects.toThrow(api.ModelLoadError);
    writeFileSync(join(folder, 'config.json'), '{"architectures": ["LlamasForCausalLM"]}');
    await expect(load(folder)).rejects.toThrow(/LlamaForCausalLM/);
  });
});

describe('the embedded model', () => {
  let model: api.Model | undefined;
  beforeAll(async () => {
    model = await api.loadModel('SmolLM2-135M-Instruct');
  });
  afterAll(() => model?.dispose());

  it('is found by its names and answers', async () => {
    if (!model) throw new Error('expected a model');
    expect(model.config()).toMatchObject({ kind: 'LlamaForCausalLM', maxSeqLen: 8192, hasChatTemplate: true });
    const request = {
      messages: [{ role: 'user', content: 'Answer with one word: what colour is the sky?' }],
      sampling: { topK: 1, maxLen: 24 },
    };
    const stream = model.streamChatRequest(request);
    const text = await stream.toText();
    expect(text).toMatch(/^\p{L}/u);
    expect((await model.sendChatRequest(request)).choices[0]?.message.content).toBe(text);
    const { choices, usage } = await stream.final();
    expect(usage.completionTokens).toBe(choices[0]?.tokenIds.length);
  });
});
