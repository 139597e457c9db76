/** Configurations of single architectures as keys of GGUF files: the way back of the readers beside `ggufNames.ts`. */

export type GgufKeyValue = number | boolean | string | readonly number[] | readonly boolean[];
/** Without the prefix of the architecture; what is `undefined` is not written. */
export type GgufKeyValues = Readonly<Record<string, GgufKeyValue | undefined>>;

export interface ExportFacts {
  /** With its defaults, as the model was built from it. */
  readonly c: Readonly<Record<string, unknown>>;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly hidden: number;
}

type Write = (f: ExportFacts) => GgufKeyValues;

const count = ({ c }: ExportFacts, ...keys: string[]): number | undefined => {
  const found = keys.map((key) => c[key]).find((v) => typeof v === 'number');
  return found as number | undefined;
};
const flag = ({ c }: ExportFacts, key: string): boolean | undefined =>
  typeof c[key] === 'boolean' ? (c[key] as boolean) : undefined;
const list = ({ c }: ExportFacts, key: string): readonly string[] =>
  Array.isArray(c[key]) ? (c[key] as string[]) : [];
const times = (a: number | undefined, b: number | undefined): number | undefined =>
  a === undefined || b === undefined ? undefined : a * b;

/** The class knows no other. */
const OLMO_EPSILON = 1e-5;
const SOFTMAX = 1;
const SIGMOID = 2;

const experts: Write = (f) => ({
  expert_count: count(f, 'num_experts', 'num_local_experts'),
  expert_used_count: count(f, 'num_experts_per_tok'),
  expert_feed_forward_length: count(f, 'moe_intermediate_size'),
  expert_weights_norm: flag(f, 'norm_topk_prob'),
});

const sharedExpert: Write = (f) => ({
  ...experts(f),
  expert_shared_feed_forward_length: count(f, 'shared_expert_intermediate_size'),
});

/** Layers of experts behind dense ones, shared experts, scaled weights. */
const routed: Write = (f) => ({
  expert_count: count(f, 'n_routed_experts'),
  expert_used_count: count(f, 'num_experts_per_tok'),
  expert_shared_count: count(f, 'n_shared_experts') ?? 0,
  expert_feed_forward_length: count(f, 'moe_intermediate_size'),
  leading_dense_block_count: count(f, 'first_k_dense_replace'),
  expert_weights_norm: flag(f, 'norm_topk_prob'),
  expert_weights_scale: count(f, 'routed_scaling_factor'),
  expert_gating_func: f.c['scoring_func'] === 'sigmoid' ? SIGMOID : SOFTMAX,
  expert_group_count: f.c['topk_method'] === 'greedy' ? undefined : count(f, 'n_group'),
  expert_group_used_count: f.c['topk_method'] === 'greedy' ? undefined : count(f, 'topk_group'),
});

const deepseek: Write = (f) => {
  const rank = count(f, 'kv_lora_rank');
  const rotated = count(f, 'qk_rope_head_dim');
  const key = (count(f, 'qk_nope_head_dim') ?? 0) + (rotated ?? 0);
  return {
    ...routed(f),
    'attention.head_count_kv': 1,
    'attention.q_lora_rank': count(f, 'q_lora_rank'),
    'attention.kv_lora_rank': rank,
    // The cache holds the latent and the rotated part of a key.
    'attention.key_length': (rank ?? 0) + (rotated ?? 0),
    'attention.value_length': rank,
    'attention.key_length_mla': key,
    'attention.value_length_mla': count(f, 'v_head_dim'),
  };
};

/** A flag a layer: whether it is windowed. A plain period stands for itself where it says the same. */
const windows: Write = (f) => {
  const types = list(f, 'layer_types');
  const window = count(f, 'sliding_window');
  const flags = types.map((type) => type === 'sliding_attention');
  if (window === undefined || !flags.includes(true)) return {};
  const period = flags.indexOf(false) + 1;
  const plain = period > 1 && flags.every((flag, i) => flag === ((i + 1) % period !== 0));
  return { 'attention.sliding_window': window, 'attention.sliding_window_pattern': plain ? period : flags };
};

/** Of models whose layers are all windowed, or in an order that readers know. */
const window: Write = (f) => ({ 'attention.sliding_window': count(f, 'sliding_window') });

const softcaps: Write = (f) => ({
  attn_logit_softcapping: count(f, 'attn_logit_softcapping'),
  final_logit_softcapping: count(f, 'final_logit_softcapping'),
});

