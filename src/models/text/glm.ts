import type { Layer, Rope } from '../../core/model.ts';
import * as s from '../../core/schema.ts';
import type { Weights } from '../../core/weights.ts';
import type { TextConfig } from '../arch.ts';
import { heads, layers, tableAndHead, textArch, textConfig, trunk } from '../arch.ts';
import { attention } from '../blocks/attention.ts';
import { decoder } from '../blocks/decoder.ts';
import { preNorm, sandwich } from '../blocks/layer.ts';
import { gatedMlp } from '../blocks/mlp.ts';
import { rmsNorm } from '../blocks/norm.ts';
import { createRope, ropeSpec } from '../blocks/rope.ts';

const config = textConfig.extend({
  num_key_value_heads: s.absent(s.count, 2),
  head_dim: s.or(s.count, 128),
  max_position_embeddings: s.or(s.count, 131072),
  partial_rotary_factor: s.or(s.positive, 0.5),
  rms_norm_eps: s.or(s.positive, 1.5625e-7),
});

const derive = (c: s.Infer<typeof config>) => ({ ...c, rope: createRope(ropeSpec(c), c.head_dim) });

/** GLM 4: neighbouring pairs of a part of each head rotate; GLM-4-0414 norms what attention and MLP add. */
function glmModel(w: Weights, c: TextConfig & { readonly rope: Rope }, sandwiched: boolean) {
  const m = trunk(w);
  const h = heads(c);
  const hidden = c.hidden_size;
  const norm = (at: Weights) => rmsNorm(at, { width: hidden, eps: c.rms_norm_eps });
  const layer = (i: number): Layer => {
    const l = m.at('layers', i);
    const parts = {
      attnNorm: norm(l.at('input_layernorm')),
      attn: attention(l.at('self_attn'), {
        ...h,
        hidden,
        scale: h.headDim ** -0.5,
        rope: c.rope,
        interleaved: true,
        bias: c.attention_bias,
        outBias: false,
      }),
      mlpNorm: norm(l.at('post_attention_layernorm')),
      mlp: gatedMlp(l.at('mlp'), {
        hidden,
        intermediate: c.intermediate_size,
        activation: c.hidden_act,
        bias: false,
      }),
    };
    if (!sandwiched) return preNorm(parts);
    const attnPost = norm(l.at('post_self_attn_layernorm'));
    return sandwich({ ...parts, attnPost, mlpPost: norm(l.at('post_mlp_layernorm')) });
  };
  return decoder(w, {
    ...tableAndHead(w, m, c),
    maxPositions: c.max_position_embeddings,
    norm: norm(m.at('norm')),
    layers: layers(c.num_hidden_layers, layer),
  });
}

export const glm = textArch(config, derive, (w, c) => glmModel(w, c, false));
export const glm4 = textArch(config, derive, (w, c) => glmModel(w, c, true));
