import type { Decoder, ExtraParts } from '../../core/model.ts';
import * as s from '../../core/schema.ts';
import type { Weights } from '../../core/weights.ts';
import { heads, hybridTypes, textArch, textConfig } from '../arch.ts';
import { deltaNet } from '../blocks/deltaNet.ts';
import type { MoeSpec } from '../blocks/moe.ts';
import { moe } from '../blocks/moe.ts';
import { createRope, ropeSpec } from '../blocks/rope.ts';
import { checkRouting } from '../blocks/router.ts';
import { predictorOf } from './predictors.ts';
import { preNormModel } from './preNorm.ts';

const config = textConfig.extend({
  head_dim: s.or(s.count, 256),
  num_key_value_heads: s.absent(s.count, 2),
  max_position_embeddings: s.or(s.count, 32768),
  partial_rotary_factor: s.or(s.positive, 0.25),
  attention_bias: s.or(s.boolean, false),
  linear_conv_kernel_dim: s.or(s.count, 4),
  linear_key_head_dim: s.or(s.count, 128),
  linear_value_head_dim: s.or(s.count, 128),
  linear_num_key_heads: s.or(s.count, 16),
  linear_num_value_heads: s.or(s.count, 32),
  layer_types: s.optional(s.array(s.oneOf('full_attention', 'linear_attention'))),
  full_attention_interval: s.or(s.count, 4),
  /** In no published configuration: layers that draft tokens in GGUF files. */
  num_nextn_predict_layers: s.or(s.index, 0),
  /** In no published configuration: the order of value heads in GGUF files of Qwen 3.5. */
  linear_cyclic_heads: s.or(s.boolean, false),
});
type Config = s.Infer<typeof config>;

function derive<C extends Config>(c: C) {
  const { linear_num_key_heads: keyHeads, linear_num_value_heads: valueHeads } = c;
  if (valueHeads % keyHeads !== 0) {
    throw s.configError('linear_num_key_heads', `a divisor of ${valueHeads} value heads`, keyHeads);
  }
  const types = hybridTypes(c.layer_types, c.num_hidden_layers, (i) =>
    (i + 1) % c.full_attention_interval === 0 ? 'full_attention' : 'linear_attention',
  );
  return { ...c, types, rope: createRope(ropeSpec(c), heads(c).headDim) };
}

/** The vision tower of checkpoints that have one. */
const VISION = /^(model\.)?visual\./;

/** Gated delta networks, every fourth layer attention with an output gate; norms around one. */
function hybrid(
  w: Weights,
  c: ReturnType<typeof derive<Config>>,
  extras: ExtraParts,
  experts?: { readonly on: (layer: number) => boolean; readonly all: MoeSpec },
): Decoder {
  w.ignore(VISION);
  return preNormModel(w, c, {
    rope: () => c.rope,
    plusOne: true,
    headNorms: true,
    gated: true,
    qkvBias: c.attention_bias,
    outBias: c.attention_bias,
    mlpBias: false,
    mlp: (l, layer) => (experts?.on(layer) ? moe(l.at('mlp'), experts.all) : undefined),
    mixer: (l, layer) =>
      c.types[layer] === 'full_attention'
        ? undefined
        : deltaNet(l.at('linear_attn'), {
            hidden: c.hidden_size,
            keyHeads: c.linear_num_key_heads,
            valueHeads: c.linear_num_value_heads,
            keyDim: c.linear_key_head_dim,
            valueDim: c.linear_value_head_dim,
            kernel: c.linear_conv_kernel_dim,
            activation: c.hidden_act,
            eps: c.rms_norm_eps,
            cyclic: c.linear_cyclic_heads,
          }),
    predictor: predictorOf(w, c, extras, {
      mlp: (l) => (experts && l.has('mlp.gate.weight') ? moe(l.at('mlp'), experts.all) : undefined),
    }),
  });
}

const experts = {
  moe_intermediate_size: s.or(s.count, 512),
  shared_expert_intermediate_size: s.or(s.count, 512),
  num_experts_per_tok: s.or(s.count, 10),
  num_experts: s.alias(s.or(s.index, 512), 'num_local_experts'),
};

function expertsOf(c: Config & s.Parsed<typeof experts>): MoeSpec {
  return {
    hidden: c.hidden_size,
    intermediate: c.moe_intermediate_size,
    experts: c.num_experts,
    topK: c.num_experts_per_tok,
    scores: 'softmax',
    renormalize: true,
    activation: c.hidden_act,
    shared: {
      name: 'shared_expert',
      intermediate: c.shared_expert_intermediate_size,
      gated: 'shared_expert_gate',
    },
  };
}

/** Qwen3-Next: experts beside a gated shared one on every `decoder_sparse_step`-th layer. */
export const qwen3Next = textArch(
  config.extend({
    ...experts,
    intermediate_size: s.or(s.count, 5632),
    norm_topk_prob: s.or(s.boolean, true),
    decoder_sparse_step: s.or(s.count, 1),
    mlp_only_layers: s.or(s.array(s.index), []),
  }),
  (c) => {
    const all = { ...expertsOf(c), renormalize: c.norm_topk_prob };
    if (c.num_experts > 0) checkRouting(all);
    return { ...derive(c), all };
  },
  (w, c, extras) => {
    const sparse = (layer: number) => c.num_experts > 0 && (layer + 1) % c.decoder_sparse_step === 0;
    return hybrid(w, c, extras, { on: (layer) => sparse(layer) && !c.mlp_only_layers.includes(layer), all: c.all });
  },
);

/** Qwen 3.5, text part. */
export const qwen35 = textArch(
  config.extend({ num_key_value_heads: s.absent(s.count, 4) }),
  (c) => derive(c),
  (w, c, extras) => hybrid(w, c, extras),
);

/** Qwen 3.5 with experts on every layer, text part. */
export const qwen35Moe = textArch(
  config.extend({
    ...experts,
    // Every layer has experts.
    intermediate_size: s.or(s.count, 1),
    num_experts_per_tok: s.or(s.count, 8),
    num_experts: s.alias(s.or(s.count, 256), 'num_local_experts'),
  }),
  (c) => {
    const all = expertsOf(c);
    checkRouting(all);
    return { ...derive(c), all };
  },
  (w, c, extras) => hybrid(w, c, extras, { on: () => true, all: c.all }),
);
