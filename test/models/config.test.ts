/** What configurations say is honoured or refused; the message names the place. */
import { describe, expect, it } from 'vitest';
import { ConfigError, UnsupportedError } from '../../src/core/errors.ts';
import { archOf, supported } from '../../src/models/registry.ts';

const base = {
  vocab_size: 64,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 8,
};

async function parsed(architecture: string, more: Record<string, unknown> = {}): Promise<Record<string, unknown>> {
  const raw = { architectures: [architecture], ...base, ...more };
  return (await archOf(raw)).config(raw) as Record<string, unknown>;
}

const slide = 'sliding_attention';
const full = 'full_attention';

describe('registry', () => {
  it('finds every listed class, and by model type where no class is named', async () => {
    for (const row of supported()) {
      for (const name of row.hf) expect((await archOf({ architectures: [name] })).hf).toEqual(row.hf);
      for (const model_type of row.modelTypes) expect((await archOf({ model_type })).hf).toEqual(row.hf);
    }
    const names = supported().flatMap((row) => row.hf);
    expect(new Set(names).size).toBe(names.length);
  });

  it('offers near names for an unknown one', async () => {
    const asked = archOf({ architectures: ['Gemma9ForCausalLM'] });
    await expect(asked).rejects.toThrow(UnsupportedError);
    await expect(asked).rejects.toThrow(/got "Gemma9ForCausalLM"; nearest: Gemma/);
    await expect(archOf({})).rejects.toThrow(/architectures: expected the name of an architecture, got nothing/);
    await expect(archOf('llama')).rejects.toThrow(ConfigError);
  });
});

describe('windows', () => {
  it('Mistral: 4096 where the key is absent, none where it is null', async () => {
    expect((await parsed('MistralForCausalLM')).sliding_window).toBe(4096);
    expect((await parsed('MistralForCausalLM', { sliding_window: null })).sliding_window).toBeUndefined();
  });

  it('Ministral: on the layers listed, else on all or none', async () => {
    const types = async (more: object) => (await parsed('MinistralForCausalLM', { ...more })).layer_types;
    expect(await types({})).toEqual([slide, slide, slide]);
    expect(await types({ sliding_window: null })).toEqual([full, full, full]);
    expect(await types({ layer_types: [slide, full, slide] })).toEqual([slide, full, slide]);
  });

  it('Qwen: from max_window_layers on, and only when switched on', async () => {
    const on = { use_sliding_window: true, sliding_window: 5, max_window_layers: 1 };
    expect((await parsed('Qwen2ForCausalLM', on)).layer_types).toEqual([full, slide, slide]);
    const off = { ...on, use_sliding_window: false };
    expect((await parsed('Qwen2ForCausalLM', off)).layer_types).toEqual([full, full, full]);
  });

  it('Gemma: every second layer, every sixth, or as the pattern says', async () => {
    expect((await parsed('Gemma2ForCausalLM')).layer_types).toEqual([slide, full, slide]);
    expect((await parsed('Gemma3ForCausalLM')).layer_types).toEqual([slide, slide, slide]);
    const pattern = { sliding_window_pattern: 3 };
    expect((await parsed('Gemma3ForCausalLM', pattern)).layer_types).toEqual([slide, slide, full]);
  });

  it('SmolLM 3: the layers without rotation', async () => {
    const c = await parsed('SmolLM3ForCausalLM', {
      use_sliding_window: true,
      sliding_window: 4,
      no_rope_layer_interval: 2,
    });
    expect(c.rotates).toEqual([true, false, true]);
    expect(c.layer_types).toEqual([full, slide, full]);
  });
});

describe('Gemma 3', () => {
  it('reads a nested text_config that leaves out what equals the defaults', async () => {
    const raw = {
      architectures: ['Gemma3ForCausalLM'],
      tie_word_embeddings: false,
      text_config: { hidden_size: 2560, intermediate_size: 10240, num_hidden_layers: 34, sliding_window: 1024 },
    };
    const c = (await archOf(raw)).config(raw) as Record<string, unknown>;
    expect(c).toMatchObject({
      vocab_size: 262208,
      num_attention_heads: 8,
      num_key_value_heads: 4,
      head_dim: 256,
      sliding_window: 1024,
      tie_word_embeddings: false,
    });
  });
});

