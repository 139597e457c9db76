import type { Ops, RawWeight, WeightData } from '../../core/backend.ts';
import { attentionOps } from './attention/index.ts';
import type { OpHost } from './host.ts';
import { elementwiseOps } from './ops/elementwise.ts';
import { layoutOps } from './ops/layout.ts';
import { linearOps } from './ops/linear.ts';
import { normalizeOps } from './ops/normalize.ts';
import { reduceOps } from './ops/reduce.ts';
import { spatialOps } from './ops/spatial.ts';
import { statisticsOps } from './ops/statistics.ts';
import { convOps } from './recurrent/conv.ts';
import { scanOps } from './recurrent/scan.ts';

/** Every op of the back-end, and the loader of the weights that they take. */
export function createOps(host: OpHost): {
  readonly ops: Ops;
  readonly loadWeight: (raw: RawWeight) => Promise<WeightData>;
} {
  const linear = linearOps(host);
  return {
    ops: {
      ...elementwiseOps(host),
      ...layoutOps(host, linear.gatherWeight),
      ...reduceOps(host),
      ...spatialOps(host),
      ...normalizeOps(host),
      ...attentionOps(host),
      ...convOps(host),
      ...scanOps(host),
      ...statisticsOps(host),
      ...linear.ops,
    } as unknown as Ops,
    loadWeight: linear.loadWeight,
  };
}
