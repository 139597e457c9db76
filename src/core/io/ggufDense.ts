/** GGUF architectures without experts beyond the Llama shape, in Hugging Face terms. */
import { FormatError, UnsupportedError } from '../errors.ts';
import type { GgufFacts } from './ggufExperts.ts';
import type { GgufArch } from './ggufNames.ts';

type Config = Readonly<Record<string, unknown>>;

const has = (f: GgufFacts, stem: string) => f.tensors.has(`blk.0.${stem}`);

/** Norms behind attention and MLP alone. */
const POST_NORMS: Readonly<Record<string, string>> = {
  post_attention_norm: 'post_attention_layernorm',
  post_ffw_norm: 'post_feedforward_layernorm',
};

/** The class knows one epsilon. */
const OLMO_EPSILON = 1e-5;

function olmo({ keys }: GgufFacts): Config {
  const epsilon = keys.number('attention.layer_norm_epsilon');
  if (Math.abs(epsilon - OLMO_EPSILON) > 1e-9) {
    throw new UnsupportedError(`attention.layer_norm_epsilon: expected ${OLMO_EPSILON}, got ${epsilon}`, {
      feature: 'layer_norm_epsilon',
    });
  }
  return { clip_qkv: keys.optionalNumber('attention.clamp_kqv') || undefined };
}

/** Windowed layers rotate by the same base, and are not stretched. */
function olmo3({ window, rope }: GgufFacts): Config {
  if (window === undefined) return {};
  const local = { rope_type: 'default', rope_theta: rope.rope_theta };
  return { rope_parameters: { full_attention: rope, sliding_attention: local } };
}

function cohere(f: GgufFacts): Config {
  return { logit_scale: f.keys.number('logit_scale'), use_qk_norm: has(f, 'attn_q_norm.weight') };
}

function gpt2({ keys, tensors }: GgufFacts): Config {
  const positions = tensors.get('position_embd.weight')?.shape[0];
  return {
    n_inner: keys.count('feed_forward_length'),
    max_position_embeddings: positions ?? keys.count('context_length'),
  };
}

function gptNeox(f: GgufFacts): Config {
  return {
    use_parallel_residual: f.keys.optionalBoolean('use_parallel_residual') ?? true,
    attention_bias: has(f, 'attn_qkv.bias'),
  };
}

/** Attention and MLP side by side share one norm. */
function stablelm(f: GgufFacts): Config {
  return { use_parallel_residual: !has(f, 'ffn_norm.weight'), qk_layernorm: has(f, 'attn_q_norm.weight') };
}

function granite({ keys, headDim }: GgufFacts): Config {
  return {
    attention_multiplier: keys.optionalNumber('attention.scale') || headDim ** -0.5,
    embedding_multiplier: keys.optionalNumber('embedding_scale') || 1,
    residual_multiplier: keys.optionalNumber('residual_scale') || 1,
    logits_scaling: keys.optionalNumber('logit_scale') || 1,
  };
}

function ministral3({ keys, rope }: GgufFacts): Config {
  const beta = keys.optionalNumber('attention.temperature_scale') || undefined;
  const span = keys.optionalCount('attention.temperature_length') || undefined;
  const original = rope.original_max_position_embeddings;
  if (beta !== undefined && span !== undefined && span !== original) {
    throw new UnsupportedError(`attention.temperature_length: expected the original context ${original}, got ${span}`, {
      feature: 'attention.temperature_length',
    });
  }
  return { rope_parameters: { ...rope, llama_4_scaling_beta: beta } };
}

