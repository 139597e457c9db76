/** GGUF files in Hugging Face terms: metadata, row order, refusals. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { StorageTypeName } from '../../src/core/dtype.ts';
import { rowBytes, storageType } from '../../src/core/dtype.ts';
import { FormatError, UnsupportedError } from '../../src/core/errors.ts';
import type { Checkpoint, TensorInfo } from '../../src/core/io/checkpoint.ts';
import { ggufModel } from '../../src/core/io/ggufModel.ts';
import { lessOne, unpairRows } from '../../src/core/io/ggufRows.ts';
import { bytesSource } from '../../src/core/io/memory.ts';
import { sizeOf } from '../../src/core/tensor.ts';
import type { SourceTensor } from '../../src/core/weights.ts';
import { readValues } from '../../src/core/weights.ts';
import { codec } from './harness.ts';

interface Stored {
  readonly shape: readonly number[];
  readonly values?: readonly number[];
}

/** A checkpoint of F32 tensors; values count up where none are given. */
function checkpoint(metadata: Record<string, unknown>, tensors: Record<string, Stored>): Checkpoint {
  const entries = Object.entries(tensors).map(([name, { shape, values }]): [string, TensorInfo] => {
    const data = Float32Array.from(values ?? Array.from({ length: sizeOf(shape) }, (_, i) => i));
    const source = bytesSource(new Uint8Array(data.buffer));
    return [name, { name, type: storageType('F32'), shape, offset: 0, bytes: data.byteLength, source }];
  });
  return { tensors: new Map(entries), metadata: new Map(Object.entries(metadata)), close: async () => {} };
}

function metadata(arch: string, more: Record<string, unknown> = {}): Record<string, unknown> {
  const keys = {
    block_count: 2,
    context_length: 512,
    embedding_length: 16,
    feed_forward_length: 24,
    'attention.head_count': 4,
    'attention.head_count_kv': 2,
    'attention.layer_norm_rms_epsilon': 1e-5,
    'rope.freq_base': 5000,
    ...more,
  };
  const under = Object.entries(keys).map(([key, value]) => [`${arch}.${key}`, value]);
  return { 'general.architecture': arch, ...Object.fromEntries(under) };
}

const table = { 'token_embd.weight': { shape: [20, 16] } };

async function configOf(arch: string, more: Record<string, unknown> = {}, tensors: Record<string, Stored> = table) {
  return (await ggufModel(checkpoint(metadata(arch, more), tensors))).config;
}

describe('metadata', () => {
  it('becomes config.json', async () => {
    expect(await configOf('llama')).toMatchObject({
      architectures: ['LlamaForCausalLM'],
      vocab_size: 20,
      hidden_size: 16,
      intermediate_size: 24,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      head_dim: 4,
      max_position_embeddings: 512,
      rms_norm_eps: 1e-5,
      tie_word_embeddings: true,
      rope_parameters: { rope_type: 'default', rope_theta: 5000 },
    });
    const untied = { ...table, 'output.weight': { shape: [20, 16] } };
    expect((await configOf('llama', {}, untied)).tie_word_embeddings).toBe(false);
  });

  it('a window makes Mistral of Llama', async () => {
    expect(await configOf('llama', { 'attention.sliding_window': 7 })).toMatchObject({
      architectures: ['MistralForCausalLM'],
      sliding_window: 7,
    });
  });

  it('lists of equal entries are one value', async () => {
    const kv = { 'attention.head_count_kv': Uint32Array.of(2, 2) };
    expect((await configOf('llama', kv)).num_key_value_heads).toBe(2);
    const mixed = configOf('llama', { 'attention.head_count_kv': Uint32Array.of(2, 1) });
    await expect(mixed).rejects.toThrow(/head_count_kv: expected one value for all layers/);
  });

  it('windowed layers by period or by list', async () => {
    const key = 'attention.sliding_window_pattern';
    const types = ['sliding_attention', 'full_attention'];
    expect((await configOf('gemma3', { [key]: 2 })).layer_types).toEqual(types);
    expect((await configOf('gemma3', { [key]: [true, false] })).layer_types).toEqual(types);
    await expect(configOf('gemma3', { [key]: [true] })).rejects.toThrow(/expected 2 entries, got 1/);
  });

  it('the largest Gemmas scale queries by hidden size over heads', async () => {
    const sizes = { embedding_length: 64, 'attention.key_length': 8, 'attention.value_length': 8 };
    expect((await configOf('gemma2', sizes)).query_pre_attn_scalar).toBe(8);
    expect((await configOf('gemma2', { ...sizes, block_count: 46 })).query_pre_attn_scalar).toBe(16);
  });

  it('Gemma 3 scales full layers only and has a base of its own for the others', async () => {
    const c = await configOf('gemma3', { 'rope.scaling.type': 'linear', 'rope.scaling.factor': 8 });
    expect(c.rope_parameters).toEqual({
      full_attention: { rope_type: 'linear', rope_theta: 5000, factor: 8, partial_rotary_factor: undefined },
      sliding_attention: { rope_type: 'default', rope_theta: 10000 },
    });
  });
});

