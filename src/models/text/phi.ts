import * as s from '../../core/schema.ts';
import type { Weights } from '../../core/weights.ts';
import { activation, heads, layers, tableAndHead, textArch, textConfig, trunk } from '../arch.ts';
import { attention } from '../blocks/attention.ts';
import { decoder } from '../blocks/decoder.ts';
import { parallel } from '../blocks/layer.ts';
import { plainMlp } from '../blocks/mlp.ts';
import { layerNorm } from '../blocks/norm.ts';
import { createRope, ropeSpec } from '../blocks/rope.ts';

const config = textConfig.extend({
  hidden_act: s.or(activation, 'geluTanh'),
  layer_norm_eps: s.or(s.positive, 1e-5),
  partial_rotary_factor: s.or(s.positive, 0.5),
  qk_layernorm: s.or(s.boolean, false),
});

/** Phi 1 to 2: one norm before attention and MLP side by side, biases everywhere, a part of each head rotates. */
export const phi = textArch(
  config,
  (c) => ({ ...c, rope: createRope(ropeSpec(c), heads(c).headDim) }),
  (w, c) => {
    const m = trunk(w);
    const h = heads(c);
    const hidden = c.hidden_size;
    const norm = (at: Weights, width = hidden) => layerNorm(at, { width, eps: c.layer_norm_eps });
    return decoder(w, {
      ...tableAndHead(w, m, c),
      headBias: w.tensor('lm_head.bias', [c.vocab_size]),
      maxPositions: c.max_position_embeddings,
      norm: norm(m.at('final_layernorm')),
      layers: layers(c.num_hidden_layers, (i) => {
        const l = m.at('layers', i);
        const a = l.at('self_attn');
        return parallel({
          attnNorm: norm(l.at('input_layernorm')),
          attn: attention(a, {
            ...h,
            hidden,
            scale: h.headDim ** -0.5,
            rope: c.rope,
            qNorm: c.qk_layernorm ? norm(a.at('q_layernorm'), h.headDim) : undefined,
            kNorm: c.qk_layernorm ? norm(a.at('k_layernorm'), h.headDim) : undefined,
            bias: true,
            outBias: true,
            outName: 'dense',
          }),
          mlp: plainMlp(l.at('mlp'), {
            hidden,
            intermediate: c.intermediate_size,
            activation: c.hidden_act,
            bias: true,
            names: ['fc1', 'fc2'],
          }),
        });
      }),
    });
  },
);
