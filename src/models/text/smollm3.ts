import * as s from '../../core/schema.ts';
import { heads, layers, layerTypes, textArch, textConfig, windowOf } from '../arch.ts';
import { createRope, wholeRopeSpec } from '../blocks/rope.ts';
import { preNormModel } from './preNorm.ts';

const config = textConfig.extend({
  num_key_value_heads: s.absent(s.count, 4),
  max_position_embeddings: s.or(s.count, 32768),
  tie_word_embeddings: s.or(s.boolean, true),
  /** One entry a layer: 0 means without position encoding. */
  no_rope_layers: s.optional(s.array(s.index)),
  no_rope_layer_interval: s.or(s.count, 4),
  use_sliding_window: s.or(s.boolean, false),
  sliding_window: s.optional(s.count),
});

/** SmolLM3: every fourth layer without position encoding; those layers are windowed where windows are used. */
export const smollm3 = textArch(
  config,
  (c) => {
    const rotates = c.no_rope_layers
      ? c.no_rope_layers.map((flag) => flag !== 0)
      : layers(c.num_hidden_layers, (i) => (i + 1) % c.no_rope_layer_interval !== 0);
    if (rotates.length < c.num_hidden_layers) {
      throw s.configError('no_rope_layers', `${c.num_hidden_layers} entries`, rotates.length);
    }
    const windowed = c.use_sliding_window && c.sliding_window !== undefined;
    const layer_types = layerTypes(c, (i) => (windowed && !rotates[i] ? 'sliding_attention' : 'full_attention'));
    return { ...c, rotates, layer_types, rope: createRope(wholeRopeSpec(c, 2e6), heads(c).headDim) };
  },
  (w, c) =>
    preNormModel(w, c, {
      rope: (layer) => (c.rotates[layer] ? c.rope : undefined),
      window: (layer) => windowOf(c, layer),
      qkvBias: c.attention_bias,
      outBias: c.attention_bias,
      mlpBias: c.mlp_bias,
    }),
);
