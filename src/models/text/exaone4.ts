import * as s from '../../core/schema.ts';
import type { Weights } from '../../core/weights.ts';
import { heads, layers, layerTypes, tableAndHead, textArch, textConfig, trunk, windowOf } from '../arch.ts';
import { attention } from '../blocks/attention.ts';
import { decoder } from '../blocks/decoder.ts';
import { postNorm } from '../blocks/layer.ts';
import { gatedMlp } from '../blocks/mlp.ts';
import { rmsNorm } from '../blocks/norm.ts';
import { createRope, wholeRopeSpec } from '../blocks/rope.ts';

/** `LLLG`: windowed and full layers, repeated; a number: every nth layer is full; nothing: none is windowed. */
const pattern: s.Schema<string | number> = {
  parse(value, path) {
    if (typeof value === 'string' && /^[LG]{1,64}$/.test(value)) return value;
    if (Number.isInteger(value) && (value as number) >= 0) return value as number;
    throw s.configError(path, 'a count, or letters L and G', value);
  },
};

const config = textConfig.extend({
  num_key_value_heads: s.or(s.count, 32),
  rms_norm_eps: s.or(s.positive, 1e-5),
  sliding_window: s.absent(s.count, 4096),
  sliding_window_pattern: s.absent(pattern, 4),
});
type Config = s.Infer<typeof config>;

function isWindowed(c: Config, layer: number): boolean {
  const p = c.sliding_window_pattern;
  if (c.sliding_window === undefined || !p) return false;
  if (typeof p === 'number') return (layer + 1) % p !== 0;
  return p[layer % p.length] === 'L' && layer !== c.num_hidden_layers - 1;
}

/** EXAONE 4: norms of heads, and behind attention and MLP only; where some layers are windowed, the others do not rotate. */
export const exaone4 = textArch(
  config,
  (c) => {
    const layer_types = layerTypes(c, (i) => (isWindowed(c, i) ? 'sliding_attention' : 'full_attention'));
    return { ...c, layer_types, rope: createRope(wholeRopeSpec(c), heads(c).headDim) };
  },
  (w, c) => {
    const m = trunk(w);
    const h = heads(c);
    const hidden = c.hidden_size;
    const norm = (at: Weights, width = hidden) => rmsNorm(at, { width, eps: c.rms_norm_eps });
    return decoder(w, {
      ...tableAndHead(w, m, c),
      maxPositions: c.max_position_embeddings,
      norm: norm(m.at('norm')),
      layers: layers(c.num_hidden_layers, (i) => {
        const l = m.at('layers', i);
        const a = l.at('self_attn');
        const window = windowOf(c, i);
        return postNorm({
          attn: attention(a, {
            ...h,
            hidden,
            scale: h.headDim ** -0.5,
            rope: c.sliding_window === undefined || window !== undefined ? c.rope : undefined,
            window,
            qNorm: norm(a.at('q_norm'), h.headDim),
            kNorm: norm(a.at('k_norm'), h.headDim),
            bias: false,
            outBias: false,
          }),
          attnPost: norm(l.at('post_attention_layernorm')),
          mlp: gatedMlp(l.at('mlp'), {
            hidden,
            intermediate: c.intermediate_size,
            activation: c.hidden_act,
            bias: false,
          }),
          mlpPost: norm(l.at('post_feedforward_layernorm')),
        });
      }),
    });
  },
);
