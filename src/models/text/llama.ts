import * as s from '../../core/schema.ts';
import { heads, layerTypes, textArch, textConfig, windowOf } from '../arch.ts';
import { queryGrowth } from '../blocks/queryScale.ts';
import { createRope, wholeRopeSpec } from '../blocks/rope.ts';
import { preNormModel } from './preNorm.ts';

/** Llama 1 to 3 and the many models in its format. */
export const llama = textArch(
  textConfig,
  (c) => ({ ...c, rope: createRope(wholeRopeSpec(c), heads(c).headDim) }),
  (w, c) =>
    preNormModel(w, c, {
      rope: () => c.rope,
      qkvBias: c.attention_bias,
      outBias: c.attention_bias,
      mlpBias: c.mlp_bias,
    }),
);

/** Mistral: Llama with a sliding window on every layer, unless it is switched off, and never a bias. */
export const mistral = textArch(
  textConfig.extend({
    num_key_value_heads: s.absent(s.count, 8),
    max_position_embeddings: s.or(s.count, 131072),
    sliding_window: s.absent(s.count, 4096),
  }),
  (c) => ({ ...c, rope: createRope(wholeRopeSpec(c), heads(c).headDim) }),
  (w, c) =>
    preNormModel(w, c, {
      rope: () => c.rope,
      window: () => c.sliding_window,
      qkvBias: false,
      outBias: false,
      mlpBias: false,
    }),
);

/** Ministral: Mistral with a window on some layers. */
export const ministral = textArch(
  textConfig.extend({
    num_key_value_heads: s.absent(s.count, 8),
    max_position_embeddings: s.or(s.count, 131072),
    sliding_window: s.absent(s.count, 4096),
  }),
  (c) => {
    const every = c.sliding_window === undefined ? 'full_attention' : 'sliding_attention';
    const layer_types = layerTypes(c, () => every);
    return { ...c, layer_types, rope: createRope(wholeRopeSpec(c), heads(c).headDim) };
  },
  (w, c) =>
    preNormModel(w, c, {
      rope: () => c.rope,
      window: (layer) => windowOf(c, layer),
      qkvBias: false,
      outBias: false,
      mlpBias: false,
    }),
);

/** What the file of a Ministral 3 says of rotation where it says nothing. */
const MINISTRAL_ROPE = {
  rope_type: 'yarn',
  rope_theta: 1e6,
  factor: 16,
  original_max_position_embeddings: 16384,
  beta_fast: 32,
  beta_slow: 1,
  mscale: 1,
  mscale_all_dim: 1,
  llama_4_scaling_beta: 0.1,
};

/** Ministral 3: Mistral whose queries grow beyond the context it was trained on first. */
export const ministral3 = textArch(
  textConfig.extend({
    num_key_value_heads: s.absent(s.count, 8),
    head_dim: s.absent(s.count, 128),
    max_position_embeddings: s.or(s.count, 262144),
    rms_norm_eps: s.or(s.positive, 1e-5),
    sliding_window: s.optional(s.count),
  }),
  (c) => {
    const given = c.rope_parameters ?? c.rope_scaling;
    const spec = wholeRopeSpec(given ? c : { ...c, rope_parameters: MINISTRAL_ROPE });
    const beta = spec.parameters.llama_4_scaling_beta;
    return {
      ...c,
      rope: createRope(spec, heads(c).headDim),
      queryScale: beta ? queryGrowth(beta, spec.originalMax) : undefined,
    };
  },
  (w, c) =>
    preNormModel(w, c, {
      rope: () => c.rope,
      queryScale: c.queryScale,
      window: () => c.sliding_window,
      qkvBias: false,
      outBias: false,
      mlpBias: false,
    }),
);

/** Seed-OSS: Llama whose output projection has a bias of its own accord. */
export const seedOss = textArch(
  textConfig.extend({
    num_key_value_heads: s.absent(s.count, 8),
    head_dim: s.absent(s.count, 128),
    max_position_embeddings: s.or(s.count, 524288),
    attention_out_bias: s.optional(s.boolean),
  }),
  (c) => ({ ...c, rope: createRope(wholeRopeSpec(c), heads(c).headDim) }),
  (w, c) =>
    preNormModel(w, c, {
      rope: () => c.rope,
      qkvBias: c.attention_bias,
      outBias: c.attention_out_bias,
      mlpBias: c.mlp_bias,
    }),
);

/** Granite 3: Llama with factors of embeddings, attention scores, what layers add, and logits. */
export const granite = textArch(
  textConfig.extend({
    embedding_multiplier: s.or(s.number, 1),
    attention_multiplier: s.or(s.number, 1),
    residual_multiplier: s.or(s.number, 1),
    logits_scaling: s.or(s.positive, 1),
  }),
  (c) => ({ ...c, rope: createRope(wholeRopeSpec(c), heads(c).headDim) }),
  (w, c) =>
    preNormModel(w, c, {
      rope: () => c.rope,
      embedScale: c.embedding_multiplier,
      scale: c.attention_multiplier,
      residualScale: c.residual_multiplier,
      logitScale: 1 / c.logits_scaling,
      qkvBias: c.attention_bias,
      outBias: c.attention_bias,
      mlpBias: c.mlp_bias,
    }),
);