describe('rotation', () => {
  const rope = async (more: Record<string, unknown>, tensors: Record<string, Stored> = table) =>
    (await configOf('llama', more, tensors)).rope_parameters;

  it.each<[Record<string, unknown>, Record<string, unknown>]>([
    [{ 'rope.scaling.type': 'none', 'rope.scaling.factor': 4 }, { rope_type: 'default' }],
    [{ 'rope.scaling.factor': 4 }, { rope_type: 'linear', factor: 4 }],
    [{ 'rope.scale_linear': 2 }, { rope_type: 'linear', factor: 2 }],
    [{ 'rope.scaling.type': 'linear' }, { rope_type: 'default' }],
    [
      { 'rope.scaling.type': 'yarn', 'rope.scaling.factor': Math.E, 'rope.scaling.yarn_beta_fast': 16 },
      { rope_type: 'yarn', factor: Math.E, beta_fast: 16, attention_factor: 1.1 },
    ],
    [
      { 'rope.scaling.type': 'yarn', 'rope.scaling.factor': Math.E, 'rope.scaling.attn_factor': 0.5 },
      { rope_type: 'yarn', attention_factor: 0.55 },
    ],
  ])('%j', async (more, expected) => {
    expect(await rope(more)).toMatchObject({ rope_theta: 5000, ...expected });
  });

  it('stored divisors count at every length, times a linear factor', async () => {
    const freqs = { ...table, 'rope_freqs.weight': { shape: [2], values: [1, 4] } };
    const both = { rope_type: 'longrope', short_factor: [1, 4], long_factor: [1, 4], attention_factor: 1 };
    expect(await rope({}, freqs)).toMatchObject(both);
    expect(await rope({ 'rope.scaling.factor': 2 }, freqs)).toMatchObject({ short_factor: [2, 8] });
    await expect(rope({ 'rope.scaling.type': 'yarn', 'rope.scaling.factor': 2 }, freqs)).rejects.toThrow(/yarn with/);
  });

  it('a part of the head, exactly', async () => {
    for (let headDim = 2; headDim <= 256; headDim += 2) {
      for (const rotated of [2, headDim - 2, 2 * Math.floor(headDim / 3)].filter((n) => n > 0 && n < headDim)) {
        const c = await configOf('phi3', {
          'attention.key_length': headDim,
          'attention.value_length': headDim,
          'rope.dimension_count': rotated,
        });
        const share = (c.rope_parameters as { partial_rotary_factor: number }).partial_rotary_factor;
        expect(Math.trunc(headDim * share)).toBe(rotated);
      }
    }
    await expect(rope({ 'rope.dimension_count': 2 })).rejects.toThrow(
      /rope\.dimension_count: expected the head size 4/,
    );
  });

  it.each<[Record<string, unknown>, RegExp]>([
    [{ 'rope.scaling.type': 'spiral' }, /got spiral/],
    [{ 'rope.scaling.type': 'yarn' }, /rope\.scaling\.factor: expected a number for yarn/],
    [{ 'rope.scaling.type': 'yarn', 'rope.scaling.factor': 2, 'rope.scaling.yarn_ext_factor': 0.5 }, /ext_factor 0\.5/],
    [{ 'rope.scaling.attn_factor': 2 }, /attn_factor 2 with none/],
  ])('refuses %j', async (more, message) => {
    await expect(rope(more)).rejects.toThrow(message);
  });

  it('refuses half a pair of long factors, and absurd ones', async () => {
    const half = { ...table, 'rope_factors_long.weight': { shape: [2] } };
    await expect(rope({}, half)).rejects.toThrow(/rope_factors_short\.weight: expected this tensor/);
    const many = { ...table, 'rope_freqs.weight': { shape: [5000] } };
    await expect(rope({}, many)).rejects.toThrow(/expected up to 4096 F32 values/);
  });
});

