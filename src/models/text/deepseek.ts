import * as s from '../../core/schema.ts';
import type { Weights } from '../../core/weights.ts';
import { textArch, textFields } from '../arch.ts';
import { checkRouting } from '../blocks/router.ts';
import { latentFields, latentMixer, latentShape, routedFields, routedMlp, sigmoidRule } from './latentMoe.ts';
import { predictorOf } from './predictors.ts';
import { preNormModel } from './preNorm.ts';

const method = s.oneOf('greedy', 'group_limited_greedy', 'noaux_tc');

const v2Config = s.object({
  ...textFields,
  ...latentFields,
  ...routedFields,
  topk_method: s.or(method, 'greedy'),
  scoring_func: s.or(s.oneOf('softmax'), 'softmax'),
});

/** DeepSeek V2: softmax scores as they are, chosen among all experts or within the best groups. */
export const deepseekV2 = textArch(
  v2Config,
  (c) => {
    const { topk_method: by, n_routed_experts: experts, num_experts_per_tok: topK, n_group, topk_group } = c;
    if (by === 'noaux_tc') throw s.configError('topk_method', 'greedy | group_limited_greedy', by);
    const grouped = by === 'group_limited_greedy';
    if (grouped && !(n_group && topk_group)) throw s.configError('n_group', 'a number of groups', n_group);
    const groups = grouped ? ({ count: n_group!, kept: topk_group!, best: 1 } as const) : undefined;
    checkRouting({ experts, topK, groups });
    // The reference takes no notice of `norm_topk_prob`, which no published model sets.
    return { ...c, ...latentShape(c), rule: { scores: 'softmax', groups, renormalize: false } as const };
  },
  (w, c, extras) => {
    const mixer = (l: Weights) => latentMixer(l.at('self_attn'), c);
    const mlp = (l: Weights, layer: number) => routedMlp(l, layer, c, c.rule, c.mlp_bias ?? false);
    return preNormModel(w, c, {
      rope: () => c.rope,
      mixer,
      mlp,
      mlpBias: c.mlp_bias ?? false,
      predictor: predictorOf(w, c, extras, { mixer, mlp: (l) => mlp(l, c.num_hidden_layers) }),
    });
  },
);

const v3Config = s.object({
  ...textFields,
  ...latentFields,
  ...routedFields,
  max_position_embeddings: s.or(s.count, 4096),
  moe_intermediate_size: s.or(s.count, 2048),
  n_routed_experts: s.alias(s.or(s.count, 256), 'num_local_experts', 'num_experts'),
  n_shared_experts: s.absent(s.index, 1),
  num_experts_per_tok: s.or(s.count, 8),
  first_k_dense_replace: s.or(s.index, 3),
  norm_topk_prob: s.or(s.boolean, true),
  routed_scaling_factor: s.or(s.number, 2.5),
  n_group: s.or(s.count, 8),
  topk_group: s.or(s.count, 4),
  topk_method: s.or(s.oneOf('noaux_tc'), 'noaux_tc'),
  scoring_func: s.or(s.oneOf('sigmoid'), 'sigmoid'),
});

/** DeepSeek V3 and R1. */
export const deepseekV3 = textArch(
  v3Config,
  (c) => ({ ...c, ...latentShape(c), rule: sigmoidRule(c) }),
  (w, c, extras) => {
    const mixer = (l: Weights) => latentMixer(l.at('self_attn'), c);
    const mlp = (l: Weights, layer: number) => routedMlp(l, layer, c, c.rule);
    return preNormModel(w, c, {
      rope: () => c.rope,
      mixer,
      mlp,
      mlpBias: false,
      predictor: predictorOf(w, c, extras, { mixer, mlp: (l) => mlp(l, c.num_hidden_layers) }),
    });
  },
);
