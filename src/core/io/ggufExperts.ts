/** Metadata of GGUF models with experts or latent attention, under the keys of their classes. */
import { FormatError, UnsupportedError } from '../errors.ts';
import type { SourceTensor } from '../weights.ts';
import type { GgufKeys } from './ggufKeys.ts';

/** What the configuration of one architecture is made from. */
export interface GgufFacts {
  readonly keys: GgufKeys;
  readonly tensors: ReadonlyMap<string, SourceTensor>;
  readonly layers: number;
  readonly rope: Readonly<Record<string, unknown>>;
  readonly headDim: number;
  readonly window: number | undefined;
  /** Which layers are windowed, where the file says so. */
  readonly types: readonly string[] | undefined;
}

type Config = Readonly<Record<string, unknown>>;

/** Keys of experts that every reader below understands. */
export const EXPERT_KEYS: readonly string[] = ['expert_count'];

/** Keys of routing that only some classes express. */
export const ROUTING_KEYS: readonly string[] = [
  ...EXPERT_KEYS,
  'expert_weights_scale',
  'expert_gating_func',
  'expert_group_count',
  'expert_group_used_count',
];

/** Values of `expert_gating_func`. */
const SOFTMAX = 1;
const SIGMOID = 2;

export function experts({ keys }: GgufFacts): Config {
  return {
    num_experts: keys.count('expert_count'),
    num_experts_per_tok: keys.count('expert_used_count'),
    moe_intermediate_size: keys.optionalCount('expert_feed_forward_length'),
    norm_topk_prob: keys.optionalBoolean('expert_weights_norm') ?? true,
  };
}

/** Rows of the first tensor of a name in any layer: widths that the metadata may leave out. */
export function rowsOf({ tensors, layers }: GgufFacts, stem: string): number | undefined {
  for (let i = 0; i < layers; i++) {
    const shape = tensors.get(`blk.${i}.${stem}`)?.shape;
    if (shape) return shape[shape.length - 2];
  }
  return undefined;
}

export function has(f: GgufFacts, stem: string): boolean {
  return [...f.tensors.keys()].some((name) => name.endsWith(`.${stem}`));
}

/** Qwen 2 with experts weighs them by their probabilities as they are. */
export function qwen2Experts(f: GgufFacts): Config {
  return {
    ...experts(f),
    norm_topk_prob: f.keys.optionalBoolean('expert_weights_norm') ?? false,
    shared_expert_intermediate_size: rowsOf(f, 'ffn_up_shexp.weight'),
    qkv_bias: has(f, 'attn_q.bias'),
  };
}

export function olmoe(f: GgufFacts): Config {
  return {
    ...experts(f),
    norm_topk_prob: f.keys.optionalBoolean('expert_weights_norm') ?? false,
    clip_qkv: f.keys.optionalNumber('attention.clamp_kqv') || undefined,
    attention_bias: has(f, 'attn_q.bias'),
  };
}

/** Layers of experts behind dense ones, shared experts, scaled weights. */
function routed(f: GgufFacts): Config {
  const { keys } = f;
  const inner = keys.count('expert_feed_forward_length');
  const shared = rowsOf(f, 'ffn_up_shexp.weight') ?? 0;
  if (shared % inner !== 0) {
    throw new FormatError(`ffn_up_shexp.weight: expected a multiple of ${inner} rows, got ${shared}`);
  }
  return {
    n_routed_experts: keys.count('expert_count'),
    num_experts_per_tok: keys.count('expert_used_count'),
    n_shared_experts: shared / inner,
    moe_intermediate_size: inner,
    first_k_dense_replace: keys.optionalCount('leading_dense_block_count') ?? 0,
    moe_layer_freq: 1,
    norm_topk_prob: keys.optionalBoolean('expert_weights_norm') ?? false,
    routed_scaling_factor: keys.optionalNumber('expert_weights_scale') || 1,
    n_group: keys.optionalCount('expert_group_count') || 1,
    topk_group: keys.optionalCount('expert_group_used_count') || 1,
  };
}

function gating(f: GgufFacts): number {
  const stated = f.keys.optionalCount('expert_gating_func') || undefined;
  const kind = stated ?? (has(f, 'exp_probs_b.bias') ? SIGMOID : SOFTMAX);
  if (kind === SOFTMAX || kind === SIGMOID) return kind;
  throw new UnsupportedError(`expert_gating_func: expected ${SOFTMAX} (softmax) or ${SIGMOID} (sigmoid), got ${kind}`, {
    feature: 'expert_gating_func',
  });
}