/** Sizes that differ from layer to layer, and what the presence of tensors says. */
function gemma4(f: GgufFacts): Config {
  const { keys, layers, headDim, tensors, types } = f;
  if (types === undefined)
    throw new FormatError('attention.sliding_window_pattern: expected one flag a layer, got none');
  const kvHeads = keys.perLayer('attention.head_count_kv', layers);
  const widths = keys.perLayer('feed_forward_length', layers);
  const shared = keys.optionalCount('attention.shared_kv_layers') ?? 0;
  const first = layers - shared;
  const [width, last] = [widths[0] as number, widths[layers - 1] as number];
  if (widths.some((n, i) => n !== (i < first ? width : last)) || (last !== width && last !== 2 * width)) {
    throw new UnsupportedError(`feed_forward_length: expected ${width}, or twice that from layer ${first} on`, {
      feature: 'MLP widths per layer',
    });
  }
  const windowed = keys.optionalCount('attention.key_length_swa') ?? headDim;
  const rotated = keys.optionalCount('rope.dimension_count_swa') ?? windowed;
  if (rotated !== windowed) {
    throw new UnsupportedError(`rope.dimension_count_swa: expected the head size ${windowed}, got ${rotated}`, {
      feature: 'partial rotation',
    });
  }
  const full = types.flatMap((type, i) => (type === 'full_attention' && i < first ? i : []));
  const experts = keys.optionalCount('expert_count') ?? 0;
  const own = types.map((type, i) => ({
    head_dim: type === 'full_attention' ? headDim : windowed,
    num_key_value_heads: kvHeads[i],
  }));
  return {
    head_dim: windowed,
    per_layer_config: Object.fromEntries(own.entries()),
    num_kv_shared_layers: shared,
    use_double_wide_mlp: last !== width,
    attention_k_eq_v: full.length > 0 && full.every((i) => !tensors.has(`blk.${i}.attn_v.weight`)),
    attention_bias: has(f, 'attn_q.bias'),
    hidden_size_per_layer_input: keys.optionalCount('embedding_length_per_layer_input') ?? 0,
    vocab_size_per_layer_input: tensors.get('per_layer_token_embd.weight')?.shape[0],
    final_logit_softcapping: keys.optionalNumber('final_logit_softcapping') || undefined,
    enable_moe_block: experts > 0,
    num_experts: experts || undefined,
    top_k_experts: keys.optionalCount('expert_used_count') || undefined,
    moe_intermediate_size: keys.optionalCount('expert_feed_forward_length') || undefined,
  };
}

