import * as s from '../../core/schema.ts';
import { heads, layerTypes, textArch, textConfig, windowOf } from '../arch.ts';
import { moe } from '../blocks/moe.ts';
import { createRope, wholeRopeSpec } from '../blocks/rope.ts';
import { checkRouting } from '../blocks/router.ts';
import { preNormModel } from './preNorm.ts';

/** The rotation of models whose configuration names none. */
const ROTATION = {
  rope_type: 'yarn',
  factor: 32,
  beta_fast: 32,
  beta_slow: 1,
  truncate: false,
  original_max_position_embeddings: 4096,
};

const config = textConfig.extend({
  rms_norm_eps: s.or(s.positive, 1e-5),
  head_dim: s.or(s.count, 64),
  num_key_value_heads: s.absent(s.count, 8),
  max_position_embeddings: s.or(s.count, 131072),
  attention_bias: s.or(s.boolean, true),
  sliding_window: s.absent(s.count, 128),
  num_local_experts: s.alias(s.or(s.count, 128), 'num_experts'),
  num_experts_per_tok: s.alias(s.or(s.count, 4), 'experts_per_token'),
  swiglu_alpha: s.or(s.number, 1.702),
  swiglu_limit: s.or(s.positive, 7),
});

/** GPT-OSS: attention sinks, windows on every other layer, biased experts with a clamped gate. */
export const gptOss = textArch(
  config,
  (c) => {
    checkRouting({ experts: c.num_local_experts, topK: c.num_experts_per_tok });
    const stated = c.rope_parameters ?? c.rope_scaling;
    const rope = createRope(wholeRopeSpec(stated ? c : { ...c, rope_parameters: ROTATION }, 150000), heads(c).headDim);
    const layer_types = layerTypes(c, (i) => (i % 2 === 0 ? 'sliding_attention' : 'full_attention'));
    const windows = layer_types.map((_, i) => windowOf({ ...c, layer_types }, i));
    return { ...c, windows, rope };
  },
  (w, c) =>
    preNormModel(w, c, {
      rope: () => c.rope,
      window: (layer) => c.windows[layer],
      sinks: true,
      qkvBias: c.attention_bias,
      outBias: c.attention_bias,
      mlp: (l) =>
        moe(l.at('mlp'), {
          gate: 'router',
          gateBias: true,
          hidden: c.hidden_size,
          intermediate: c.intermediate_size,
          experts: c.num_local_experts,
          topK: c.num_experts_per_tok,
          scores: 'chosen',
          bias: true,
          transposed: true,
          activation: 'silu',
          glu: {
            activation: 'silu',
            clamped: { alpha: c.swiglu_alpha, limit: c.swiglu_limit },
            interleaved: true,
          },
        }),
    }),
);