describe('hybrid models', () => {
  it('LFM2: two thirds of the stated width, times a factor, in whole multiples, unless it is final', async () => {
    const width = async (more: Record<string, unknown>) => (await parsed('Lfm2ForCausalLM', more)).intermediate_size;
    expect(await width({ block_auto_adjust_ff_dim: false })).toBe(48);
    expect(await width({ block_multiple_of: 16 })).toBe(32);
    expect(await width({ block_multiple_of: 16, block_ffn_dim_multiplier: 1.3 })).toBe(48);
    expect(await width({ block_multiple_of: 16, block_ff_dim: 100, block_ffn_dim_multiplier: null })).toBe(66);
    const old = { layer_types: undefined, full_attn_idxs: [1], tie_embedding: false };
    expect(await parsed('Lfm2ForCausalLM', old)).toMatchObject({
      types: ['conv', full, 'conv'],
      tie_word_embeddings: false,
    });
  });

  it('Qwen3-Next: every fourth layer has attention, or as the interval or the list says', async () => {
    const types = async (more: Record<string, unknown>) =>
      (await parsed('Qwen3NextForCausalLM', { num_experts: 4, num_experts_per_tok: 2, ...more })).types;
    const linear = 'linear_attention';
    expect(await types({ num_hidden_layers: 4 })).toEqual([linear, linear, linear, full]);
    expect(await types({ full_attention_interval: 2 })).toEqual([linear, full, linear]);
    expect(await types({ layer_types: [full, full, linear] })).toEqual([full, full, linear]);
    await expect(types({ layer_types: [full] })).rejects.toThrow(/layer_types: expected 3 entries, got 1/);
    await expect(types({ linear_num_key_heads: 5 })).rejects.toThrow(/linear_num_key_heads: expected a divisor of 32/);
  });

  it('Granite: infinite steps in every spelling, older names of layers, heads that fill the width', async () => {
    const granite = (more: Record<string, unknown>) =>
      parsed('GraniteMoeHybridForCausalLM', { mamba_n_heads: 4, mamba_d_head: 'auto', mamba_expand: 2, ...more });
    const steps = async (time_step_limit: unknown) =>
      ((await granite({ time_step_limit })).sizes as { steps: unknown }).steps;
    expect(await steps(undefined)).toEqual([0, Number.POSITIVE_INFINITY]);
    expect(await steps([0, { __float__: 'Infinity' }])).toEqual([0, Number.POSITIVE_INFINITY]);
    expect(await steps([0.001, 0.1])).toEqual([0.001, 0.1]);
    expect(await granite({ layers_block_type: ['mamba', 'attention', 'mamba'] })).toMatchObject({
      types: ['mamba', 'attention', 'mamba'],
      sizes: { headDim: 16 },
    });
    await expect(granite({ mamba_d_head: 8 })).rejects.toThrow(/mamba_n_heads: expected heads of 8 to fill 64, got 4/);
    await expect(steps(['soon', 1])).rejects.toThrow(/time_step_limit\[0\]: expected a number/);
  });
});

describe('refusals', () => {
  it.each<[string, Record<string, unknown>, RegExp]>([
    ['LlamaForCausalLM', { hidden_size: 0 }, /^hidden_size: expected a positive integer, got 0/],
    ['LlamaForCausalLM', { num_hidden_layers: '3' }, /^num_hidden_layers: expected an integer from 1 to 4096, got "3"/],
    ['LlamaForCausalLM', { num_hidden_layers: 2 ** 30 }, /^num_hidden_layers: expected an integer from 1 to 4096/],
    ['LlamaForCausalLM', { head_dim: 2 ** 30 }, /^head_dim: expected at most 16384/],
    ['LlamaForCausalLM', { vocab_size: undefined }, /^vocab_size: expected a positive integer, got nothing/],
    ['LlamaForCausalLM', { num_key_value_heads: 3 }, /^num_key_value_heads: expected a divisor of 4/],
    ['LlamaForCausalLM', { hidden_act: 'mish' }, /^hidden_act: expected silu .* got "mish"/],
    ['LlamaForCausalLM', { head_dim: 9 }, /^rope_parameters: expected a rotation .* at most 9 dimensions/],
    ['LlamaForCausalLM', { rms_norm_eps: Number.NaN }, /^rms_norm_eps: expected a positive number/],
    ['LlamaForCausalLM', { attention_bias: 'yes' }, /^attention_bias: expected true or false/],
    ['Qwen2ForCausalLM', { layer_types: [slide] }, /^layer_types: expected 3 entries, got 1/],
    ['Qwen3ForCausalLM', { layer_types: ['odd', full, full] }, /^layer_types\[0\]: expected full_attention \| sliding/],
    ['Qwen3MoeForCausalLM', { num_experts: 4, num_experts_per_tok: 5 }, /^num_experts_per_tok: expected at most/],
    ['SmolLM3ForCausalLM', { no_rope_layers: [1] }, /^no_rope_layers: expected 3 entries, got 1/],
    ['Phi3ForCausalLM', { rope_scaling: { type: 'linear', factor: 2 } }, /^rope_scaling\.rope_type: expected default/],
    ['Gemma3ForCausalLM', { rope_parameters: { rope_theta: 5 } }, /^rope_parameters: expected full_attention and/],
    ['GemmaForCausalLM', { use_bidirectional_attention: true }, /^use_bidirectional_attention: expected a causal/],
    ['LlamaForCausalLM', { layer_types: Array(70000).fill(full) }, /^layer_types: expected a list of at most 65536/],
  ])('%s %j', async (architecture, more, message) => {
    await expect(parsed(architecture, more)).rejects.toThrow(message);
  });

  it('contradictory windows: a sliding layer without a window', async () => {
    const raw = { architectures: ['Qwen2ForCausalLM'], ...base, layer_types: [slide, full, full] };
    const arch = await archOf(raw);
    const { windowOf } = await import('../../src/models/arch.ts');
    const c = arch.config(raw) as Parameters<typeof windowOf>[0];
    expect(() => windowOf(c, 0)).toThrow(/sliding_window: expected a positive integer, as layer_types\[0\] asks/);
    expect(windowOf(c, 1)).toBeUndefined();
  });
});

