import type { OptionalOps, RequiredOps } from '../../../core/backend.ts';
import type { OpHost } from '../host.ts';
import type { Kernel } from '../kernel.ts';
import { attentionKernels, attentionOps } from './bind/attention.ts';
import { elementwiseOps } from './bind/elementwise.ts';
import { layoutKernels, layoutOps } from './bind/layout.ts';
import { normalizeKernels, normalizeOps } from './bind/normalize.ts';
import { recurrentKernels, recurrentOps } from './bind/recurrent.ts';
import { reduceKernels, reduceOps } from './bind/reduce.ts';
import { spatialKernels, spatialOps } from './bind/spatial.ts';
import { statisticsOps } from './bind/statistics.ts';
import { elementwiseKernels } from './elementwise.ts';
import { statisticsKernels } from './statistics.ts';

/** Every kernel that needs no weights. */
export const baseKernels: readonly Kernel[] = [
  ...elementwiseKernels,
  ...layoutKernels,
  ...reduceKernels,
  ...normalizeKernels,
  ...attentionKernels,
  ...recurrentKernels,
  ...spatialKernels,
  ...statisticsKernels,
];

/** The ops that need no weights: all but `linear`, `linearExperts` and `gatherRows` of a `Weight`. */
export type KernelOps = Partial<Omit<RequiredOps, 'linear'> & Omit<OptionalOps, 'linearExperts'>>;

/** Turns ops into commands; `OpHost` says how. Called once, when the back-end starts. */
export function createKernelOps(host: OpHost): KernelOps {
  return {
    ...elementwiseOps(host),
    ...layoutOps(host),
    ...reduceOps(host),
    ...normalizeOps(host),
    ...attentionOps(host),
    ...recurrentOps(host),
    ...spatialOps(host),
    ...statisticsOps(host),
  };
}
