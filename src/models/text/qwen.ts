import * as s from '../../core/schema.ts';
import { heads, layerTypes, textArch, textConfig, windowOf } from '../arch.ts';
import { createRope, wholeRopeSpec } from '../blocks/rope.ts';
import { preNormModel } from './preNorm.ts';

const qwenConfig = textConfig.extend({
  max_position_embeddings: s.or(s.count, 32768),
  use_sliding_window: s.or(s.boolean, false),
  sliding_window: s.absent(s.count, 4096),
  max_window_layers: s.or(s.index, 28),
});

/** Layers from `max_window_layers` on are windowed, if windows are used at all and the file does not list the layers. */
function derive(c: s.Infer<typeof qwenConfig>) {
  const sliding_window = c.use_sliding_window ? c.sliding_window : undefined;
  const layer_types = layerTypes(c, (layer) =>
    sliding_window !== undefined && layer >= c.max_window_layers ? 'sliding_attention' : 'full_attention',
  );
  return { ...c, sliding_window, layer_types, rope: createRope(wholeRopeSpec(c), heads(c).headDim) };
}

/** Qwen 2 and 2.5: biases on queries, keys and values. */
export const qwen2 = textArch(qwenConfig, derive, (w, c) =>
  preNormModel(w, c, {
    rope: () => c.rope,
    window: (layer) => windowOf(c, layer),
    qkvBias: true,
    outBias: false,
    mlpBias: false,
  }),
);

/** Qwen 3: an RMS norm on each query and key head. */
export const qwen3 = textArch(qwenConfig.extend({ head_dim: s.or(s.count, 128) }), derive, (w, c) =>
  preNormModel(w, c, {
    rope: () => c.rope,
    window: (layer) => windowOf(c, layer),
    headNorms: true,
    qkvBias: c.attention_bias,
    outBias: c.attention_bias,
    mlpBias: false,
  }),
);
