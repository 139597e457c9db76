import type { Decoder, Mixer, Rope } from '../../core/model.ts';
import * as s from '../../core/schema.ts';
import type { Weights } from '../../core/weights.ts';
import { heads, hybridTypes, layers, tableAndHead, textArch, textConfig, trunk } from '../arch.ts';
import { attention } from '../blocks/attention.ts';
import { decoder } from '../blocks/decoder.ts';
import { gatedConv } from '../blocks/gatedConv.ts';
import { preNorm } from '../blocks/layer.ts';
import { gatedMlp } from '../blocks/mlp.ts';
import { moe } from '../blocks/moe.ts';
import { rmsNorm } from '../blocks/norm.ts';
import { createRope, wholeRopeSpec } from '../blocks/rope.ts';
import { checkRouting } from '../blocks/router.ts';

const config = textConfig.extend({
  intermediate_size: s.or(s.count, 12288),
  num_key_value_heads: s.absent(s.count, 8),
  max_position_embeddings: s.or(s.count, 128000),
  norm_eps: s.or(s.positive, 1e-5),
  tie_word_embeddings: s.or(s.boolean, true),
  /** Wins over the usual name. */
  tie_embedding: s.optional(s.boolean),
  conv_bias: s.or(s.boolean, false),
  conv_L_cache: s.or(s.count, 3),
  layer_types: s.optional(s.array(s.oneOf('full_attention', 'conv'))),
});
type Config = s.Infer<typeof config>;

/** Activation of every published model; no key changes it. */
const ACTIVATION = 'silu';

function derive<C extends Config>(c: C, rule: ((layer: number) => 'full_attention' | 'conv') | undefined) {
  return {
    ...c,
    tie_word_embeddings: c.tie_embedding ?? c.tie_word_embeddings,
    types: hybridTypes(c.layer_types, c.num_hidden_layers, rule),
    rope: createRope(wholeRopeSpec(c, 1e6), heads(c).headDim),
  };
}

interface Built extends Config {
  readonly types: readonly string[];
  readonly rope: Rope;
}

function build(w: Weights, c: Built, feed: (w: Weights, layer: number) => Mixer): Decoder {
  const m = trunk(w);
  const h = heads(c);
  const hidden = c.hidden_size;
  const norm = (at: Weights, width = hidden) => rmsNorm(at, { width, eps: c.norm_eps });
  return decoder(w, {
    ...tableAndHead(w, m, c),
    maxPositions: c.max_position_embeddings,
    norm: norm(m.at('embedding_norm')),
    layers: layers(c.num_hidden_layers, (layer) => {
      const l = m.at('layers', layer);
      const a = l.at('self_attn');
      return preNorm({
        attnNorm: norm(l.at('operator_norm')),
        attn:
          c.types[layer] === 'conv'
            ? gatedConv(l.at('conv'), { hidden, kernel: c.conv_L_cache, bias: c.conv_bias })
            : attention(a, {
                ...{ ...h, hidden, scale: h.headDim ** -0.5, rope: c.rope, bias: false, outBias: false },
                qNorm: norm(a.at('q_layernorm'), h.headDim),
                kNorm: norm(a.at('k_layernorm'), h.headDim),
                outName: 'out_proj',
              }),
        mlpNorm: norm(l.at('ffn_norm')),
        mlp: feed(l.at('feed_forward'), layer),
      });
    }),
  });
}

const dense = (w: Weights, hidden: number, intermediate: number): Mixer =>
  gatedMlp(w, { hidden, intermediate, activation: ACTIVATION, bias: false, names: ['w1', 'w3', 'w2'] });

/** LFM2: gated short convolutions, with attention on some layers. */
export const lfm2 = textArch(
  config.extend({
    block_ff_dim: s.optional(s.count),
    block_multiple_of: s.or(s.count, 256),
    block_ffn_dim_multiplier: s.absent(s.positive, 1),
    block_auto_adjust_ff_dim: s.or(s.boolean, true),
    full_attn_idxs: s.optional(s.array(s.index)),
  }),
  (c) => {
    let intermediate_size = c.block_ff_dim ?? c.intermediate_size;
    if (c.block_auto_adjust_ff_dim) {
      intermediate_size = Math.floor((2 * intermediate_size) / 3);
      if (c.block_ffn_dim_multiplier !== undefined) {
        const multiple = c.block_multiple_of;
        intermediate_size = multiple * Math.ceil(Math.floor(c.block_ffn_dim_multiplier * intermediate_size) / multiple);
      }
    }
    const attends = (i: number) => c.full_attn_idxs?.includes(i) ?? true;
    return { ...derive(c, (i) => (attends(i) ? 'full_attention' : 'conv')), intermediate_size };
  },
  (w, c) => build(w, c, (at) => dense(at, c.hidden_size, c.intermediate_size)),
);

/** LFM2 with experts behind the first `num_dense_layers` layers, chosen by biased sigmoids. */
export const lfm2Moe = textArch(
  config.extend({
    intermediate_size: s.or(s.count, 7168),
    moe_intermediate_size: s.or(s.count, 1792),
    num_dense_layers: s.or(s.index, 2),
    num_experts_per_tok: s.or(s.count, 4),
    num_experts: s.alias(s.or(s.count, 32), 'num_local_experts'),
    use_expert_bias: s.or(s.boolean, true),
    routed_scaling_factor: s.or(s.number, 1),
    norm_topk_prob: s.or(s.boolean, true),
  }),
  (c) => {
    checkRouting({ experts: c.num_experts, topK: c.num_experts_per_tok });
    return derive(c, undefined);
  },
  (w, c) =>
    build(w, c, (at, layer) => {
      if (layer < c.num_dense_layers) return dense(at, c.hidden_size, c.intermediate_size);
      return moe(at, {
        hidden: c.hidden_size,
        intermediate: c.moe_intermediate_size,
        experts: c.num_experts,
        topK: c.num_experts_per_tok,
        scores: 'sigmoid',
        correction: c.use_expert_bias ? at.tensor('expert_bias', [c.num_experts]) : undefined,
        renormalize: c.norm_topk_prob && { added: 1e-6 },
        scale: c.routed_scaling_factor,
        activation: ACTIVATION,
      });
    }),
);
