/** Names and metadata of GGUF models with recurrent layers, under those of their classes. */
import { FormatError, UnsupportedError } from '../errors.ts';
import type { GgufFacts } from './ggufExperts.ts';
import { EXPERT_KEYS, experts, has, rowsOf } from './ggufExperts.ts';

type Names = Readonly<Record<string, string>>;
type Config = Readonly<Record<string, unknown>>;

// ---------------------------------------------------------------------------------------------------------------- //
// Granite: Mamba 2

/** Tensors of a Mamba 2 layer, some of which have no `.weight` in their names. */
export const MAMBA: Names = {
  ssm_a: 'mamba.A_log',
  ssm_d: 'mamba.D',
  'ssm_dt.bias': 'mamba.dt_bias',
};

export const GRANITE: Names = {
  ssm_in: 'mamba.in_proj',
  ssm_out: 'mamba.out_proj',
  ssm_conv1d: 'mamba.conv1d',
  ssm_norm: 'mamba.norm',
  ffn_gate: 'shared_mlp.gate_proj',
  ffn_up: 'shared_mlp.up_proj',
  ffn_down: 'shared_mlp.output_linear',
  ffn_gate_shexp: 'shared_mlp.gate_proj',
  ffn_up_shexp: 'shared_mlp.up_proj',
  ffn_down_shexp: 'shared_mlp.output_linear',
  ffn_gate_inp: 'block_sparse_moe.router.layer',
  ffn_gate_exps: 'block_sparse_moe.gate_proj',
  ffn_up_exps: 'block_sparse_moe.up_proj',
  ffn_down_exps: 'block_sparse_moe.down_proj',
};

export const GRANITE_KEYS: readonly string[] = [
  ...EXPERT_KEYS,
  'attention.scale',
  'embedding_scale',
  'residual_scale',
  'logit_scale',
];

export function granite(f: GgufFacts): Config {
  const { keys } = f;
  const heads = keys.count('ssm.time_step_rank');
  const inner = keys.count('ssm.inner_size');
  const hidden = keys.count('embedding_length');
  const routed = keys.optionalCount('expert_count') ?? 0;
  return {
    mamba_n_heads: heads,
    mamba_d_head: share('ssm.inner_size', inner, heads),
    mamba_expand: inner / hidden,
    mamba_n_groups: keys.count('ssm.group_count'),
    mamba_d_state: keys.count('ssm.state_size'),
    mamba_d_conv: keys.count('ssm.conv_kernel'),
    mamba_conv_bias: has(f, 'ssm_conv1d.bias'),
    mamba_proj_bias: has(f, 'ssm_in.bias'),
    attention_bias: has(f, 'attn_q.bias'),
    layer_types: typesBy(f, 'attn_q.weight', 'full_attention', 'linear_attention'),
    attention_multiplier: keys.optionalNumber('attention.scale') || undefined,
    embedding_multiplier: keys.optionalNumber('embedding_scale') || undefined,
    residual_multiplier: keys.optionalNumber('residual_scale') || undefined,
    logits_scaling: keys.optionalNumber('logit_scale') || undefined,
    num_local_experts: routed,
    num_experts_per_tok: keys.optionalCount('expert_used_count') ?? 0,
    shared_intermediate_size: rowsOf(f, routed > 0 ? 'ffn_up_shexp.weight' : 'ffn_up.weight'),
    intermediate_size: rowsOf(f, 'ffn_up_exps.weight'),
    position_embedding_type: (keys.optionalBoolean('rope.scaling.finetuned') ?? true) ? 'rope' : 'nope',
  };
}

// ---------------------------------------------------------------------------------------------------------------- //
// Falcon-H1: Mamba 2 and attention side by side

export const FALCON_H1: Names = {
  ssm_in: 'mamba.in_proj',
  ssm_out: 'mamba.out_proj',
  ssm_conv1d: 'mamba.conv1d',
  ssm_norm: 'mamba.norm',
  ffn_norm: 'pre_ff_layernorm',
  ffn_gate: 'feed_forward.gate_proj',
  ffn_up: 'feed_forward.up_proj',
  ffn_down: 'feed_forward.down_proj',
};

/** Files have the factors of all parts in their weights, and norms behind gates. */
export function falconH1(f: GgufFacts): Config {
  const { keys } = f;
  return {
    mamba_n_heads: keys.count('ssm.time_step_rank'),
    mamba_d_ssm: keys.count('ssm.inner_size'),
    mamba_n_groups: keys.count('ssm.group_count'),
    mamba_d_state: keys.count('ssm.state_size'),
    mamba_d_conv: keys.count('ssm.conv_kernel'),
    mamba_conv_bias: has(f, 'ssm_conv1d.bias'),
    mamba_proj_bias: has(f, 'ssm_in.bias'),
    projectors_bias: has(f, 'ssm_out.bias'),
    mamba_rms_norm: has(f, 'ssm_norm.weight'),
    mamba_norm_before_gate: false,
    attention_bias: has(f, 'attn_q.bias'),
    mlp_bias: has(f, 'ffn_up.bias'),
  };
}

// ---------------------------------------------------------------------------------------------------------------- //
// Qwen: gated delta networks

