import * as s from '../../core/schema.ts';
import { heads, layerTypes, textArch, textConfig, windowOf } from '../arch.ts';
import { moe } from '../blocks/moe.ts';
import { createRope, wholeRopeSpec } from '../blocks/rope.ts';
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

/** Qwen 3 with routed experts on every `decoder_sparse_step`-th layer; a window, if used, is on all layers. */
export const qwen3Moe = textArch(
  moeConfig,
  (c) => {
    if (c.num_experts > 0 && c.num_experts_per_tok > c.num_experts) {
      throw s.configError('num_experts_per_tok', `at most num_experts (${c.num_experts})`, c.num_experts_per_tok);
    }
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
      mlp: (l, layer) => {
        const routed =
          c.num_experts > 0 && (layer + 1) % c.decoder_sparse_step === 0 && !c.mlp_only_layers.includes(layer);
        if (!routed) return undefined;
        return moe(l.at('mlp'), {
          hidden: c.hidden_size,
          intermediate: c.moe_intermediate_size,
          experts: c.num_experts,
          topK: c.num_experts_per_tok,
          scores: 'softmax',
          renormalize: c.norm_topk_prob,
          activation: c.hidden_act,
        });
      },
    }),
);