describe('Gemma 4', () => {
  const more = {
    layer_types: [slide, full, full],
    attention_k_eq_v: true,
    hidden_size_per_layer_input: 0,
  };
  const plans = async (extra: Record<string, unknown>) =>
    (await parsed('Gemma4ForCausalLM', { ...more, ...extra })).plans as { headDim: number; kvHeads: number }[];

  it('sizes of full layers, in both forms', async () => {
    const older = await plans({ global_head_dim: 16, num_global_key_value_heads: 1 });
    const own = { head_dim: 16, num_key_value_heads: 1 };
    expect(await plans({ per_layer_config: { 1: own, 2: own } })).toEqual(older);
    expect(older.map((p) => [p.headDim, p.kvHeads])).toEqual([
      [8, 2],
      [16, 1],
      [16, 1],
    ]);
  });

  it('the global number of key heads counts only where values are keys', async () => {
    const apart = await plans({ attention_k_eq_v: false, num_global_key_value_heads: 1 });
    expect(apart.map((p) => [p.headDim, p.kvHeads])).toEqual([
      [8, 2],
      [512, 2],
      [512, 2],
    ]);
  });

  it('the last layer is a full one; shared layers look at the last one of their type before them', async () => {
    const layer_types = [slide, full, slide, full, slide, slide];
    const c = await parsed('Gemma4ForCausalLM', {
      ...more,
      layer_types,
      num_hidden_layers: 6,
      num_kv_shared_layers: 3,
    });
    expect((c.plans as { source?: number }[]).map((p) => p.source)).toEqual([undefined, undefined, undefined, 1, 2, 1]);
  });

  it.each([
    [{ num_kv_shared_layers: 2 }, /num_kv_shared_layers: expected a full_attention layer before the shared ones/],
    [{ per_layer_config: { 1: { head_dim: 16 } } }, /per_layer_config: expected one head size a layer type, got/],
    [
      { per_layer_config: { 1: { intermediate_size: 16 } } },
      /per_layer_config.1.intermediate_size: expected head_dim or/,
    ],
    [{ enable_moe_block: true, num_experts: 4 }, /top_k_experts: expected a count, as enable_moe_block asks for one/],
    [{ use_bidirectional_attention: 'all' }, /use_bidirectional_attention: expected a causal model/],
    [
      { hidden_size_per_layer_input: 4, vocab_size_per_layer_input: 60 },
      /vocab_size_per_layer_input: expected at least 64/,
    ],
  ])('refuses %j', async (extra, message) => {
    await expect(plans(extra)).rejects.toThrow(message);
  });
});

