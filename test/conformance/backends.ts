/** The back-ends that the conformance suite runs, each against the reference. */

import { ReferenceBackend } from '../../src/backends/reference/index.ts';
import type { Backend } from '../../src/core/backend.ts';

export interface Candidate {
  readonly name: string;
  /** A back-end, or the reason why there is none here. */
  create(): Promise<Backend | string>;
  /** Normalised error allowed where an op is not bound by f32 rounding alone; `undefined`: the bound of the case. */
  readonly nmse?: (op: string, detail: string) => number | undefined;
}

export const candidates: readonly Candidate[] = [
  { name: 'composed', create: async () => new ReferenceBackend({ requiredOnly: true }) },
];
