/** The back-ends that the conformance suite runs, each against the reference. */

import { createCpuBackend } from '../../src/backends/cpu/index.ts';
import { ReferenceBackend } from '../../src/backends/reference/index.ts';
import type { Backend } from '../../src/core/backend.ts';
import { openWebGpu } from '../webgpu/support.ts';

export interface Candidate {
  readonly name: string;
  /** Cases that end with `UnsupportedError`. */
  readonly refuses?: (detail: string) => boolean;
  /** A back-end, or the reason why there is none here. */
  create(): Promise<Backend | string>;
  /** Random runs of every case. */
  readonly runs: number;
  /** Normalised error allowed where an op is not bound by f32 rounding alone; `undefined`: the bound of the case. */
  readonly nmse?: (op: string, detail: string) => number | undefined;
}

const cpu = (name: string, runs: number, options: Parameters<typeof createCpuBackend>[0]): Candidate => ({
  name,
  runs,
  create: () => createCpuBackend(options),
  nmse: (op, detail) => {
    // Activations and 16-bit caches are rounded there.
    if (/linear/.test(op) && /Q|NF4|experts/.test(detail)) return 5e-4;
    if (op === 'linearExperts') return 5e-4;
    return op === 'attention' && detail.includes('f16') ? 1e-5 : undefined;
  },
});

export const candidates: readonly Candidate[] = [
  {
    name: 'composed',
    create: async () => new ReferenceBackend({ requiredOnly: true }),
    runs: 25,
    refuses: (detail) => detail.endsWith('q8_0'),
  },
  cpu('cpu', 25, { threads: 1 }),
  cpu('cpu with 3 threads', 12, { threads: 3 }),
  cpu('cpu without SIMD', 8, { simd: 'off' }),
  // Pipelines take long to compile on a processor: few runs.
  { name: 'webgpu', create: openWebGpu, runs: 6 },
];
