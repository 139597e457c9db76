/** Parts of the kernels that turn floats into integer codes. Both tricks save six instructions out of seven on x86. */
import type { Expr, V128 } from '../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { f32, f32x4, i8x16, i32x4, v128 } from '../wasm/ops.ts';

const SWAP_HALVES = [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7] as const;
const SWAP_NEIGHBOURS = [4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11] as const;

/** Magnitudes of floats as integers, which have the same order; NaN is above infinity, so that maxima keep it. */
export function magnitude(f: FunctionBuilder, x: V128): V128 {
  return v128.and(x, f.pooled.i32x4(0x7fffffff));
}

/** The largest of several magnitudes, by lane. */
export function largestOf(magnitudes: readonly V128[]): V128 {
  const rest = [...magnitudes];
  while (rest.length > 1) rest.push(i32x4.maxS(rest.shift()!, rest.shift()!));
  return rest[0]!;
}

/** The largest lane as a float. */
export function peakOf(largest: Local<'v128'>): Expr<'f32'> {
  for (const order of [SWAP_HALVES, SWAP_NEIGHBOURS]) {
    largest.set(i32x4.maxS(largest, i8x16.shuffle(largest, largest, order)));
  }
  return f32.reinterpretI32(i32x4.extractLane(largest, 0));
}

/** Around this number floats are whole numbers, and one step of their bits is 1. */
const WHOLE = 1.5 * 2 ** 23;

/**
 * `x · factor`, at most 2^22, to the nearest integer, ties to even. What NaN becomes depends on the engine: the scale of
 * its block is not a number either.
 */
export function toIntegers(f: FunctionBuilder, x: V128, factor: V128): V128 {
  const whole = f.pooled.f32x4(WHOLE);
  return i32x4.sub(f32x4.add(f32x4.mul(x, factor), whole), whole);
}

/** The same for one number in twins. */
export function toInteger(x: number, factor: number): number {
  return Math.fround(Math.fround(x * factor) + WHOLE) - WHOLE;
}
