/** What the DeepSeek models and their relatives share: latent attention by its keys, experts beside shared ones. */
import type { Mixer } from '../../core/model.ts';
import * as s from '../../core/schema.ts';
import type { Weights } from '../../core/weights.ts';
import type { textConfig } from '../arch.ts';
import { latentAttention } from '../blocks/mla.ts';
import { moe } from '../blocks/moe.ts';
import type { RopeConfig } from '../blocks/rope.ts';
import { createRope, wholeRopeSpec, yarnScale } from '../blocks/rope.ts';
import type { Routing } from '../blocks/router.ts';
import { checkRouting } from '../blocks/router.ts';

/** The norms of the latents have this epsilon in the reference, whatever the configuration says. */
const LATENT_EPS = 1e-6;

/** Keys of latent attention. */
export const latentFields = {
  q_lora_rank: s.absent(s.count, 1536),
  kv_lora_rank: s.or(s.count, 512),
  qk_nope_head_dim: s.or(s.count, 128),
  qk_rope_head_dim: s.or(s.count, 64),
  v_head_dim: s.or(s.count, 128),
  rope_interleave: s.or(s.boolean, true),
  attention_bias: s.or(s.boolean, false),
};

/** Keys of routed experts beside shared ones. */
export const routedFields = {
  moe_intermediate_size: s.or(s.count, 1407),
  n_routed_experts: s.alias(s.or(s.count, 64), 'num_local_experts', 'num_experts'),
  n_shared_experts: s.absent(s.index, 2),
  num_experts_per_tok: s.count,
  first_k_dense_replace: s.or(s.index, 0),
  moe_layer_freq: s.or(s.count, 1),
  norm_topk_prob: s.or(s.boolean, false),
  routed_scaling_factor: s.or(s.number, 1),
  n_group: s.optional(s.count),
  topk_group: s.optional(s.count),
  /** Layers beyond the last one that only draft tokens. */
  num_nextn_predict_layers: s.alias(s.or(s.index, 1), 'num_mtp_layers'),
};

type Latent = s.Parsed<typeof latentFields> & RopeConfig & { readonly num_attention_heads: number };
type Routed = s.Parsed<typeof routedFields>;
type Text = Pick<s.Infer<typeof textConfig>, 'hidden_size' | 'hidden_act' | 'num_hidden_layers'>;

/** The rotation of latent attention and its scale, which grows with some stretched rotations. */
export function latentShape(c: Latent) {
  const spec = wholeRopeSpec(c);
  if (spec.partial !== 1) throw s.configError('partial_rotary_factor', '1 for latent attention', spec.partial);
  const queryDim = c.qk_nope_head_dim + c.qk_rope_head_dim;
  return { rope: createRope(spec, c.qk_rope_head_dim), scale: queryDim ** -0.5 * yarnScale(spec) ** 2 };
}

export function latentMixer(at: Weights, c: Latent & Text & ReturnType<typeof latentShape>): Mixer {
  return latentAttention(at, {
    hidden: c.hidden_size,
    heads: c.num_attention_heads,
    qRank: c.q_lora_rank,
    kvRank: c.kv_lora_rank,
    nopeDim: c.qk_nope_head_dim,
    ropeDim: c.qk_rope_head_dim,
    valueDim: c.v_head_dim,
    scale: c.scale,
    rope: c.rope,
    interleaved: c.rope_interleave,
    bias: c.attention_bias,
    eps: LATENT_EPS,
  });
}

export type RoutingRule = Pick<Routing, 'scores' | 'groups' | 'renormalize'>;

/** Sigmoid scores, chosen with a learned correction within the groups whose best two are best. */
export function sigmoidRule(c: Routed): RoutingRule {
  const groups = { count: c.n_group ?? 1, kept: c.topk_group ?? 1, best: c.n_group === 1 ? 1 : 2 } as const;
  checkRouting({ experts: c.n_routed_experts, topK: c.num_experts_per_tok, groups });
  return { scores: 'sigmoid', groups, renormalize: c.norm_topk_prob ? { least: 1e-20 } : false };
}

/** Experts beside shared ones, on layers from `first_k_dense_replace` on; `undefined` for the dense layers before. */
export function routedMlp(
  l: Weights,
  layer: number,
  c: Routed & Text,
  rule: RoutingRule,
  bias = false,
): Mixer | undefined {
  if (layer < c.first_k_dense_replace || layer % c.moe_layer_freq !== 0) return undefined;
  const at = l.at('mlp');
  const experts = c.n_routed_experts;
  return moe(at, {
    ...rule,
    hidden: c.hidden_size,
    intermediate: c.moe_intermediate_size,
    experts,
    topK: c.num_experts_per_tok,
    scale: c.routed_scaling_factor,
    correction: rule.scores === 'sigmoid' ? at.tensor('gate.e_score_correction_bias', [experts]) : undefined,
    activation: c.hidden_act,
    shared: c.n_shared_experts
      ? { name: 'shared_experts', intermediate: c.moe_intermediate_size * c.n_shared_experts, bias }
      : undefined,
  });
}
