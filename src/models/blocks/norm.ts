import type { NormOptions } from '../../core/backend.ts';
import type { Weights } from '../../core/weights.ts';

export interface RmsOptions {
  readonly width: number;
  readonly eps: number;
  /** The checkpoint stores the distance from one. */
  readonly plusOne?: boolean | undefined;
}

/** Layer norm with the cursor's `weight` and, unless told otherwise, `bias`. */
export function layerNorm(
  w: Weights,
  { width, eps, bias = true }: Omit<RmsOptions, 'plusOne'> & { bias?: boolean },
): NormOptions {
  const shape = [width] as const;
  return { kind: 'layer', eps, weight: w.tensor('weight', shape), bias: bias ? w.tensor('bias', shape) : undefined };
}

/** Root-mean-square norm with the cursor's `weight`. */
export function rmsNorm(w: Weights, { width, eps, plusOne }: RmsOptions): NormOptions {
  return { kind: 'rms', eps, weight: w.tensor('weight', [width]), plusOne };
}
