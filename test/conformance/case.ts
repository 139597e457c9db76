import fc from 'fast-check';
import type { Tensor } from '../../src/core/tensor.ts';
import type { Environment, WeightSpec } from './environment.ts';

/** One op under random shapes and options. */
export interface Case<P = unknown> {
  readonly op: string;
  /** Distinguishes cases of one op. */
  readonly detail: string;
  readonly params: fc.Arbitrary<P>;
  /** Matrices loaded before the run. */
  readonly weights: (p: P) => readonly WeightSpec[];
  /** Runs inside a scope and returns what to compare. */
  readonly run: (e: Environment, p: P) => readonly Tensor[];
  /** Largest normalised error against the reference; 0 means equal bits. */
  readonly nmse: number;
}

/** Rounding of single-precision arithmetic over a few hundred terms. */
const F32_NMSE = 1e-11;

export function define<P>(
  op: string,
  detail: string,
  params: fc.Arbitrary<P>,
  run: (e: Environment, p: P) => Tensor | readonly Tensor[],
  options: { readonly nmse?: number; readonly weights?: (p: P) => readonly WeightSpec[] } = {},
): Case {
  const c: Case<P> = {
    op,
    detail,
    params,
    run: (e, p) => {
      const got = run(e, p);
      return Array.isArray(got) ? (got as readonly Tensor[]) : [got as Tensor];
    },
    weights: options.weights ?? (() => []),
    nmse: options.nmse ?? F32_NMSE,
  };
  return c as unknown as Case;
}

/** Sizes that meet every tail of a vector loop. */
export const width = fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 21, max: 200 }));
export const rows = fc.integer({ min: 0, max: 9 });
export const some = fc.integer({ min: 1, max: 7 });
export const shape = fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 5 });
