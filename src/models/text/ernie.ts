import * as s from '../../core/schema.ts';
import { heads, textArch, textConfig } from '../arch.ts';
import { moe } from '../blocks/moe.ts';
import { createRope, wholeRopeSpec } from '../blocks/rope.ts';
import { checkRouting } from '../blocks/router.ts';
import { predictorOf } from './predictors.ts';
import type { Variation } from './preNorm.ts';
import { preNormModel } from './preNorm.ts';

const THETA = 500000;

const config = textConfig.extend({
  rms_norm_eps: s.or(s.positive, 1e-5),
  max_position_embeddings: s.or(s.count, 131072),
  tie_word_embeddings: s.or(s.boolean, true),
  use_bias: s.or(s.boolean, false),
});

type Config = s.Infer<typeof config>;

function derive<C extends Config>(c: C) {
  return { ...c, rope: createRope(wholeRopeSpec(c, THETA), heads(c).headDim) };
}

/** Neighbouring pairs rotate; all projections have biases, or none. */
function variation(c: ReturnType<typeof derive<Config>>): Variation {
  const { use_bias: bias } = c;
  return { rope: () => c.rope, interleaved: true, qkvBias: bias, outBias: bias, mlpBias: bias };
}

/** Ernie 4.5 dense. */
export const ernie = textArch(
  config.extend({ num_key_value_heads: s.absent(s.count, 2), head_dim: s.absent(s.count, 128) }),
  (c) => derive(c),
  (w, c) => preNormModel(w, c, variation(c)),
);

const moeConfig = config.extend({
  num_key_value_heads: s.absent(s.count, 4),
  moe_num_experts: s.alias(s.or(s.count, 64), 'num_experts', 'num_local_experts'),
  moe_k: s.alias(s.or(s.count, 6), 'num_experts_per_tok'),
  moe_num_shared_experts: s.or(s.index, 2),
  moe_intermediate_size: s.or(s.count, 1536),
  moe_layer_start_index: s.or(s.index, 1),
  moe_layer_end_index: s.or(s.number, -1),
  moe_layer_interval: s.or(s.count, 1),
  moe_norm_min: s.or(s.number, 1e-12),
});

/** Ernie 4.5 with experts on a range of layers: softmax scores, chosen with a correction. */
export const ernieMoe = textArch(
  moeConfig,
  (c) => {
    checkRouting({ experts: c.moe_num_experts, topK: c.moe_k }, 'moe_k');
    return derive(c);
  },
  (w, c, extras) => {
    const last = c.moe_layer_end_index === -1 ? c.num_hidden_layers - 1 : c.moe_layer_end_index;
    return preNormModel(w, c, {
      ...variation(c),
      headBias: c.use_bias,
      mlp: (l, layer) => {
        if (layer < c.moe_layer_start_index || layer > last || (layer + 1) % c.moe_layer_interval !== 0)
          return undefined;
        const at = l.at('mlp');
        const experts = c.moe_num_experts;
        const shared = c.moe_num_shared_experts * c.moe_intermediate_size;
        return moe(at, {
          hidden: c.hidden_size,
          intermediate: c.moe_intermediate_size,
          experts,
          topK: c.moe_k,
          scores: 'softmax',
          correction: at.tensor('moe_statics.e_score_correction_bias', [experts]),
          renormalize: { least: c.moe_norm_min },
          activation: c.hidden_act,
          shared: shared ? { name: 'shared_experts', intermediate: shared, bias: c.use_bias } : undefined,
        });
      },
      predictor: predictorOf(w, c, extras, {}),
    });
  },
);
