import type { Ops } from '../../core/backend.ts';
import { Weight } from '../../core/weight.ts';
import type { OpHost } from './host.ts';
import { createKernelOps } from './kernels/index.ts';
import type { LinearOps } from './linear/ops.ts';

/** All ops of the back-end. */
export function createOps(host: OpHost, linear: LinearOps): Ops {
  const kernelOps = createKernelOps(host);
  const ops: Partial<Ops> = {
    ...kernelOps,
    linear: (out, x, w, options) => linear.linear(out, x, w, options),
    linearExperts: (out, x, w, experts, count) => linear.experts(out, x, w, experts, count),
    gatherRows: (out, table, ids) => {
      if (table instanceof Weight) linear.gather(out, table, ids);
      else kernelOps.gatherRows!(out, table, ids);
    },
  };
  return ops as Ops;
}
