import * as s from '../../core/schema.ts';
import { heads, textArch, textConfig } from '../arch.ts';
import { createRope, ropeSpec } from '../blocks/rope.ts';
import { preNormModel } from './preNorm.ts';

const config = textConfig.extend({
  rms_norm_eps: s.or(s.positive, 1e-5),
  max_position_embeddings: s.or(s.count, 4096),
  original_max_position_embeddings: s.or(s.count, 4096),
  sliding_window: s.optional(s.count),
});

/** Phi 3 to Phi 4: fused projections, partial and long rotation, a window on every layer where one is given. */
export const phi3 = textArch(
  config,
  (c) => {
    const spec = ropeSpec(c);
    // The first long-context releases called their rotation by another kind's name.
    const kind = spec.kind === 'yarn' ? 'longrope' : spec.kind;
    if (kind !== 'default' && kind !== 'longrope') {
      throw s.configError(`${spec.path}.rope_type`, 'default | longrope', kind);
    }
    return { ...c, rope: createRope({ ...spec, kind }, heads(c).headDim) };
  },
  (w, c) =>
    preNormModel(w, c, {
      rope: () => c.rope,
      window: () => c.sliding_window,
      qkvBias: false,
      outBias: false,
      mlpBias: false,
    }),
);
