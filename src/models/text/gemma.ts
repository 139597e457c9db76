import { UnsupportedError } from '../../core/errors.ts';
import type { Decoder, Layer, Rope } from '../../core/model.ts';
import * as s from '../../core/schema.ts';
import type { Weights } from '../../core/weights.ts';
import type { TextConfig } from '../arch.ts';
import {
  activation,
  heads,
  layers,
  layerTypes,
  tableAndHead,
  textArch,
  textConfig,
  textFields,
  trunk,
  windowOf,
} from '../arch.ts';
import { attention } from '../blocks/attention.ts';
import { decoder } from '../blocks/decoder.ts';
import { preNorm, sandwich } from '../blocks/layer.ts';
import { gatedMlp } from '../blocks/mlp.ts';
import { rmsNorm } from '../blocks/norm.ts';
import type { RopeConfig } from '../blocks/rope.ts';
import { createRope, wholeRopeSpec } from '../blocks/rope.ts';

const gemmaConfig = textConfig.extend({
  head_dim: s.or(s.count, 256),
  max_position_embeddings: s.or(s.count, 8192),
  tie_word_embeddings: s.or(s.boolean, true),
  use_bidirectional_attention: s.or(s.unknown, false),
});

/** Gemma 2 and 3 name the activation differently and scale queries by a constant of the model. */
const laterConfig = gemmaConfig.extend({
  num_attention_heads: s.or(s.count, 8),
  num_key_value_heads: s.absent(s.count, 4),
  hidden_activation: s.or(activation, 'geluTanh'),
  query_pre_attn_scalar: s.or(s.positive, 256),
  sliding_window: s.absent(s.count, 4096),
});

interface Variation {
  readonly scale: number;
  readonly rope: (layer: number) => Rope;
  readonly window?: (layer: number) => number | undefined;
  readonly softcap?: number | undefined;
  readonly logitCap?: number | undefined;
  readonly headNorms?: boolean;
  /** Norms behind attention and MLP as well as before them. */
  readonly sandwich?: boolean;
}

function causalOnly<C extends { readonly use_bidirectional_attention: unknown }>(c: C): C {
  if (c.use_bidirectional_attention) {
    throw new UnsupportedError(
      'use_bidirectional_attention: expected a causal model, got one that reads in both directions; such models embed text and do not generate',
      { feature: 'bidirectional attention' },
    );
  }
  return c;
}

/** Norm weights are stored as distance from one; embeddings are scaled by the root of their width. */
function gemmaModel(w: Weights, c: TextConfig, v: Variation): Decoder {
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

/** Gemma 3 text: head norms, five windowed layers to each full one, and a rotation for each kind. */
export const gemma3 = textArch(
  laterConfig.extend({
    // Released files leave out what equals these.
    vocab_size: s.or(s.count, 262208),
    hidden_size: s.or(s.count, 2304),
    intermediate_size: s.or(s.count, 9216),
    num_hidden_layers: s.or(textFields.num_hidden_layers, 26),
    max_position_embeddings: s.or(s.count, 131072),
    final_logit_softcapping: s.optional(s.positive),
    sliding_window_pattern: s.or(s.count, 6),
    rope_local_base_freq: s.optional(s.positive),
  }),
  (c) => {
    const pattern = c.sliding_window_pattern;
    const layer_types = layerTypes(c, (i) => ((i + 1) % pattern === 0 ? 'full_attention' : 'sliding_attention'));
    return { ...causalOnly(c), hidden_act: c.hidden_activation, layer_types, ...twoRopes(c, c.head_dim) };
  },
  (w, c) =>
    gemmaModel(w, c, {
      scale: c.query_pre_attn_scalar ** -0.5,
      rope: (layer) => (c.layer_types[layer] === 'sliding_attention' ? c.local : c.full),
      window: (layer) => windowOf(c, layer),
      logitCap: c.final_logit_softcapping,
      headNorms: true,
      sandwich: true,
    }),
);

/** Newer files nest one rotation per layer type; older ones scale the full layers and give the local base apart. */
function twoRopes(c: RopeConfig & { readonly rope_local_base_freq: number | undefined }, headDim: number) {
  const given = s.isRecord(c.rope_parameters) ? c.rope_parameters : {};
  if (Object.keys(given).length > 0 && !('full_attention' in given) && !('sliding_attention' in given)) {
    throw s.configError('rope_parameters', 'full_attention and sliding_attention', given);
  }
  const part = (type: string) => (s.isRecord(given[type]) ? given[type] : {});
  const scaling = s.isRecord(c.rope_scaling) ? c.rope_scaling : {};
  const base = { ...c, rope_scaling: undefined };
  const full = { ...base, rope_parameters: { ...part('full_attention'), ...scaling } };
  const local = { ...base, rope_parameters: part('sliding_attention'), rope_theta: c.rope_local_base_freq };
  return {
    full: createRope(wholeRopeSpec(full, 1e6), headDim),
    local: createRope(wholeRopeSpec(local, 1e4), headDim),
  };
}