const granite: Write = (f) => ({
  'attention.scale': count(f, 'attention_multiplier'),
  embedding_scale: count(f, 'embedding_multiplier'),
  residual_scale: count(f, 'residual_multiplier'),
  logit_scale: count(f, 'logits_scaling'),
});

/** Key heads by layer, 0 where something else stands in the place of attention. */
const someAttend = (f: ExportFacts, attends: (type: string) => boolean): GgufKeyValues => ({
  'attention.head_count_kv': list(f, 'types').map((type) => (attends(type) ? f.kvHeads : 0)),
});

const graniteHybrid: Write = (f) => {
  const routedExperts = count(f, 'num_local_experts') ?? 0;
  const shared = count(f, 'shared_intermediate_size');
  return {
    ...granite(f),
    ...someAttend(f, (type) => type === 'attention'),
    'ssm.conv_kernel': count(f, 'mamba_d_conv'),
    'ssm.state_size': count(f, 'mamba_d_state'),
    'ssm.group_count': count(f, 'mamba_n_groups'),
    'ssm.inner_size': times(count(f, 'mamba_n_heads'), count(f, 'mamba_d_head')),
    'ssm.time_step_rank': count(f, 'mamba_n_heads'),
    'rope.scaling.finetuned': f.c['position_embedding_type'] === 'rope',
    feed_forward_length: routedExperts > 0 ? count(f, 'intermediate_size') : shared,
    ...(routedExperts > 0
      ? {
          ...{ expert_count: routedExperts, expert_used_count: count(f, 'num_experts_per_tok') },
          ...{ expert_shared_feed_forward_length: shared },
        }
      : {}),
  };
};

const deltaNet: Write = (f) => ({
  'ssm.conv_kernel': count(f, 'linear_conv_kernel_dim'),
  'ssm.state_size': count(f, 'linear_key_head_dim'),
  'ssm.group_count': count(f, 'linear_num_key_heads'),
  'ssm.time_step_rank': count(f, 'linear_num_value_heads'),
  'ssm.inner_size': times(count(f, 'linear_num_value_heads'), count(f, 'linear_value_head_dim')),
  full_attention_interval: count(f, 'full_attention_interval'),
});

/** Positions of text are alike in all sections, which must be there all the same. */
const sections: Write = (f) => {
  const rope = f.c['rope_parameters'] as Readonly<Record<string, unknown>> | undefined;
  const stated = rope?.['mrope_section'];
  const share = Number(rope?.['partial_rotary_factor'] ?? f.c['partial_rotary_factor'] ?? 1);
  const list = Array.isArray(stated) ? (stated as number[]) : [Math.trunc(f.headDim * share) / 2];
  return { 'rope.dimension_sections': [...list, 0, 0, 0, 0].slice(0, 4) };
};

const lfm2: Write = (f) => ({
  ...someAttend(f, (type) => type === 'full_attention'),
  'attention.layer_norm_rms_epsilon': count(f, 'norm_eps'),
  'shortconv.l_cache': count(f, 'conv_L_cache'),
});

const ernieExperts: Write = (f) => ({
  expert_count: count(f, 'moe_num_experts'),
  expert_used_count: count(f, 'moe_k'),
  expert_shared_count: count(f, 'moe_num_shared_experts'),
  expert_feed_forward_length: count(f, 'moe_intermediate_size'),
  expert_shared_feed_forward_length: times(count(f, 'moe_num_shared_experts'), count(f, 'moe_intermediate_size')),
  leading_dense_block_count: count(f, 'moe_layer_start_index'),
  interleave_moe_layer_step: count(f, 'moe_layer_interval'),
});

const hunyuanExperts: Write = (f) => {
  const [first] = Array.isArray(f.c['layers']) ? (f.c['layers'] as Readonly<Record<string, number>>[]) : [];
  return {
    expert_count: count(f, 'num_experts'),
    expert_used_count: first?.['topK'],
    expert_feed_forward_length: first?.['intermediate'],
    expert_shared_feed_forward_length: first?.['shared'],
    expert_weights_norm: flag(f, 'norm_topk_prob'),
  };
};

interface Plan {
  readonly full: boolean;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly intermediate: number;
}

