/** How a layer joins its two mixers to the residual stream. */
import type { NormOptions } from '../../core/backend.ts';
import type { Layer, Mixer } from '../../core/model.ts';
import { addInto, norm, scaleInto } from '../../core/ops.ts';

export interface PreNormParts {
  readonly attnNorm: NormOptions;
  readonly attn: Mixer;
  readonly mlpNorm: NormOptions;
  readonly mlp: Mixer;
  /** Multiplies what is added to the stream. */
  readonly residualScale?: number | undefined;
}

/** `x += attn(norm(x)); x += mlp(norm(x))`. */
export function preNorm({ attnNorm, attn, mlpNorm, mlp, residualScale = 1 }: PreNormParts): Layer {
  if (residualScale !== 1) {
    return {
      mix: (x, s) => addInto(x, scaleInto(attn(norm(x, attnNorm), s), residualScale)),
      feed: (x, s) => addInto(x, scaleInto(mlp(norm(x, mlpNorm), s), residualScale)),
    };
  }
  return {
    mix: (x, s) => {
      attn(norm(x, attnNorm), s, x);
    },
    feed: (x, s) => {
      mlp(norm(x, mlpNorm), s, x);
    },
  };
}

export interface SandwichParts extends Omit<PreNormParts, 'residualScale'> {
  readonly attnPost: NormOptions;
  readonly mlpPost: NormOptions;
}

/** `x += norm(attn(norm(x))); x += norm(mlp(norm(x)))`. */
export function sandwich({ attnNorm, attn, attnPost, mlpNorm, mlp, mlpPost }: SandwichParts): Layer {
  return {
    mix: (x, s) => addInto(x, norm(attn(norm(x, attnNorm), s), attnPost)),
    feed: (x, s) => addInto(x, norm(mlp(norm(x, mlpNorm), s), mlpPost)),
  };
}
