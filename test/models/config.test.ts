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
