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

export type PostNormParts = Omit<SandwichParts, 'attnNorm' | 'mlpNorm'>;

/** `x += norm(attn(x)); x += norm(mlp(x))`. */
export function postNorm({ attn, attnPost, mlp, mlpPost }: PostNormParts): Layer {
  return {
    mix: (x, s) => addInto(x, norm(attn(x, s), attnPost)),
    feed: (x, s) => addInto(x, norm(mlp(x, s), mlpPost)),
  };
}

export interface ParallelParts {
  readonly attnNorm: NormOptions;
  readonly attn: Mixer;
  /** The one norm serves both when absent. */
  readonly mlpNorm?: NormOptions | undefined;
  readonly mlp: Mixer;
}

/** `x += attn(norm(x)) + mlp(norm(x))`: the MLP reads the stream as it was before attention. */
export function parallel({ attnNorm, attn, mlpNorm, mlp }: ParallelParts): Layer {
  return {
    before: (x) => norm(x, mlpNorm ?? attnNorm),
    mix(x, s, before) {
      attn(mlpNorm ? norm(x, attnNorm) : before!, s, x);
    },
    feed(x, s, _side, before) {
      mlp(before!, s, x);
    },
  };
}
