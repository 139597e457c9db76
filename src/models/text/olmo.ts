import type { NormOptions } from '../../core/backend.ts';
import type { Decoder, Layer, Rope } from '../../core/model.ts';
import * as s from '../../core/schema.ts';
import type { Weights } from '../../core/weights.ts';
import type { TextConfig } from '../arch.ts';
import { heads, layers, layerTypes, tableAndHead, textArch, textConfig, trunk, windowOf } from '../arch.ts';
import type { AttentionSpec, Project } from '../blocks/attention.ts';
import { attention } from '../blocks/attention.ts';
import { decoder } from '../blocks/decoder.ts';
import { postNorm, preNorm } from '../blocks/layer.ts';
import { gatedMlp } from '../blocks/mlp.ts';
import { rmsNorm } from '../blocks/norm.ts';
import { clippedParts, normedParts } from '../blocks/projections.ts';
import { createRope, layerRopes, wholeRopeSpec } from '../blocks/rope.ts';

interface Variation {
  readonly rope: (layer: number) => Rope;
  readonly window?: (layer: number) => number | undefined;
  readonly norm: NormOptions;
  readonly project: (at: Weights, spec: AttentionSpec) => Project | undefined;
  /** From the layer's two mixers to the layer. */
  readonly join: (at: Weights, parts: Pick<Parameters<typeof preNorm>[0], 'attn' | 'mlp'>) => Layer;
}

function olmoModel(w: Weights, c: TextConfig, v: Variation): Decoder {
  const m = trunk(w);
  const h = heads(c);
  const hidden = c.hidden_size;
  return decoder(w, {
    ...tableAndHead(w, m, c),
    maxPositions: c.max_position_embeddings,
    norm: v.norm,
    layers: layers(c.num_hidden_layers, (i) => {
      const l = m.at('layers', i);
      const a = l.at('self_attn');
      const spec: AttentionSpec = {
        ...h,
        hidden,
        scale: h.headDim ** -0.5,
        rope: v.rope(i),
        window: v.window?.(i),
        bias: c.attention_bias,
        outBias: c.attention_bias,
      };
      const attn = attention(a, { ...spec, project: v.project(a, spec) });
      const { intermediate_size: intermediate, hidden_act } = c;
      const mlp = gatedMlp(l.at('mlp'), { hidden, intermediate, activation: hidden_act, bias: false });
      return v.join(l, { attn, mlp });
    }),
  });
}

/** The norm of OLMo 1 has neither weights nor an epsilon of the file. */
const PLAIN: NormOptions = Object.freeze({ kind: 'layer', eps: 1e-5 });

/** OLMo 1: norms without weights; queries, keys and values may be clipped. */
export const olmo = textArch(
  textConfig.extend({ clip_qkv: s.optional(s.positive) }),
  (c) => ({ ...c, rope: createRope(wholeRopeSpec(c), heads(c).headDim) }),
  (w, c) =>
    olmoModel(w, c, {
      rope: () => c.rope,
      norm: PLAIN,
      project: (at, spec) => (c.clip_qkv === undefined ? undefined : clippedParts(at, spec, c.clip_qkv)),
      join: (_at, parts) => preNorm({ ...parts, attnNorm: PLAIN, mlpNorm: PLAIN }),
    }),
);

type Later = Omit<Variation, 'norm' | 'project' | 'join'>;

/** Norms behind attention and MLP only, and over all queries and all keys of a row. */
function laterModel(w: Weights, c: TextConfig, v: Later): Decoder {
  const norm = (at: Weights, width = c.hidden_size) => rmsNorm(at, { width, eps: c.rms_norm_eps });
  return olmoModel(w, c, {
    ...v,
    norm: norm(trunk(w).at('norm')),
    project: (at, spec) =>
      normedParts(at, spec, {
        q: norm(at.at('q_norm'), spec.heads * spec.headDim),
        k: norm(at.at('k_norm'), spec.kvHeads * spec.headDim),
      }),
    join: (at, parts) =>
      postNorm({
        ...parts,
        attnPost: norm(at.at('post_attention_layernorm')),
        mlpPost: norm(at.at('post_feedforward_layernorm')),
      }),
  });
}

const laterConfig = textConfig.extend({ rms_norm_eps: s.or(s.positive, 1e-5) });

export const olmo2 = textArch(
  laterConfig,
  (c) => ({ ...c, rope: createRope(wholeRopeSpec(c), heads(c).headDim) }),
  (w, c) => laterModel(w, c, { rope: () => c.rope }),
);

/** OLMo 3: three windowed layers to each full one; only full layers stretch their rotation. */
export const olmo3 = textArch(
  laterConfig.extend({ sliding_window: s.absent(s.count, 4096) }),
  (c) => {
    const layer_types = layerTypes(c, (i) => ((i + 1) % 4 === 0 ? 'full_attention' : 'sliding_attention'));
    const rope = { headDim: heads(c).headDim, theta: 5e5, stated: c.rope_theta };
    return { ...c, layer_types, ...layerRopes(c, rope, rope) };
  },
  (w, c) =>
    laterModel(w, c, {
      rope: (layer) => (c.layer_types[layer] === 'sliding_attention' ? c.local : c.full),
      window: (layer) => windowOf(c, layer),
    }),
);