/** By `general.architecture`. */
export const DENSE_ARCHES: Readonly<Record<string, GgufArch>> = {
  mistral3: {
    hf: 'Ministral3ForCausalLM',
    modelType: 'ministral3',
    pairedRows: true,
    yarnMagnitude: 'ratio',
    reads: ['attention.temperature_scale'],
    config: ministral3,
  },
  seed_oss: {
    hf: 'SeedOssForCausalLM',
    modelType: 'seed_oss',
    names: { post_attention_norm: 'post_attention_layernorm' },
  },
  granite: {
    hf: 'GraniteForCausalLM',
    modelType: 'granite',
    pairedRows: true,
    reads: ['attention.scale', 'embedding_scale', 'residual_scale', 'logit_scale'],
    config: granite,
  },
  phi2: {
    hf: 'PhiForCausalLM',
    modelType: 'phi',
    epsilon: 'layer_norm_eps',
    ends: { output_norm: 'model.final_layernorm' },
    names: { attn_output: 'self_attn.dense', ffn_up: 'mlp.fc1', ffn_down: 'mlp.fc2' },
    partialRotary: true,
  },
  chatglm: {
    hf: 'GlmForCausalLM',
    modelType: 'glm',
    names: { ffn_up: 'mlp.gate_up_proj' },
    partialRotary: true,
  },
  glm4: {
    hf: 'Glm4ForCausalLM',
    modelType: 'glm4',
    names: {
      ffn_up: 'mlp.gate_up_proj',
      post_attention_norm: 'post_self_attn_layernorm',
      post_ffw_norm: 'post_mlp_layernorm',
    },
    partialRotary: true,
  },
  starcoder2: {
    hf: 'Starcoder2ForCausalLM',
    modelType: 'starcoder2',
    epsilon: 'norm_epsilon',
    names: { ffn_up: 'mlp.c_fc', ffn_down: 'mlp.c_proj' },
  },
  nemotron: {
    hf: 'NemotronForCausalLM',
    modelType: 'nemotron',
    epsilon: 'norm_eps',
    normsAddOne: true,
    partialRotary: true,
  },
  olmo: {
    hf: 'OlmoForCausalLM',
    modelType: 'olmo',
    epsilon: 'layer_norm_eps',
    pairedRows: true,
    reads: ['attention.clamp_kqv'],
    config: olmo,
  },
  olmo2: {
    hf: 'Olmo2ForCausalLM',
    windowed: 'Olmo3ForCausalLM',
    modelType: 'olmo2',
    names: POST_NORMS,
    config: olmo3,
  },
  'command-r': {
    hf: 'CohereForCausalLM',
    modelType: 'cohere',
    epsilon: 'layer_norm_eps',
    reads: ['logit_scale'],
    config: cohere,
  },
  cohere2: {
    hf: 'Cohere2ForCausalLM',
    modelType: 'cohere2',
    epsilon: 'layer_norm_eps',
    reads: ['logit_scale'],
    config: cohere,
  },
  gpt2: {
    hf: 'GPT2LMHeadModel',
    modelType: 'gpt2',
    epsilon: 'layer_norm_epsilon',
    ends: { token_embd: 'transformer.wte', position_embd: 'transformer.wpe', output_norm: 'transformer.ln_f' },
    blocks: 'transformer.h',
    // Matrices lie here as they do in other models.
    names: {
      attn_norm: 'ln_1',
      attn_qkv: 'attn.c_attn_rows',
      attn_output: 'attn.c_proj_rows',
      ffn_norm: 'ln_2',
      ffn_up: 'mlp.c_fc_rows',
      ffn_down: 'mlp.c_proj_rows',
    },
    config: gpt2,
  },
  gptneox: {
    hf: 'GPTNeoXForCausalLM',
    modelType: 'gpt_neox',
    epsilon: 'layer_norm_eps',
    ends: { token_embd: 'gpt_neox.embed_in', output_norm: 'gpt_neox.final_layer_norm', output: 'embed_out' },
    blocks: 'gpt_neox.layers',
    names: {
      attn_qkv: 'attention.qkv_proj',
      attn_output: 'attention.dense',
      ffn_up: 'mlp.dense_h_to_4h',
      ffn_down: 'mlp.dense_4h_to_h',
    },
    partialRotary: true,
    config: gptNeox,
  },
  stablelm: {
    hf: 'StableLmForCausalLM',
    modelType: 'stablelm',
    epsilon: 'layer_norm_eps',
    names: { attn_q_norm: 'self_attn.q_layernorm', attn_k_norm: 'self_attn.k_layernorm' },
    partialRotary: true,
    config: stablelm,
  },
  exaone4: {
    hf: 'Exaone4ForCausalLM',
    modelType: 'exaone4',
    names: POST_NORMS,
    config: ({ window }) => ({ sliding_window: window ?? null }),
  },
  gemma4: {
    hf: 'Gemma4ForCausalLM',
    modelType: 'gemma4_text',
    ends: {
      per_layer_token_embd: 'model.embed_tokens_per_layer',
      per_layer_model_proj: 'model.per_layer_model_projection',
      per_layer_proj_norm: 'model.per_layer_projection_norm',
    },
    names: {
      post_attention_norm: 'post_attention_layernorm',
      ffn_norm: 'pre_feedforward_layernorm',
      pre_ffw_norm_2: 'pre_feedforward_layernorm_2',
      post_ffw_norm: 'post_feedforward_layernorm',
      post_ffw_norm_1: 'post_feedforward_layernorm_1',
      post_ffw_norm_2: 'post_feedforward_layernorm_2',
      ffn_gate_inp: 'router.proj',
      inp_gate: 'per_layer_input_gate',
      proj: 'per_layer_projection',
      post_norm: 'post_per_layer_input_norm',
    },
    bare: {
      'layer_output_scale.weight': 'layer_scalar',
      'ffn_gate_inp.scale': 'router.scale',
      'ffn_down_exps.scale': 'router.per_expert_scale',
      'ffn_gate_up_exps.weight': 'experts.gate_up_proj',
      'ffn_down_exps.weight': 'experts.down_proj',
    },
    localRope: true,
    layered: true,
    reads: [
      'expert_count',
      'final_logit_softcapping',
      'attention.shared_kv_layers',
      'embedding_length_per_layer_input',
    ],
    config: gemma4,
  },
};
