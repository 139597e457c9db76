import type { NormOptions } from '../../core/backend.ts';
import * as s from '../../core/schema.ts';
import type { Weights } from '../../core/weights.ts';
import { heads, layers, tableAndHead, textArch, textConfig, trunk } from '../arch.ts';
import type { AttentionSpec } from '../blocks/attention.ts';
import { attention } from '../blocks/attention.ts';
import { decoder } from '../blocks/decoder.ts';
import { parallel, preNorm } from '../blocks/layer.ts';
import { gatedMlp } from '../blocks/mlp.ts';
import { layerNorm } from '../blocks/norm.ts';
import { normedParts } from '../blocks/projections.ts';
import { createRope, ropeSpec } from '../blocks/rope.ts';

const config = textConfig.extend({
  layer_norm_eps: s.or(s.positive, 1e-5),
  max_position_embeddings: s.or(s.count, 4096),
  partial_rotary_factor: s.or(s.positive, 0.25),
  qk_layernorm: s.or(s.boolean, false),
  use_parallel_residual: s.or(s.boolean, false),
  use_qkv_bias: s.optional(s.boolean),
});

/** StableLM: layer norms, a part of each head rotates; attention and MLP one after the other or side by side. */
export const stablelm = textArch(
  config,
  (c) => {
    const all = c.num_attention_heads;
    if (c.hidden_size % all !== 0) throw s.configError('num_attention_heads', `a divisor of ${c.hidden_size}`, all);
    const whole = { ...c, head_dim: undefined };
    return { ...whole, rope: createRope(ropeSpec(whole), heads(whole).headDim) };
  },
  (w, c) => {
    const m = trunk(w);
    const h = heads(c);
    const hidden = c.hidden_size;
    const eps = c.layer_norm_eps;
    const norm = (at: Weights) => layerNorm(at, { width: hidden, eps });
    return decoder(w, {
      ...tableAndHead(w, m, c),
      maxPositions: c.max_position_embeddings,
      norm: norm(m.at('norm')),
      layers: layers(c.num_hidden_layers, (i) => {
        const l = m.at('layers', i);
        const a = l.at('self_attn');
        const spec: AttentionSpec = {
          ...h,
          hidden,
          scale: h.headDim ** -0.5,
          rope: c.rope,
          bias: c.use_qkv_bias,
          outBias: false,
        };
        const headNorms = (at: Weights, groups: number): NormOptions => {
          const parts = layers(groups, (head) => ({ name: `norms.${head}.weight`, size: h.headDim }));
          const whole = at.optional('weight', [groups * h.headDim]);
          return { kind: 'layer', eps, weight: whole ?? at.vector(parts), groups };
        };
        const project = c.qk_layernorm
          ? normedParts(a, spec, {
              q: headNorms(a.at('q_layernorm'), h.heads),
              k: headNorms(a.at('k_layernorm'), h.kvHeads),
            })
          : undefined;
        const parts = {
          attnNorm: norm(l.at('input_layernorm')),
          attn: attention(a, { ...spec, project }),
          mlp: gatedMlp(l.at('mlp'), {
            hidden,
            intermediate: c.intermediate_size,
            activation: c.hidden_act,
            bias: false,
          }),
        };
        if (c.use_parallel_residual) return parallel(parts);
        return preNorm({ ...parts, mlpNorm: norm(l.at('post_attention_layernorm')) });
      }),
    });
  },
);
