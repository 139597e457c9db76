import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { readGguf } from '../../src/entry-core.ts';
import { loadModel, quantizeModel, UnsupportedError } from '../../src/index.ts';
import { logitsOf, matricesOf, relativeError, SMALL, temporaryFolder, writeModel } from './models.ts';

const cache = { pagedAttn: { cacheType: 'f32' } } as const;
const fixture = (name: string) => new URL(`../fixtures/models/${name}`, import.meta.url).pathname;

async function logitsAt(path: string, options = {}): Promise<Float32Array> {
  const model = await loadModel(path, { device: 'reference', ...cache, ...options });
  const logits = await logitsOf(model, [3, 17, 5, 40, 41, 2, 9, 30]);
  await model.dispose();
  return logits;
}

describe('GGUF files', () => {
  it.each(['Q8_0', 'Q4K', 'Q6K', 'MXFP4'])('of a folder as %s compute what quantizing at load does', async (isq) => {
    const folder = writeModel(SMALL);
    const out = join(temporaryFolder(), 'out.gguf');
    await quantizeModel(folder, out, { isq });
    expect(relativeError(await logitsAt(out), await logitsAt(folder, { isq }))).toBeLessThan(1e-6);
  });

  it.each(['llama', 'llama_l3', 'llama_llama3rope_tied', 'mistral', 'qwen2', 'qwen3', 'gemma', 'phi3'])(
    'of %s keep its logits',
    async (name) => {
      const out = join(temporaryFolder(), 'out.gguf');
      const report = await quantizeModel(fixture(name), out, { isq: 'Q8_0' });
      expect(report.layers.length).toBeGreaterThan(5);
      expect(relativeError(await logitsAt(out), await logitsAt(fixture(name), { isq: 'Q8_0' }))).toBeLessThan(1e-5);
    },
  );

  it.each<[string, Record<string, unknown>]>([
    ['Gemma 2', { architectures: ['Gemma2ForCausalLM'], query_pre_attn_scalar: 64, head_dim: 64, sliding_window: 4 }],
    ['SmolLM 3', { architectures: ['SmolLM3ForCausalLM'], no_rope_layer_interval: 4, rope_theta: 5e4 }],
  ])('of %s keep its logits', async (_name, config) => {
    const gemma = config['sliding_window'] === 4;
    const s = { ...SMALL, layers: 4, tied: true, hidden: 128, inner: 64 };
    const matrices = matricesOf(s);
    for (let i = 0; gemma && i < s.layers; i++) {
      const norm = matrices.get(`model.layers.${i}.input_layernorm.weight`)!;
      for (const place of ['pre_feedforward', 'post_feedforward']) {
        matrices.set(`model.layers.${i}.${place}_layernorm.weight`, norm);
      }
    }
    const own = gemma
      ? { ...config, head_dim: 32, query_pre_attn_scalar: 32, hidden_activation: 'gelu_pytorch_tanh' }
      : config;
    const folder = writeModel(s, matrices, { ...own, model_type: undefined });
    const out = join(temporaryFolder(), 'out.gguf');
    await quantizeModel(folder, out, { isq: 'Q8_0' });
    expect(relativeError(await logitsAt(out), await logitsAt(folder, { isq: 'Q8_0' }))).toBeLessThan(1e-5);
  });

  it('of GGUF files keep every key and tensor', async () => {
    const from = join(fixture('gguf_llama_f16'), 'model.gguf');
    const out = join(temporaryFolder(), 'out.gguf');
    await quantizeModel(from, out, { isq: 'Q8_0' });
    const [a, b] = [await readGguf(readFileSync(from)), await readGguf(readFileSync(out))];
    const changed = ['general.file_type', 'general.quantization_version'];
    for (const [key, value] of a.metadata) {
      if (!changed.includes(key)) expect([key, b.metadata.get(key)]).toEqual([key, value]);
    }
    expect([...b.tensors.keys()]).toEqual([...a.tensors.keys()]);
    expect(b.tensors.get('blk.0.attn_q.weight')?.type.name).toBe('Q8_0');
    expect(b.tensors.get('blk.0.attn_norm.weight')?.type.name).toBe('F32');
    expect(relativeError(await logitsAt(out), await logitsAt(from, { isq: 'Q8_0' }))).toBeLessThan(1e-5);
  });

  it('of types and architectures without a place in them are refused', async () => {
    const out = join(temporaryFolder(), 'out.gguf');
    for (const isq of ['AFQ4', 'HQQ8', 'F8E4M3', 'F8Q8']) {
      await expect(quantizeModel(writeModel(SMALL), out, { isq })).rejects.toThrow(UnsupportedError);
    }
    for (const [name, key] of [
      ['gemma2', 'query_pre_attn_scalar'],
      ['smollm3', 'no_rope_layers'],
      ['llama_yarn_af', 'rope'],
    ]) {
      await expect(quantizeModel(fixture(name!), out, { isq: 'Q8_0' })).rejects.toThrow(key);
    }
    await expect(quantizeModel(fixture('gpt2'), out, { isq: 'Q8_0' })).rejects.toThrow(/GPT2/);
    await expect(quantizeModel(fixture('llama'), out, {})).rejects.toThrow(/type to quantize to/);
  });
});