export const DELTA_NET: Names = {
  post_attention_norm: 'post_attention_layernorm',
  attn_qkv: 'linear_attn.in_proj_qkv',
  attn_gate: 'linear_attn.in_proj_z',
  ssm_in: 'linear_attn.in_proj_qkvz',
  ssm_ba: 'linear_attn.in_proj_ba',
  ssm_beta: 'linear_attn.in_proj_b',
  ssm_alpha: 'linear_attn.in_proj_a',
  ssm_conv1d: 'linear_attn.conv1d',
  ssm_norm: 'linear_attn.norm',
  ssm_out: 'linear_attn.out_proj',
  ffn_gate_inp_shexp: 'mlp.shared_expert_gate',
};

export const DELTA_BARE: Names = {
  ssm_a: 'linear_attn.A_log',
  'ssm_dt.bias': 'linear_attn.dt_bias',
};

function deltaNet(f: GgufFacts): Config {
  const { keys } = f;
  const valueHeads = keys.count('ssm.time_step_rank');
  return {
    linear_num_value_heads: valueHeads,
    linear_value_head_dim: share('ssm.inner_size', keys.count('ssm.inner_size'), valueHeads),
    linear_num_key_heads: keys.count('ssm.group_count'),
    linear_key_head_dim: keys.count('ssm.state_size'),
    linear_conv_kernel_dim: keys.count('ssm.conv_kernel'),
    layer_types: typesBy(f, 'attn_q.weight', 'full_attention', 'linear_attention'),
    attention_bias: has(f, 'attn_q.bias'),
  };
}

const sharedExpert = (f: GgufFacts): Config => ({
  ...experts(f),
  shared_expert_intermediate_size: rowsOf(f, 'ffn_up_shexp.weight'),
});

export function qwen3Next(f: GgufFacts): Config {
  const dense = Array.from({ length: f.layers }, (_, i) => i).filter(
    (i) => !f.tensors.has(`blk.${i}.ffn_gate_inp.weight`),
  );
  return { ...deltaNet(f), ...sharedExpert(f), mlp_only_layers: dense };
}

/** Value heads are stored so that those of one key head do not lie side by side. */
export function qwen35(f: GgufFacts): Config {
  return { ...deltaNet(f), linear_cyclic_heads: true };
}

export function qwen35Experts(f: GgufFacts): Config {
  return { ...qwen35(f), ...sharedExpert(f) };
}

// ---------------------------------------------------------------------------------------------------------------- //
// LFM2: short convolutions

export const LFM2_ENDS: Names = {
  token_embd_norm: 'model.embedding_norm',
  output_norm: 'model.embedding_norm',
};

export const LFM2: Names = {
  attn_norm: 'operator_norm',
  attn_output: 'self_attn.out_proj',
  attn_q_norm: 'self_attn.q_layernorm',
  attn_k_norm: 'self_attn.k_layernorm',
  'shortconv.conv': 'conv.conv',
  'shortconv.in_proj': 'conv.in_proj',
  'shortconv.out_proj': 'conv.out_proj',
  ffn_norm: 'ffn_norm',
  ffn_gate: 'feed_forward.w1',
  ffn_up: 'feed_forward.w3',
  ffn_down: 'feed_forward.w2',
  ffn_gate_inp: 'feed_forward.gate',
  ffn_gate_exps: 'feed_forward.experts.gate_proj',
  ffn_up_exps: 'feed_forward.experts.up_proj',
  ffn_down_exps: 'feed_forward.experts.down_proj',
};

/** The width is that of the matrices, already adjusted. */
export function lfm2(f: GgufFacts): Config {
  const { keys } = f;
  return {
    norm_eps: keys.number('attention.layer_norm_rms_epsilon'),
    conv_L_cache: keys.count('shortconv.l_cache'),
    conv_bias: has(f, 'shortconv.conv.bias'),
    layer_types: typesBy(f, 'attn_q.weight', 'full_attention', 'conv'),
    block_auto_adjust_ff_dim: false,
  };
}

const SIGMOID = 2;

export function lfm2Experts(f: GgufFacts): Config {
  const { keys } = f;
  const gating = keys.optionalCount('expert_gating_func') || SIGMOID;
  if (gating !== SIGMOID) {
    throw new UnsupportedError(`expert_gating_func: expected ${SIGMOID} (sigmoid), got ${gating}`, {
      feature: 'expert_gating_func',
    });
  }
  return {
    ...lfm2(f),
    ...experts(f),
    num_dense_layers: keys.optionalCount('leading_dense_block_count') ?? 0,
    use_expert_bias: has(f, 'exp_probs_b.bias'),
    routed_scaling_factor: keys.optionalNumber('expert_weights_scale') || 1,
  };
}

// ---------------------------------------------------------------------------------------------------------------- //

/** What stands in the place of attention, by layer: told by the tensors it has. */
function typesBy({ tensors, layers }: GgufFacts, stem: string, yes: string, no: string): readonly string[] {
  return Array.from({ length: layers }, (_, i) => (tensors.has(`blk.${i}.${stem}`) ? yes : no));
}

function share(key: string, total: number, parts: number): number {
  if (total % parts !== 0) throw new FormatError(`${key}: expected a multiple of ${parts} heads, got ${total}`);
  return total / parts;
}
