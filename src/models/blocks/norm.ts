import type { NormOptions } from '../../core/backend.ts';
import type { Weights } from '../../core/weights.ts';

export interface NormSpec {
  readonly width: number;
  readonly eps: number;
  /** The checkpoint stores the distance from one. */
  readonly plusOne?: boolean | undefined;
}

/** Root-mean-square norm with the cursor's `weight`. */
export function rmsNorm(w: Weights, { width, eps, plusOne }: NormSpec): NormOptions {
  return { kind: 'rms', eps, weight: w.tensor('weight', [width]), plusOne };
}

/** Norm of mean and variance with the cursor's `weight`, and its `bias` where it has one. */
export function layerNorm(w: Weights, { width, eps, plusOne }: NormSpec): NormOptions {
  const weight = w.tensor('weight', [width]);
  return { kind: 'layer', eps, weight, bias: w.optional('bias', [width]), plusOne };
}
