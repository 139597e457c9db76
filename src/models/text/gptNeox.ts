import { linear } from '../../core/ops.ts';
import * as s from '../../core/schema.ts';
import type { Weights } from '../../core/weights.ts';
import type { Heads } from '../arch.ts';
import { activation, heads, layers, tableAndHead, textArch, textConfig } from '../arch.ts';
import type { Project } from '../blocks/attention.ts';
import { attention } from '../blocks/attention.ts';
import { decoder } from '../blocks/decoder.ts';
import { parallel, preNorm } from '../blocks/layer.ts';
import { projection } from '../blocks/linear.ts';
import { plainMlp } from '../blocks/mlp.ts';
import { layerNorm } from '../blocks/norm.ts';
import { createRope, ropeSpec } from '../blocks/rope.ts';

const config = textConfig.extend({
  attention_bias: s.or(s.boolean, true),
  hidden_act: s.or(activation, 'gelu'),
  layer_norm_eps: s.or(s.positive, 1e-5),
  partial_rotary_factor: s.alias(s.or(s.positive, 0.25), 'rotary_pct'),
  rope_theta: s.alias(s.optional(s.positive), 'rotary_emb_base'),
  use_parallel_residual: s.or(s.boolean, true),
});

/** Pythia and GPT-NeoX: layer norms and biases; attention and MLP side by side, each behind a norm of its own. */
export const gptNeox = textArch(
  config,
  (c) => {
    const all = c.num_attention_heads;
    if (c.hidden_size % all !== 0) throw s.configError('num_attention_heads', `a divisor of ${c.hidden_size}`, all);
    const whole = { ...c, head_dim: undefined, num_key_value_heads: undefined };
    return { ...whole, rope: createRope(ropeSpec(whole), heads(whole).headDim) };
  },
  (w, c) => {
    const m = w.has('gpt_neox.embed_in.weight') ? w.at('gpt_neox') : w;
    const h = heads(c);
    const hidden = c.hidden_size;
    const norm = (at: Weights) => layerNorm(at, { width: hidden, eps: c.layer_norm_eps });
    // Masks that older files store.
    w.ignore(/\.attention\.bias$/);
    return decoder(w, {
      ...tableAndHead(w, m, c, { table: 'embed_in', head: w.has('embed_out.weight') ? 'embed_out' : 'lm_head' }),
      maxPositions: c.max_position_embeddings,
      norm: norm(m.at('final_layer_norm')),
      layers: layers(c.num_hidden_layers, (i) => {
        const l = m.at('layers', i);
        const a = l.at('attention');
        const parts = {
          attnNorm: norm(l.at('input_layernorm')),
          attn: attention(a, {
            ...h,
            hidden,
            scale: h.headDim ** -0.5,
            rope: c.rope,
            project: a.has('query_key_value.weight') ? headwise(a, h, hidden, c.attention_bias) : undefined,
            bias: c.attention_bias,
            outBias: c.attention_bias,
            outName: 'dense',
          }),
          mlpNorm: norm(l.at('post_attention_layernorm')),
          mlp: plainMlp(l.at('mlp'), {
            hidden,
            intermediate: c.intermediate_size,
            activation: c.hidden_act,
            bias: true,
            names: ['dense_h_to_4h', 'dense_4h_to_h'],
          }),
        };
        return c.use_parallel_residual ? parallel(parts) : preNorm(parts);
      }),
    });
  },
);

/** `query_key_value`, in which query, key and value of a head lie together. */
function headwise(w: Weights, { heads: all, headDim }: Heads, hidden: number, bias: boolean): Project {
  const runs = [0, 1, 2].flatMap((part) => layers(all, (head) => [(3 * head + part) * headDim, headDim] as const));
  const input = projection(w, [{ name: 'query_key_value', rows: 3 * all * headDim, runs }], hidden, bias);
  return (x) => linear(x, input.weight, input.plain);
}
