import * as s from '../../core/schema.ts';
import { heads, layerTypes, textArch, textConfig, windowOf } from '../arch.ts';
import type { MoeSpec } from '../blocks/moe.ts';
import { moe } from '../blocks/moe.ts';
import { createRope, wholeRopeSpec } from '../blocks/rope.ts';
import { checkRouting } from '../blocks/router.ts';
import { preNormModel } from './preNorm.ts';

const qwenConfig = textConfig.extend({
  max_position_embeddings: s.or(s.count, 32768),
  use_sliding_window: s.or(s.boolean, false),
  sliding_window: s.absent(s.count, 4096),
  max_window_layers: s.or(s.index, 28),
});

/** Layers from `max_window_layers` on are windowed, if windows are used at all and the file does not list the layers. */
function derive(c: s.Infer<typeof qwenConfig>) {
  const sliding_window = c.use_sliding_window ? c.sliding_window : undefined;
  const layer_types = layerTypes(c, (layer) =>
    sliding_window !== undefined && layer >= c.max_window_layers ? 'sliding_attention' : 'full_attention',
  );
  return { ...c, sliding_window, layer_types, rope: createRope(wholeRopeSpec(c), heads(c).headDim) };
}

/** Qwen 2 and 2.5: biases on queries, keys and values. */
export const qwen2 = textArch(qwenConfig, derive, (w, c) =>
  preNormModel(w, c, {
    rope: () => c.rope,
    window: (layer) => windowOf(c, layer),
    qkvBias: true,
    outBias: false,
    mlpBias: false,
  }),
);

/** Qwen 3: an RMS norm on each query and key head. */
export const qwen3 = textArch(qwenConfig.extend({ head_dim: s.or(s.count, 128) }), derive, (w, c) =>
  preNormModel(w, c, {
    rope: () => c.rope,
    window: (layer) => windowOf(c, layer),
    headNorms: true,
    qkvBias: c.attention_bias,
    outBias: c.attention_bias,
    mlpBias: false,
  }),
);

const moeConfig = qwenConfig.extend({
  head_dim: s.optional(s.count),
  num_key_value_heads: s.absent(s.count, 4),
  num_experts: s.alias(s.or(s.index, 128), 'num_local_experts'),
  num_experts_per_tok: s.or(s.count, 8),
  moe_intermediate_size: s.or(s.count, 768),
  norm_topk_prob: s.or(s.boolean, false),
  decoder_sparse_step: s.or(s.count, 1),
  mlp_only_layers: s.or(s.array(s.index), []),
});

type MoeConfig = s.Infer<typeof moeConfig>;

/** Whether a layer has experts. */
function isSparse(c: MoeConfig, layer: number): boolean {
  return c.num_experts > 0 && (layer + 1) % c.decoder_sparse_step === 0 && !c.mlp_only_layers.includes(layer);
}

function expertsOf(c: MoeConfig): MoeSpec {
  return {
    hidden: c.hidden_size,
    intermediate: c.moe_intermediate_size,
    experts: c.num_experts,
    topK: c.num_experts_per_tok,
    scores: 'softmax',
    renormalize: c.norm_topk_prob,
    activation: c.hidden_act,
  };
}

/** Qwen 3 with routed experts on every `decoder_sparse_step`-th layer; a window, if used, is on all layers. */
export const qwen3Moe = textArch(
  moeConfig,
  (c) => {
    if (c.num_experts > 0) checkRouting({ experts: c.num_experts, topK: c.num_experts_per_tok });
    return { ...c, rope: createRope(wholeRopeSpec(c), heads(c).headDim) };
  },
  (w, c) =>
    preNormModel(w, c, {
      rope: () => c.rope,
      window: () => (c.use_sliding_window ? c.sliding_window : undefined),
      headNorms: true,
      qkvBias: c.attention_bias,
      outBias: c.attention_bias,
      mlpBias: false,
      mlp: (l, layer) => (isSparse(c, layer) ? moe(l.at('mlp'), expertsOf(c)) : undefined),
    }),
);

const sharedConfig = moeConfig.extend({
  /** Files without windows may say 0. */
  sliding_window: s.absent(s.index, 4096),
  max_window_layers: s.or(s.index, 28),
  num_key_value_heads: s.absent(s.count, 16),
  num_experts: s.alias(s.or(s.index, 60), 'num_local_experts'),
  num_experts_per_tok: s.or(s.count, 4),
  moe_intermediate_size: s.or(s.count, 1408),
  shared_expert_intermediate_size: s.or(s.count, 5632),
  qkv_bias: s.or(s.boolean, true),
});

/** Qwen 1.5 and 2 with routed experts beside a gated shared one; of the first layers every other one is windowed. */
export const qwen2Moe = textArch(
  sharedConfig,
  (c) => {
    if (c.num_experts > 0) checkRouting({ experts: c.num_experts, topK: c.num_experts_per_tok });
    const windowed = (layer: number) => c.use_sliding_window && layer % 2 === 0 && layer < c.max_window_layers;
    const layer_types = layerTypes(c, (layer) => (windowed(layer) ? 'sliding_attention' : 'full_attention'));
    const sliding_window = c.sliding_window || undefined;
    return { ...c, sliding_window, layer_types, rope: createRope(wholeRopeSpec(c), heads(c).headDim) };
  },
  (w, c) =>
    preNormModel(w, c, {
      rope: () => c.rope,
      window: (layer) => (c.use_sliding_window ? windowOf(c, layer) : undefined),
      qkvBias: c.qkv_bias,
      outBias: false,
      mlpBias: false,
      mlp: (l, layer) => (isSparse(c, layer) ? moe(l.at('mlp'), { ...expertsOf(c), shared: sharedOf(c) }) : undefined),
    }),
);

function sharedOf(c: s.Infer<typeof sharedConfig>) {
  return { name: 'shared_expert', intermediate: c.shared_expert_intermediate_size, gated: 'shared_expert_gate' };
}