describe('names', () => {
  it('are those of the Hugging Face class; unknown ones stay, rotary ones go', async () => {
    const tensors = {
      ...table,
      'blk.1.ffn_norm.weight': { shape: [16] },
      'blk.1.attn_q.bias': { shape: [16] },
      'blk.0.surprise.weight': { shape: [3] },
      'rope_freqs.weight': { shape: [2] },
    };
    const names = async (arch: string) => [...(await ggufModel(checkpoint(metadata(arch), tensors))).source.names()];
    expect(await names('llama')).toEqual([
      'model.embed_tokens.weight',
      'model.layers.1.post_attention_layernorm.weight',
      'model.layers.1.self_attn.q_proj.bias',
      'blk.0.surprise.weight',
    ]);
    expect(await names('gemma2')).toContain('model.layers.1.pre_feedforward_layernorm.weight');
  });

  it('norms of Gemma lose the one that was added', async () => {
    const tensors = { ...table, 'output_norm.weight': { shape: [16] } };
    const { source } = await ggufModel(checkpoint(metadata('gemma'), tensors));
    expect([...(await readValues(source.get('model.norm.weight')!, codec))]).toEqual(
      Array.from({ length: 16 }, (_, i) => i - 1),
    );
  });
});

describe('refusals', () => {
  it.each<[string, Record<string, unknown>, Record<string, Stored>, RegExp]>([
    ['mamba9', {}, table, /GGUF architecture: expected one of llama, .*; got "mamba9"/],
    ['constructor', {}, table, /got "constructor"/],
    ['llama', { 'attention.scale': 0.3 }, table, /llama\.attention\.scale: expected 0/],
    ['qwen2', { expert_count: 8 }, table, /qwen2\.expert_count: expected 0/],
    ['llama', { 'attention.value_length': 8 }, table, /attention\.value_length: expected the key length 4, got 8/],
    ['llama', { block_count: undefined }, table, /llama\.block_count: expected a value, got nothing/],
    ['llama', { block_count: 0 }, table, /llama\.block_count: expected a count from 1 to 4096/],
    ['llama', { embedding_length: 'wide' }, table, /llama\.embedding_length: expected a number, got wide/],
    ['llama', { context_length: 2 ** 40 }, table, /llama\.context_length: expected a count/],
    ['llama', {}, {}, /token_embd\.weight: expected this tensor/],
    ['llama', {}, { ...table, 'blk.0.attn_q.weight': { shape: [12, 16] } }, /expected 4 heads of an even size 4/],
  ])('%s %j', async (arch, more, tensors, message) => {
    await expect(configOf(arch, more, tensors)).rejects.toThrow(message);
  });

  it('with the kind of error a caller can handle', async () => {
    await expect(configOf('mamba9')).rejects.toThrow(UnsupportedError);
    await expect(configOf('llama', { block_count: -1 })).rejects.toThrow(FormatError);
    await expect(ggufModel(checkpoint({}, table))).rejects.toThrow(FormatError);
  });
});

describe('row order', () => {
  function tensor(shape: readonly number[], type: StorageTypeName, bytes: Uint8Array): SourceTensor {
    const stride = rowBytes(storageType(type), shape[shape.length - 1]!)!;
    return {
      name: 't',
      type: storageType(type),
      shape,
      order: 0,
      async readRows(first, rows, target) {
        target.set(bytes.subarray(first * stride, (first + rows) * stride));
      },
    };
  }

  it('any stretch of rows is the stretch of the reordered whole', async () => {
    const stretch = fc.record({
      heads: fc.integer({ min: 1, max: 4 }),
      half: fc.integer({ min: 1, max: 6 }),
      from: fc.nat(),
      to: fc.nat(),
    });
    await fc.assert(
      fc.asyncProperty(stretch, async ({ heads, half, from, to }) => {
        const headDim = 2 * half;
        const total = heads * headDim;
        // Q8_0 rows of 32 elements: 34 bytes, each row marked by its number in the file.
        const bytes = new Uint8Array(total * 34).map((_, i) => Math.floor(i / 34));
        const t = unpairRows(tensor([total, 32], 'Q8_0', bytes), heads, headDim);
        const [a, b] = [from % total, to % total].sort((x, y) => x - y) as [number, number];
        const got = new Uint8Array((b - a + 1) * 34);
        await t.readRows(a, b - a + 1, got);
        for (let r = a; r <= b; r++) {
          const [head, inHead] = [Math.floor(r / headDim), r % headDim];
          const expected = head * headDim + 2 * (inHead % half) + Math.floor(inHead / half);
          expect(got.subarray((r - a) * 34, (r - a + 1) * 34).every((v) => v === expected)).toBe(true);
        }
      }),
    );
  });

  it('vectors too', async () => {
    const values = Float32Array.from([0, 1, 2, 3, 4, 5, 6, 7]);
    const t = unpairRows(tensor([8], 'F32', new Uint8Array(values.buffer)), 2, 4);
    expect([...(await readValues(t, codec))]).toEqual([0, 2, 1, 3, 4, 6, 5, 7]);
  });

  it('refuses quantized vectors', () => {
    expect(() => unpairRows(tensor([32], 'Q8_0', new Uint8Array(34)), 1, 32)).toThrow(UnsupportedError);
    expect(() => lessOne(tensor([32], 'Q8_0', new Uint8Array(34)))).toThrow(/expected unquantized values, got Q8_0/);
  });
});