/** DeepSeek V2, V3 and what shares their layout: the scores tell which of both classes it is. */
export function deepseek(f: GgufFacts): Config {
  const { keys } = f;
  const mla = keys.optionalCount('attention.key_length_mla');
  const key = mla ?? keys.count('attention.key_length');
  const value = keys.optionalCount('attention.value_length_mla') ?? keys.count('attention.value_length');
  const rotated = keys.count('rope.dimension_count');
  const routing = routed(f);
  const latent = {
    q_lora_rank: has(f, 'attn_q_a.weight') ? keys.count('attention.q_lora_rank') : null,
    kv_lora_rank: keys.count('attention.kv_lora_rank'),
    qk_rope_head_dim: rotated,
    qk_nope_head_dim: key - rotated,
    v_head_dim: value,
    attention_bias: has(f, 'attn_kv_a_mqa.bias'),
  };
  if (gating(f) === SIGMOID) return { architectures: ['DeepseekV3ForCausalLM'], ...latent, ...routing };
  if (routing.norm_topk_prob) {
    throw new UnsupportedError('expert_weights_norm: expected false with softmax scores, got true', {
      feature: 'normalised softmax routing',
    });
  }
  const grouped = (routing.n_group as number) > 1;
  return { ...latent, ...routing, topk_method: grouped ? 'group_limited_greedy' : 'greedy' };
}

export function glmExperts(f: GgufFacts): Config {
  if (gating(f) !== SIGMOID) {
    throw new UnsupportedError('expert_gating_func: expected sigmoid, got softmax', { feature: 'expert_gating_func' });
  }
  return {
    ...routed(f),
    use_qk_norm: has(f, 'attn_q_norm.weight'),
    attention_bias: has(f, 'attn_q.bias'),
  };
}

/** Frequencies at the border between kept and stretched ones are not rounded. */
export function gptOss(f: GgufFacts): Config {
  const { keys, rope } = f;
  return {
    num_local_experts: keys.count('expert_count'),
    num_experts_per_tok: keys.count('expert_used_count'),
    intermediate_size: keys.optionalCount('expert_feed_forward_length') ?? keys.count('feed_forward_length'),
    attention_bias: has(f, 'attn_q.bias'),
    rope_parameters: rope.rope_type === 'yarn' ? { ...rope, truncate: false } : rope,
  };
}

/** The stretch of the base stands in the base itself, or beside it. */
export function hunyuan(f: GgufFacts): Config {
  const alpha = f.keys.optionalNumber('rope.scaling.alpha') || undefined;
  return {
    use_qk_norm: has(f, 'attn_q_norm.weight'),
    attention_bias: has(f, 'attn_q.bias'),
    rope_parameters: alpha === undefined ? f.rope : { ...f.rope, rope_type: 'dynamic', alpha },
  };
}

export function hunyuanExperts(f: GgufFacts): Config {
  const shared = rowsOf(f, 'ffn_up_shexp.weight');
  return {
    ...hunyuan(f),
    num_experts: f.keys.count('expert_count'),
    moe_topk: f.keys.count('expert_used_count'),
    moe_intermediate_size: rowsOf(f, 'ffn_up_exps.weight'),
    norm_topk_prob: f.keys.optionalBoolean('expert_weights_norm') ?? true,
    use_mixed_mlp_moe: shared !== undefined,
    num_shared_expert: 1,
    ...(shared === undefined ? {} : { intermediate_size: shared }),
  };
}

export function ernieBias(f: GgufFacts): Config {
  return { use_bias: has(f, 'ffn_down.bias') || has(f, 'attn_output.bias') };
}

export function ernieExperts(f: GgufFacts): Config {
  const { keys } = f;
  const inner = keys.count('expert_feed_forward_length');
  return {
    ...ernieBias(f),
    moe_num_experts: keys.count('expert_count'),
    moe_k: keys.count('expert_used_count'),
    moe_intermediate_size: inner,
    moe_num_shared_experts: (rowsOf(f, 'ffn_up_shexp.weight') ?? 0) / inner,
    moe_layer_start_index: keys.optionalCount('leading_dense_block_count') ?? 0,
    moe_layer_interval: keys.optionalCount('interleave_moe_layer_step') || 1,
  };
}

/** Magnitudes of the rotation are one number for all lengths. */
export function phiExperts(f: GgufFacts): Config {
  const magnitude = f.rope.attention_factor ?? 1;
  return {
    num_local_experts: f.keys.count('expert_count'),
    num_experts_per_tok: f.keys.count('expert_used_count'),
    attention_bias: has(f, 'attn_output.bias'),
    lm_head_bias: f.tensors.has('output.bias'),
    rope_parameters: { ...f.rope, short_mscale: magnitude, long_mscale: magnitude },
  };
}
