/** The shape of models of layer norms and plain MLPs, one after the other: Starcoder 2, Nemotron. */
import type { Activation } from '../../core/backend.ts';
import type { Decoder, Rope } from '../../core/model.ts';
import * as s from '../../core/schema.ts';
import type { Weights } from '../../core/weights.ts';
import type { TextConfig } from '../arch.ts';
import { activation, heads, layers, tableAndHead, textArch, textConfig, trunk } from '../arch.ts';
import { attention } from '../blocks/attention.ts';
import { decoder } from '../blocks/decoder.ts';
import { preNorm } from '../blocks/layer.ts';
import { plainMlp } from '../blocks/mlp.ts';
import { layerNorm } from '../blocks/norm.ts';
import { createRope, ropeSpec, wholeRopeSpec } from '../blocks/rope.ts';

interface Variation {
  readonly rope: Rope;
  readonly window?: number | undefined;
  readonly eps: number;
  /** Norm weights are stored as distance from one. */
  readonly plusOne?: boolean;
  readonly activation: Activation;
  readonly attentionBias: boolean | undefined;
  readonly mlpBias: boolean | undefined;
  readonly mlpNames: readonly [input: string, output: string];
}

function layerNormModel(w: Weights, c: TextConfig, v: Variation): Decoder {
  const m = trunk(w);
  const h = heads(c);
  const hidden = c.hidden_size;
  const norm = (at: Weights) => layerNorm(at, { width: hidden, eps: v.eps, plusOne: v.plusOne });
  return decoder(w, {
    ...tableAndHead(w, m, c),
    maxPositions: c.max_position_embeddings,
    norm: norm(m.at('norm')),
    layers: layers(c.num_hidden_layers, (i) => {
      const l = m.at('layers', i);
      return preNorm({
        attnNorm: norm(l.at('input_layernorm')),
        attn: attention(l.at('self_attn'), {
          ...h,
          hidden,
          scale: h.headDim ** -0.5,
          rope: v.rope,
          window: v.window,
          bias: v.attentionBias,
          outBias: v.attentionBias,
        }),
        mlpNorm: norm(l.at('post_attention_layernorm')),
        mlp: plainMlp(l.at('mlp'), {
          hidden,
          intermediate: c.intermediate_size,
          activation: v.activation,
          bias: v.mlpBias,
          names: v.mlpNames,
        }),
      });
    }),
  });
}

/** Starcoder 2: a window on every layer where one is given. */
export const starcoder2 = textArch(
  textConfig.extend({
    num_key_value_heads: s.or(s.count, 2),
    hidden_act: s.or(activation, 'geluTanh'),
    max_position_embeddings: s.or(s.count, 4096),
    norm_epsilon: s.or(s.positive, 1e-5),
    sliding_window: s.optional(s.count),
    tie_word_embeddings: s.or(s.boolean, true),
    use_bias: s.optional(s.boolean),
  }),
  (c) => ({ ...c, rope: createRope(wholeRopeSpec(c), heads(c).headDim) }),
  (w, c) =>
    layerNormModel(w, c, {
      rope: c.rope,
      window: c.sliding_window,
      eps: c.norm_epsilon,
      activation: c.hidden_act,
      attentionBias: c.use_bias,
      mlpBias: c.use_bias,
      mlpNames: ['c_fc', 'c_proj'],
    }),
);

/** Nemotron: the square of a rectified unit between its two matrices, a part of each head rotates. */
export const nemotron = textArch(
  textConfig.extend({
    hidden_act: s.or(activation, 'relu2'),
    max_position_embeddings: s.or(s.count, 4096),
    norm_eps: s.or(s.positive, 1e-5),
    partial_rotary_factor: s.or(s.positive, 0.5),
  }),
  (c) => ({ ...c, rope: createRope(ropeSpec(c), heads(c).headDim) }),
  (w, c) =>
    layerNormModel(w, c, {
      rope: c.rope,
      eps: c.norm_eps,
      plusOne: true,
      activation: c.hidden_act,
      attentionBias: c.attention_bias,
      mlpBias: c.mlp_bias,
      mlpNames: ['up_proj', 'down_proj'],
    }),
);
