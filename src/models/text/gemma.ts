import { UnsupportedError } from '../../core/errors.ts';
import type { Decoder, Layer, Rope } from '../../core/model.ts';
import * as s from '../../core/schema.ts';
import type { Weights } from '../../core/weights.ts';
import type { TextConfig } from '../arch.ts';
import { activation, heads, layers, layerTypes, tableAndHead, textArch, textConfig, trunk, windowOf } from '../arch.ts';
import { attention } from '../blocks/attention.ts';
import { decoder } from '../blocks/decoder.ts';
import { preNorm, sandwich } from '../blocks/layer.ts';
import { gatedMlp } from '../blocks/mlp.ts';
import { rmsNorm } from '../blocks/norm.ts';
import { createRope, wholeRopeSpec } from '../blocks/rope.ts';

const gemmaConfig = textConfig.extend({
  head_dim: s.or(s.count, 256),
  max_position_embeddings: s.or(s.count, 8192),
  tie_word_embeddings: s.or(s.boolean, true),
  use_bidirectional_attention: s.or(s.unknown, false),
});

/** Gemma 2 and 3 name the activation differently and scale queries by a constant of the model. */
export const laterConfig = gemmaConfig.extend({
  num_attention_heads: s.or(s.count, 8),
  num_key_value_heads: s.absent(s.count, 4),
  hidden_activation: s.or(activation, 'geluTanh'),
  query_pre_attn_scalar: s.or(s.positive, 256),
  sliding_window: s.absent(s.count, 4096),
});

export interface Variation {
  readonly scale: number;
  readonly rope: (layer: number) => Rope;
  readonly window?: (layer: number) => number | undefined;
  readonly softcap?: number | undefined;
  readonly logitCap?: number | undefined;
  readonly headNorms?: boolean;
  /** Norms behind attention and MLP as well as before them. */
  readonly sandwich?: boolean;
}

export function causalOnly<C extends { readonly use_bidirectional_attention: unknown }>(c: C): C {
  if (c.use_bidirectional_attention) {
    throw new UnsupportedError(
      'use_bidirectional_attention: expected a causal model, got one that reads in both directions; such models embed text and do not generate',
      { feature: 'bidirectional attention' },
    );
  }
  return c;
}

/** The Gemma shape: norm weights are stored as distance from one; embeddings are scaled by the root of their width. */
export function gemmaModel(w: Weights, c: TextConfig, v: Variation): Decoder {
  const m = trunk(w);
  const h = heads(c);
  const hidden = c.hidden_size;
  const norm = (at: Weights, width = hidden) => rmsNorm(at, { width, eps: c.rms_norm_eps, plusOne: true });
  const { table, head } = tableAndHead(w, m, c);
  const layer = (i: number): Layer => {
    const l = m.at('layers', i);
    const a = l.at('self_attn');
    const attn = attention(a, {
      ...h,
      hidden,
      scale: v.scale,
      rope: v.rope(i),
      window: v.window?.(i),
      softcap: v.softcap,
      qNorm: v.headNorms ? norm(a.at('q_norm'), h.headDim) : undefined,
      kNorm: v.headNorms ? norm(a.at('k_norm'), h.headDim) : undefined,
      bias: c.attention_bias,
      outBias: c.attention_bias,
    });
    const mlp = gatedMlp(l.at('mlp'), {
      hidden,
      intermediate: c.intermediate_size,
      activation: c.hidden_act,
      bias: false,
    });
    const attnNorm = norm(l.at('input_layernorm'));
    const behindAttention = norm(l.at('post_attention_layernorm'));
    if (!v.sandwich) return preNorm({ attnNorm, attn, mlpNorm: behindAttention, mlp });
    return sandwich({
      attnNorm,
      attn,
      attnPost: behindAttention,
      mlpNorm: norm(l.at('pre_feedforward_layernorm')),
      mlp,
      mlpPost: norm(l.at('post_feedforward_layernorm')),
    });
  };
  return decoder(w, {
    table,
    head,
    maxPositions: c.max_position_embeddings,
    norm: norm(m.at('norm')),
    embedScale: Math.fround(Math.sqrt(hidden)),
    logitCap: v.logitCap,
    layers: layers(c.num_hidden_layers, layer),
  });
}

/** Gemma 1. Its releases say "gelu" and mean the tanh form. */
export const gemma = textArch(
  gemmaConfig.extend({ num_key_value_heads: s.absent(s.count, 16), hidden_act: s.or(activation, 'geluTanh') }),
  (c) => ({
    ...causalOnly(c),
    hidden_act: c.hidden_act === 'gelu' ? ('geluTanh' as const) : c.hidden_act,
    rope: createRope(wholeRopeSpec(c), c.head_dim),
  }),
  (w, c) => gemmaModel(w, c, { scale: c.head_dim ** -0.5, rope: () => c.rope }),
);

/** Gemma 2: sandwich norms, soft caps, every other layer windowed. */
export const gemma2 = textArch(
  laterConfig.extend({
    attn_logit_softcapping: s.absent(s.positive, 50),
    final_logit_softcapping: s.absent(s.positive, 30),
  }),
  (c) => ({
    ...causalOnly(c),
    hidden_act: c.hidden_activation,
    layer_types: layerTypes(c, (i) => (i % 2 === 0 ? 'sliding_attention' : 'full_attention')),
    rope: createRope(wholeRopeSpec(c), c.head_dim),
  }),
  (w, c) =>
    gemmaModel(w, c, {
      scale: c.query_pre_attn_scalar ** -0.5,
      rope: () => c.rope,
      window: (layer) => windowOf(c, layer),
      softcap: c.attn_logit_softcapping,
      logitCap: c.final_logit_softcapping,
      sandwich: true,
    }),
);