describe('others', () => {
  it('EXAONE 4: patterns as a number, as letters, and none', async () => {
    const types = async (more: Record<string, unknown>) => (await parsed('Exaone4ForCausalLM', more)).layer_types;
    expect(await types({ num_hidden_layers: 5 })).toEqual([slide, slide, slide, full, slide]);
    const letters = { num_hidden_layers: 4, sliding_window_pattern: 'LG' };
    expect(await types(letters)).toEqual([slide, full, slide, full]);
    expect(await types({ ...letters, num_hidden_layers: 3 })).toEqual([slide, full, full]);
    expect(await types({ sliding_window: null })).toEqual([full, full, full]);
    await expect(types({ sliding_window_pattern: 'LXG' })).rejects.toThrow(
      /sliding_window_pattern: expected a count, or/,
    );
  });

  it('GPT-2: its own names, and no decoder of an encoder', async () => {
    const raw = { architectures: ['GPT2LMHeadModel'], n_embd: 24, n_layer: 2, n_head: 3, n_positions: 16 };
    const gpt2 = async (more: object) => (await archOf(raw)).config({ ...raw, ...more });
    expect(await gpt2({})).toMatchObject({ hidden_size: 24, num_hidden_layers: 2, max_position_embeddings: 16 });
    await expect(gpt2({ add_cross_attention: true })).rejects.toThrow(/add_cross_attention: expected false/);
    await expect(gpt2({ n_head: 5 })).rejects.toThrow(/n_head: expected a divisor of 24, got 5/);
  });

  it('heads that do not divide the hidden size', async () => {
    for (const name of ['StableLmForCausalLM', 'GPTNeoXForCausalLM']) {
      await expect(parsed(name, { num_attention_heads: 5 })).rejects.toThrow(
        /num_attention_heads: expected a divisor of 32/,
      );
    }
  });
});

describe('experts and latents', () => {
  const latent = { num_key_value_heads: 4, num_experts_per_tok: 2, moe_intermediate_size: 8 };

  it.each([
    ['MixtralForCausalLM', { num_local_experts: 2, num_experts_per_tok: 3 }, /num_experts_per_tok: expected at most 2/],
    ['PhimoeForCausalLM', { num_experts_per_tok: 1 }, /num_experts_per_tok: expected 2/],
    [
      'PhimoeForCausalLM',
      { rope_scaling: { type: 'longrope', short_factor: [1, 1, 1, 1], long_factor: [2, 2, 2, 2], long_mscale: 1 } },
      /rope_scaling\.short_mscale: expected a number/,
    ],
    ['DeepseekV2ForCausalLM', { ...latent, topk_method: 'noaux_tc' }, /topk_method: expected greedy/],
    ['DeepseekV2ForCausalLM', { ...latent, scoring_func: 'sigmoid' }, /scoring_func: expected softmax/],
    ['DeepseekV2ForCausalLM', { ...latent, topk_method: 'group_limited_greedy' }, /n_group: expected/],
    [
      'DeepseekV2ForCausalLM',
      { ...latent, partial_rotary_factor: 0.5, rope_scaling: { type: 'linear', factor: 2 } },
      /partial_rotary_factor: expected 1/,
    ],
    ['DeepseekV3ForCausalLM', { ...latent, scoring_func: 'softmax' }, /scoring_func: expected sigmoid/],
    ['DeepseekV3ForCausalLM', { ...latent, n_routed_experts: 12 }, /n_group: expected a divisor of 12/],
    ['Glm4MoeForCausalLM', { topk_method: 'greedy' }, /topk_method: expected noaux_tc/],
    ['Glm4MoeLiteForCausalLM', { ...latent, mlp_layer_types: ['dense'] }, /mlp_layer_types: expected 3 entries/],
    ['HunYuanMoEV1ForCausalLM', { use_cla: true, num_experts: 2 }, /use_cla: expected false/],
    ['HunYuanMoEV1ForCausalLM', { num_experts: 2, moe_topk: [1, 2] }, /moe_topk: expected 3 entries/],
    ['Ernie4_5_MoeForCausalLM', { moe_num_experts: 2, moe_k: 3 }, /moe_k: expected at most 2/],
    ['GptOssForCausalLM', { sliding_window: null }, /sliding_window: expected a positive integer/],
  ])('%s %j', async (architecture, more, message) => {
    await expect(parsed(architecture, more)).rejects.toThrow(message);
  });

  it('the scale of latent attention grows with mscale_all_dim', async () => {
    const plain = await parsed('DeepseekV3ForCausalLM', { ...latent, qk_nope_head_dim: 12, qk_rope_head_dim: 4 });
    expect(plain.scale).toBe(0.25);
    const rope_scaling = {
      type: 'yarn',
      factor: 40,
      mscale: 1,
      mscale_all_dim: 1,
      original_max_position_embeddings: 16,
    };
    const more = { ...latent, qk_nope_head_dim: 12, qk_rope_head_dim: 4, rope_scaling };
    const stretched = await parsed('DeepseekV3ForCausalLM', more);
    expect(stretched.scale).toBeCloseTo(0.25 * (0.1 * Math.log(40) + 1) ** 2, 12);
  });
});
