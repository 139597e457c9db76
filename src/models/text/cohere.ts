import type { NormOptions } from '../../core/backend.ts';
import type { Decoder, Rope } from '../../core/model.ts';
import * as s from '../../core/schema.ts';
import type { Weights } from '../../core/weights.ts';
import { heads, layers, layerTypes, tableAndHead, textArch, textConfig, trunk, windowOf } from '../arch.ts';
import type { AttentionSpec } from '../blocks/attention.ts';
import { attention } from '../blocks/attention.ts';
import { decoder } from '../blocks/decoder.ts';
import { parallel } from '../blocks/layer.ts';
import { gatedMlp } from '../blocks/mlp.ts';
import { layerNorm } from '../blocks/norm.ts';
import { normedParts } from '../blocks/projections.ts';
import { createRope, wholeRopeSpec } from '../blocks/rope.ts';

const config = textConfig.extend({
  layer_norm_eps: s.or(s.positive, 1e-5),
  logit_scale: s.or(s.number, 0.0625),
  max_position_embeddings: s.or(s.count, 8192),
  tie_word_embeddings: s.or(s.boolean, true),
});
type Config = s.Infer<typeof config>;

interface Variation {
  readonly rope: (layer: number) => Rope | undefined;
  readonly window?: (layer: number) => number | undefined;
  /** Norms over each query and key head, with weights of its own for each. */
  readonly headNorms?: boolean;
}

/** The Command models: one norm, then attention and MLP side by side; neighbouring pairs rotate; logits are scaled. */
function cohereModel(w: Weights, c: Config, v: Variation): Decoder {
  const m = trunk(w);
  const h = heads(c);
  const hidden = c.hidden_size;
  const norm = (at: Weights, width = hidden) => layerNorm(at, { width, eps: c.layer_norm_eps });
  return decoder(w, {
    ...tableAndHead(w, m, c),
    maxPositions: c.max_position_embeddings,
    norm: norm(m.at('norm')),
    logitScale: c.logit_scale,
    layers: layers(c.num_hidden_layers, (i) => {
      const l = m.at('layers', i);
      const a = l.at('self_attn');
      const spec: AttentionSpec = {
        ...h,
        hidden,
        scale: h.headDim ** -0.5,
        rope: v.rope(i),
        window: v.window?.(i),
        interleaved: true,
        bias: c.attention_bias,
        outBias: c.attention_bias,
      };
      const headNorm = (name: string, groups: number): NormOptions => ({
        ...norm(a.at(name), groups * h.headDim),
        groups,
      });
      const project = v.headNorms
        ? normedParts(a, spec, { q: headNorm('q_norm', h.heads), k: headNorm('k_norm', h.kvHeads) })
        : undefined;
      return parallel({
        attnNorm: norm(l.at('input_layernorm')),
        attn: attention(a, { ...spec, project }),
        mlp: gatedMlp(l.at('mlp'), {
          hidden,
          intermediate: c.intermediate_size,
          activation: c.hidden_act,
          bias: false,
        }),
      });
    }),
  });
}

export const cohere = textArch(
  config.extend({ use_qk_norm: s.or(s.boolean, false) }),
  (c) => ({ ...c, rope: createRope(wholeRopeSpec(c, 500000), heads(c).headDim) }),
  (w, c) => cohereModel(w, c, { rope: () => c.rope, headNorms: c.use_qk_norm }),
);

/** Command R7B and A: three windowed layers to each full one, which has no position encoding. */
export const cohere2 = textArch(
  config.extend({ sliding_window: s.absent(s.count, 4096), sliding_window_pattern: s.or(s.count, 4) }),
  (c) => {
    const pattern = c.sliding_window_pattern;
    const layer_types = layerTypes(c, (i) => ((i + 1) % pattern === 0 ? 'full_attention' : 'sliding_attention'));
    return { ...c, layer_types, rope: createRope(wholeRopeSpec(c), heads(c).headDim) };
  },
  (w, c) =>
    cohereModel(w, c, {
      rope: (layer) => (c.layer_types[layer] === 'sliding_attention' ? c.rope : undefined),
      window: (layer) => windowOf(c, layer),
    }),
);
