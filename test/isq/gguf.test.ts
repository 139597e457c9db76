import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { writeSafetensors } from '../../src/core/io/safetensorsWrite.ts';
import { readGguf, readSafetensors } from '../../src/entry-core.ts';
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

  it.each([
    ...[
      'llama',
      'llama_l3',
      'llama_llama3rope_tied',
      'llama_longrope',
      'llama_prop',
      'llama_yarn_af',
      'mistral',
      'mixtral',
    ],
    ...['ministral3', 'qwen2', 'qwen3', 'gemma', 'gemma_bias_untied', 'phi', 'phi3', 'phi3_longrope', 'phi3_partial'],
    ...['seed_oss', 'granite', 'glm', 'glm4', 'starcoder2', 'nemotron', 'olmo_clip', 'olmo2', 'olmo3', 'cohere2'],
    ...['cohere_qk', 'gpt2', 'gptneox', 'stablelm', 'stablelm_qk_parallel', 'exaone4', 'gemma4_text_moe'],
    ...['gemma4_text_ple', 'gemma4_shared', 'deepseek_v2', 'deepseek_v3', 'glm4_moe', 'gpt_oss', 'gpt_oss_mxfp4'],
    ...[
      'hunyuan_v1_dense',
      'hunyuan_v1_moe',
      'ernie4_5_moe',
      'olmoe_v1',
      'granitemoehybrid',
      'granitemoehybrid_groups',
    ],
    ...['granitemoehybrid_dense_rope', 'qwen3_next', 'qwen3_next_uneven', 'qwen3_5_text', 'qwen3_5_text_uneven'],
    ...['qwen3_5_moe_text', 'lfm2', 'lfm2_moe'],
  ])('of %s keep its logits', async (name) => {
    const out = join(temporaryFolder(), 'out.gguf');
    // The table of tokens is read row by row in every model, so that nothing else is rounded.
    const topology = { '/(embed_tokens|wte|embed_in)\\.weight$/': { isq: 'Q8_0' } };
    const report = await quantizeModel(fixture(name), out, { topology });
    expect(report.layers.map((l) => l.stored)).toEqual(['Q8_0']);
    expect(relativeError(await logitsAt(out), await logitsAt(fixture(name), { topology }))).toBeLessThan(2e-6);
  });

  it.each<[string, Record<string, unknown>]>([
    ['gemma2', { query_pre_attn_scalar: 16 }],
    ['gemma3_text', { query_pre_attn_scalar: 16 }],
    ['phimoe', { router_jitter_noise: 0.01 }],
    ['qwen3_moe', { num_hidden_layers: 1, mlp_only_layers: [] }],
  ])('of %s keep its logits, where the configuration can be written', async (name, changes) => {
    const folder = temporaryFolder();
    const config = { ...JSON.parse(readFileSync(join(fixture(name), 'config.json'), 'utf8')), ...changes };
    writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
    const stored = await readSafetensors(readFileSync(join(fixture(name), 'model.safetensors')));
    const kept = [...stored.tensors.values()].filter(
      (t) => Number(/layers\.(\d+)/.exec(t.name)?.[1] ?? 0) < config.num_hidden_layers,
    );
    const tensors = await Promise.all(
      kept.map(async (t) => {
        const data = await t.source.slice(t.offset, t.offset + t.bytes);
        return [t.name, { type: t.type.name, shape: t.shape, data }] as const;
      }),
    );
    writeFileSync(join(folder, 'model.safetensors'), writeSafetensors(tensors));
    const out = join(temporaryFolder(), 'out.gguf');
    await quantizeModel(folder, out, { isq: 'Q8_0' });
    expect(relativeError(await logitsAt(out), await logitsAt(folder, { isq: 'Q8_0' }))).toBeLessThan(1e-5);
  });

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
      ['gemma_relu', 'hidden_act'],
      ['smollm3', 'rotates'],
      ['llama_dynamic', 'rope_type'],
      ['llama_yarn_mscale', 'rope'],
      ['phimoe', 'router_jitter_noise'],
      ['qwen2_window', 'windows'],
      ['qwen3_moe', 'sparse'],
      ['gpt_oss_mx2', 'swiglu_limit'],
      ['deepseek_v2_q', 'shared_experts.*bias'],
      ['phi_qk', 'k_layernorm.bias'],
      ['glm4_moe_lite', 'Glm4MoeLite'],
      ['falcon_h1', 'falcon-h1'],
    ] as const) {
      await expect(quantizeModel(fixture(name), out, { isq: 'Q8_0' })).rejects.toThrow(new RegExp(key));
    }
    await expect(quantizeModel(fixture('llama'), out, {})).rejects.toThrow(/type to quantize to/);
  });
});
