import { UnsupportedError } from '../../core/errors.ts';
import { linear } from '../../core/ops.ts';
import * as s from '../../core/schema.ts';
import type { Weights } from '../../core/weights.ts';
import { transposed } from '../../core/weightViews.ts';
import { activation, heads, layers, tableAndHead, textArch, textFields } from '../arch.ts';
import { attention } from '../blocks/attention.ts';
import { decoder } from '../blocks/decoder.ts';
import { preNorm } from '../blocks/layer.ts';
import type { Projection } from '../blocks/linear.ts';
import { checkShape, projection } from '../blocks/linear.ts';
import { plainMlpOf } from '../blocks/mlp.ts';
import { layerNorm } from '../blocks/norm.ts';

const config = s.object({
  vocab_size: s.or(s.count, 50257),
  hidden_size: s.alias(s.or(s.count, 768), 'n_embd'),
  num_hidden_layers: s.alias(s.or(textFields.num_hidden_layers, 12), 'n_layer'),
  num_attention_heads: s.alias(s.or(s.count, 12), 'n_head'),
  max_position_embeddings: s.alias(s.or(s.count, 1024), 'n_positions'),
  n_inner: s.optional(s.count),
  activation_function: s.or(activation, 'geluTanh'),
  layer_norm_epsilon: s.or(s.positive, 1e-5),
  scale_attn_weights: s.or(s.boolean, true),
  scale_attn_by_inverse_layer_idx: s.or(s.boolean, false),
  add_cross_attention: s.or(s.boolean, false),
  tie_word_embeddings: s.or(s.boolean, true),
});

/** GPT-2: learned positions, layer norms, biases everywhere, matrices stored as `[in, out]`. */
export const gpt2 = textArch(
  config,
  (c) => {
    const { hidden_size: hidden, num_attention_heads: all } = c;
    if (hidden % all !== 0) throw s.configError('n_head', `a divisor of ${hidden}`, all);
    if (c.add_cross_attention) {
      throw new UnsupportedError(
        'add_cross_attention: expected false, got true; a decoder of an encoder cannot run alone',
        {
          feature: 'cross-attention',
        },
      );
    }
    return { ...c, num_key_value_heads: undefined, head_dim: undefined };
  },
  (w, c) => {
    const m = w.has('transformer.wte.weight') ? w.at('transformer') : w;
    const h = heads(c);
    const hidden = c.hidden_size;
    const inner = c.n_inner ?? 4 * hidden;
    const norm = (at: Weights) => layerNorm(at, { width: hidden, eps: c.layer_norm_epsilon });
    // Masks that older files store.
    w.ignore(/(^|\.)h\.\d+\.attn\.bias$/);
    return decoder(w, {
      ...tableAndHead(w, m, c, { table: 'wte', head: 'lm_head' }),
      positions: m.matrix('wpe.weight', [c.max_position_embeddings, hidden]),
      maxPositions: c.max_position_embeddings,
      norm: norm(m.at('ln_f')),
      layers: layers(c.num_hidden_layers, (i) => {
        const l = m.at('h', i);
        const scale = (c.scale_attn_weights ? h.headDim ** -0.5 : 1) / (c.scale_attn_by_inverse_layer_idx ? i + 1 : 1);
        const qkv = conv1d(l.at('attn'), 'c_attn', hidden, 3 * hidden);
        return preNorm({
          attnNorm: norm(l.at('ln_1')),
          attn: attention(l.at('attn'), {
            ...h,
            hidden,
            scale,
            project: (x) => linear(x, qkv.weight, qkv.plain),
            output: conv1d(l.at('attn'), 'c_proj', hidden, hidden),
          }),
          mlpNorm: norm(l.at('ln_2')),
          mlp: plainMlpOf(
            conv1d(l.at('mlp'), 'c_fc', hidden, inner),
            conv1d(l.at('mlp'), 'c_proj', inner, hidden),
            c.activation_function,
          ),
        });
      }),
    });
  },
);

/** A matrix stored as `[in, out]` under `name`, or as others are under `name` with `_rows` behind it. */
function conv1d(w: Weights, name: string, width: number, rows: number): Projection {
  if (w.has(`${name}_rows.weight`)) return projection(w, [{ name: `${name}_rows`, rows }], width, true);
  checkShape(w, `${name}.weight`, width, rows);
  const weight = w.matrixOf([transposed(w.source(`${name}.weight`), 1, width, rows)], [rows, width]);
  const bias = w.tensor(`${name}.bias`, [rows]);
  return { weight, plain: { bias }, adding: { bias, accumulate: true } };
}