describe('families of other shapes', () => {
  const layerNorms = { 'attention.layer_norm_rms_epsilon': undefined, 'attention.layer_norm_epsilon': 1e-4 };

  it('the epsilon of layer norms goes by the name that the class has', async () => {
    expect(await configOf('phi2', layerNorms)).toMatchObject({ layer_norm_eps: 1e-4 });
    expect(await configOf('starcoder2', layerNorms)).toMatchObject({ norm_epsilon: 1e-4 });
    await expect(configOf('phi2')).rejects.toThrow(/layer_norm_epsilon: expected a value/);
    await expect(configOf('olmo', layerNorms)).rejects.toThrow(/layer_norm_epsilon: expected 0.00001, got 0.0001/);
  });

  it('a rotation of whole heads is said so where the class rotates a part', async () => {
    const whole = await configOf('gptneox', { ...layerNorms, 'rope.dimension_count': 4 });
    expect(whole.rope_parameters).toMatchObject({ partial_rotary_factor: 1 });
    const half = await configOf('gptneox', { ...layerNorms, 'rope.dimension_count': 2 });
    expect(half.rope_parameters).toMatchObject({ partial_rotary_factor: 0.5 });
  });

  it('Ministral 3: queries that grow, and the magnitude of YaRN', async () => {
    const yarn = {
      'rope.scaling.type': 'yarn',
      'rope.scaling.factor': 4,
      'rope.scaling.original_context_length': 128,
      'rope.scaling.yarn_log_multiplier': 0.5,
      'attention.temperature_scale': 0.25,
    };
    expect((await configOf('mistral3', yarn)).rope_parameters).toMatchObject({
      rope_type: 'yarn',
      mscale: 1,
      mscale_all_dim: 0.5,
      llama_4_scaling_beta: 0.25,
    });
    await expect(configOf('mistral3', { ...yarn, 'attention.temperature_length': 64 })).rejects.toThrow(
      /temperature_length: expected the original context 128, got 64/,
    );
    await expect(configOf('llama', { 'attention.temperature_scale': 0.25 })).rejects.toThrow(UnsupportedError);
  });

  it('windows: OLMo 3 is OLMo 2 with some, EXAONE 4 says that it has none', async () => {
    const windowed = { 'attention.sliding_window': 8, 'attention.sliding_window_pattern': [true, false] };
    expect(await configOf('olmo2', windowed)).toMatchObject({
      architectures: ['Olmo3ForCausalLM'],
      layer_types: ['sliding_attention', 'full_attention'],
      rope_parameters: { full_attention: { rope_theta: 5000 }, sliding_attention: { rope_theta: 5000 } },
    });
    expect(await configOf('olmo2')).toMatchObject({ architectures: ['Olmo2ForCausalLM'] });
    expect(await configOf('exaone4')).toMatchObject({ sliding_window: null });
    expect(await configOf('exaone4', windowed)).toMatchObject({ sliding_window: 8 });
  });

  it('Gemma 4: sizes of each layer', async () => {
    const sizes = {
      'attention.sliding_window': 8,
      'attention.sliding_window_pattern': [true, false],
      'attention.head_count_kv': [2, 1],
      'attention.key_length': 8,
      'attention.key_length_swa': 4,
      'attention.shared_kv_layers': 1,
      feed_forward_length: [24, 48],
    };
    expect(await configOf('gemma4', sizes)).toMatchObject({
      per_layer_config: { 0: { head_dim: 4, num_key_value_heads: 2 }, 1: { head_dim: 8, num_key_value_heads: 1 } },
      use_double_wide_mlp: true,
      num_kv_shared_layers: 1,
      hidden_size_per_layer_input: 0,
    });
    const refused = configOf('gemma4', { ...sizes, feed_forward_length: [24, 36] });
    await expect(refused).rejects.toThrow(/feed_forward_length: expected 24, or twice that from layer 1 on/);
    await expect(configOf('gemma4', { ...sizes, feed_forward_length: [24] })).rejects.toThrow(
      /expected 2 entries, got 1/,
    );
    await expect(configOf('gemma4', { ...sizes, feed_forward_length: [24, -1] })).rejects.toThrow(FormatError);
    await expect(configOf('gemma4')).rejects.toThrow(/sliding_window_pattern: expected one flag a layer/);
  });

  it('GPT-2: its position table tells how far it goes', async () => {
    const tensors = { ...table, 'position_embd.weight': { shape: [33, 16] } };
    expect(await configOf('gpt2', layerNorms, tensors)).toMatchObject({ max_position_embeddings: 33, n_inner: 24 });
  });
});
