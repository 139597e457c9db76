import * as s from '../../core/schema.ts';
import type { Weights } from '../../core/weights.ts';
import { heads, textArch, textFields } from '../arch.ts';
import { createRope, ropeSpec } from '../blocks/rope.ts';
import { latentFields, latentMixer, latentShape, routedFields, routedMlp, sigmoidRule } from './latentMoe.ts';
import { predictorOf } from './predictors.ts';
import { preNormModel } from './preNorm.ts';

const shared = {
  ...textFields,
  ...routedFields,
  rms_norm_eps: s.or(s.positive, 1e-5),
  n_shared_experts: s.absent(s.index, 1),
  first_k_dense_replace: s.or(s.index, 1),
  norm_topk_prob: s.or(s.boolean, true),
  n_group: s.or(s.count, 1),
  topk_group: s.or(s.count, 1),
  topk_method: s.or(s.oneOf('noaux_tc'), 'noaux_tc'),
  scoring_func: s.or(s.oneOf('sigmoid'), 'sigmoid'),
};

const glmConfig = s.object({
  ...shared,
  num_key_value_heads: s.or(s.count, 8),
  max_position_embeddings: s.or(s.count, 131072),
  partial_rotary_factor: s.or(s.positive, 0.5),
  attention_bias: s.or(s.boolean, false),
  moe_intermediate_size: s.or(s.count, 1408),
  n_routed_experts: s.alias(s.or(s.count, 128), 'num_local_experts', 'num_experts'),
  num_experts_per_tok: s.or(s.count, 8),
  use_qk_norm: s.or(s.boolean, false),
});

/** GLM 4.5 to 4.7: grouped-query attention, sigmoid routing with a correction. */
export const glm4Moe = textArch(
  glmConfig,
  (c) => ({ ...c, rope: createRope(ropeSpec(c), heads(c).headDim), rule: sigmoidRule(c) }),
  (w, c, extras) => {
    const mlp = (l: Weights, layer: number) => routedMlp(l, layer, c, c.rule);
    return preNormModel(w, c, {
      rope: () => c.rope,
      headNorms: c.use_qk_norm,
      qkvBias: c.attention_bias,
      outBias: false,
      mlpBias: false,
      mlp,
      predictor: predictorOf(w, c, extras, { mlp: (l) => mlp(l, c.num_hidden_layers) }),
    });
  },
);

const liteConfig = s.object({
  ...shared,
  ...latentFields,
  max_position_embeddings: s.or(s.count, 202752),
  q_lora_rank: s.absent(s.count, 768),
  qk_nope_head_dim: s.or(s.count, 192),
  v_head_dim: s.or(s.count, 256),
  moe_intermediate_size: s.or(s.count, 1536),
  n_routed_experts: s.alias(s.or(s.count, 64), 'num_local_experts', 'num_experts'),
  num_experts_per_tok: s.or(s.count, 4),
  routed_scaling_factor: s.or(s.number, 1.8),
  mlp_layer_types: s.optional(s.array(s.oneOf('dense', 'sparse'))),
});

/** GLM 4.7 Flash: latent attention, the same routing; the layers with experts may be listed. */
export const glm4MoeLite = textArch(
  liteConfig,
  (c) => {
    const { mlp_layer_types: types, num_hidden_layers: layers } = c;
    if (types && types.length < layers) throw s.configError('mlp_layer_types', `${layers} entries`, types.length);
    return { ...c, ...latentShape(c), rule: sigmoidRule(c) };
  },
  (w, c, extras) => {
    const types = c.mlp_layer_types;
    // A list has the last word.
    const routed = types ? { ...c, first_k_dense_replace: 0, moe_layer_freq: 1 } : c;
    const mixer = (l: Weights) => latentMixer(l.at('self_attn'), c);
    const mlp = (l: Weights, layer: number) =>
      types?.[layer] === 'dense' ? undefined : routedMlp(l, layer, routed, c.rule);
    return preNormModel(w, c, {
      rope: () => c.rope,
      mixer,
      mlp,
      mlpBias: false,
      predictor: predictorOf(w, c, extras, { mixer, mlp: (l) => mlp(l, c.num_hidden_layers) }),
    });
  },
);