/** Sizes of full layers are the plain ones, those of windowed layers have a mark. */
const gemma4: Write = (f) => {
  const plans = f.c['plans'] as readonly Plan[];
  const sizeOf = (full: boolean) => plans.find((p) => p.full === full)?.headDim;
  const swa = sizeOf(false);
  const full = sizeOf(true) ?? swa;
  const routedExperts = flag(f, 'enable_moe_block') ? count(f, 'num_experts') : undefined;
  return {
    ...softcaps(f),
    ...window(f),
    'attention.sliding_window_pattern': plans.map((p) => !p.full),
    'attention.head_count_kv': plans.map((p) => p.kvHeads),
    feed_forward_length: plans.map((p) => p.intermediate),
    'attention.key_length': full,
    'attention.value_length': full,
    'attention.key_length_swa': swa,
    'attention.value_length_swa': swa,
    'rope.dimension_count_swa': swa,
    'attention.shared_kv_layers': count(f, 'num_kv_shared_layers'),
    embedding_length_per_layer_input: count(f, 'hidden_size_per_layer_input'),
    expert_count: routedExperts,
    expert_used_count: routedExperts && count(f, 'top_k_experts'),
    expert_feed_forward_length: routedExperts && count(f, 'moe_intermediate_size'),
  };
};

const ministral3: Write = (f) => {
  const rope = f.c['rope_parameters'] as Readonly<Record<string, number>> | undefined;
  const beta = rope?.['llama_4_scaling_beta'];
  return {
    'attention.temperature_scale': beta,
    'attention.temperature_length': beta && rope?.['original_max_position_embeddings'],
  };
};

/** By `general.architecture`; for those that are not here the common keys say all. */
export const EXPORT_KEYS: Readonly<Record<string, Write>> = {
  llama: (f) => ({ ...window(f), ...(count(f, 'num_local_experts') ? experts(f) : {}) }),
  qwen3moe: experts,
  qwen2moe: sharedExpert,
  olmoe: (f) => ({ ...experts(f), 'attention.clamp_kqv': count(f, 'clip_qkv') }),
  phimoe: experts,
  phi3: window,
  deepseek2: deepseek,
  glm4moe: routed,
  'gpt-oss': (f) => ({ ...window(f), ...experts(f), expert_feed_forward_length: count(f, 'intermediate_size') }),
  'hunyuan-moe': hunyuanExperts,
  'ernie4_5-moe': ernieExperts,
  gemma2: (f) => ({ ...window(f), ...softcaps(f) }),
  gemma3: (f) => ({ ...windows(f), ...softcaps(f) }),
  gemma4,
  granite,
  granitehybrid: graniteHybrid,
  qwen3next: (f) => ({ ...deltaNet(f), ...sharedExpert(f) }),
  qwen35: (f) => ({ ...deltaNet(f), ...sections(f) }),
  qwen35moe: (f) => ({ ...deltaNet(f), ...sections(f), ...sharedExpert(f) }),
  lfm2,
  lfm2moe: (f) => ({
    ...lfm2(f),
    ...experts(f),
    leading_dense_block_count: count(f, 'num_dense_layers'),
    expert_gating_func: SIGMOID,
    expert_weights_scale: count(f, 'routed_scaling_factor'),
  }),
  mistral3: ministral3,
  starcoder2: window,
  olmo: (f) => ({ 'attention.layer_norm_epsilon': OLMO_EPSILON, 'attention.clamp_kqv': count(f, 'clip_qkv') }),
  olmo2: windows,
  'command-r': (f) => ({ logit_scale: count(f, 'logit_scale') }),
  cohere2: (f) => ({ ...windows(f), logit_scale: count(f, 'logit_scale') }),
  exaone4: windows,
  gptneox: (f) => ({ use_parallel_residual: flag(f, 'use_parallel_residual') }),
  gpt2: (f) => ({ feed_forward_length: count(f, 'n_inner') ?? 4 * f.hidden }),
};

/** Keys that files hold as 32-bit floats. */
const FLOATS: ReadonlySet<string> = new Set([
  ...['attention.layer_norm_rms_epsilon', 'attention.layer_norm_epsilon', 'attention.scale', 'attention.clamp_kqv'],
  ...['attention.temperature_scale', 'embedding_scale', 'residual_scale', 'logit_scale', 'expert_weights_scale'],
  ...['attn_logit_softcapping', 'final_logit_softcapping', 'rope.freq_base', 'rope.freq_base_swa'],
  ...['rope.scaling.factor', 'rope.scaling.attn_factor', 'rope.scaling.yarn_log_multiplier'],
  ...['rope.scaling.yarn_beta_fast', 'rope.scaling.yarn_beta_slow'],
]);

/** Whether a number under this key is written as a float. */
export const isFloatKey = (key: string): boolean => FLOATS.has(key);
