import * as s from '../../core/schema.ts';
import { heads, textArch, textConfig } from '../arch.ts';
import { createRope, wholeRopeSpec } from '../blocks/rope.ts';
import { preNormModel } from './preNorm.ts';

/** Llama 1 to 3 and the many models in its format. */
export const llama = textArch(
  textConfig,
  (c) => ({ ...c, rope: createRope(wholeRopeSpec(c), heads(c).headDim) }),
  (w, c) =>
    preNormModel(w, c, {
      rope: () => c.rope,
      qkvBias: c.attention_bias,
      outBias: c.attention_bias,
      mlpBias: c.mlp_bias,
    }),
);

/** Mistral: Llama with a sliding window on every layer, unless it is switched off, and never a bias. */
export const mistral = textArch(
  textConfig.extend({
    num_key_value_heads: s.absent(s.count, 8),
    max_position_embeddings: s.or(s.count, 131072),
    sliding_window: s.absent(s.count, 4096),
  }),
  (c) => ({ ...c, rope: createRope(wholeRopeSpec(c), heads(c).headDim) }),
  (w, c) =>
    preNormModel(w, c, {
      rope: () => c.rope,
      window: () => c.sliding_window,
      qkvBias: false,
      outBias: false,
      mlpBias: false,
    }),
);
