import type { TypedArray } from '../../src/core/dtype.ts';

/** `Σ (got - want)² / Σ want²`; infinite when the special values differ. */
export function nmse(got: TypedArray, want: TypedArray): number {
  if (got.length !== want.length) return Infinity;
  let error = 0;
  let power = 0;
  for (let i = 0; i < want.length; i++) {
    const g = got[i] as number;
    const w = want[i] as number;
    if (Number.isFinite(w) && Number.isFinite(g)) {
      error += (g - w) ** 2;
      power += w * w;
    } else if (!Object.is(g, w)) {
      return Infinity;
    }
  }
  return error === 0 ? 0 : error / Math.max(power, 1e-30);
}
