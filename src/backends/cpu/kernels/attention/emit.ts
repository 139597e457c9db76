/** Pieces of code that the kernels of attention share. */
import type { Expr, V128 } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../../wasm/function.ts';
import { f32, f32x4, i8x16, i16x8, i32, i32x4, v128 } from '../../wasm/ops.ts';
import type { VectorLanes } from '../lanes.ts';
import { expNegative } from '../math.ts';
import { BYTE_GROUP, BYTE_GROUP_SHIFT, type CacheKind, CHUNK, SCALE_BYTES, stepBytesOf } from './layout.ts';

/** The most negative number: a maximum that is still finite. */
export const LOWEST = -3.4028234663852886e38;

export function segmentsOf(chunks: Expr<'i32'>, segmentChunks: Local<'i32'>): Expr<'i32'> {
  return i32.divU(i32.sub(i32.add(chunks, segmentChunks), 1), segmentChunks);
}

/** Two maxima become one; what belongs to the first is multiplied by `old`, what belongs to the second by `fresh`. */
export function emitFold(f: FunctionBuilder, m: VectorLanes, total: V128, segment: V128) {
  const before = f.v128('before', total);
  const top = f.v128('top', segment);
  const now = f.v128('now', m.max(before, top));
  const old = f.v128('old', expNegative(m, f.v128('d', m.sub(before, now))));
  const fresh = f.v128('fresh', expNegative(m, f.v128('d', m.sub(top, now))));
  return { now, old, fresh };
}

/** `1 / unit` in all lanes, 0 for 0. */
export function inverseOf(unit: Local<'f32'>): V128 {
  return f32x4.splat(f32.select(f32.gt(unit, 0), f32.div(1, unit), 0));
}

/** Four floats of magnitude below 32768 to integers: pairs in the two low words. */
export function toI16(m: VectorLanes, x: V128): V128 {
  const whole = i32x4.truncSatF32x4S(m.nearest(x));
  return i16x8.narrowI32x4S(whole, v128.zero());
}

/** Four floats of magnitude below 128 to integers: bytes in the low word. */
export function toI8(m: VectorLanes, x: V128): V128 {
  const pairs = toI16(m, x);
  return i8x16.narrowI16x8S(pairs, pairs);
}

/** `share = e^(own - top) / (total e^(own - top) + e^(sink - top))` with the larger of both maxima as `top`. */
export function emitSinkShare(
  f: FunctionBuilder,
  m: VectorLanes,
  own: Local<'v128'>,
  sink: Local<'v128'>,
  total: Local<'v128'>,
  share: Local<'v128'>,
): void {
  const top = f.v128('top', m.max(own, sink));
  const scaled = f.v128('scaled', expNegative(m, f.v128('d', m.sub(own, top))));
  const extra = f.v128('extra', expNegative(m, f.v128('d', m.sub(sink, top))));
  share.set(m.div(scaled, m.madd(total, scaled, extra)));
}

/** Bytes of the keys of a chunk, and of their scales. */
export function keyBytesOf(kind: CacheKind, keySteps: Local<'i32'>): Expr<'i32'> {
  return i32.mul(keySteps, 2 * stepBytesOf(kind));
}

export function keyScaleBytes(kind: CacheKind, keySteps: Local<'i32'>): Expr<'i32'> {
  if (kind !== 'i8') return i32.const(kind === 'i16' ? SCALE_BYTES : 0);
  const groups = i32.shrU(i32.add(keySteps, BYTE_GROUP / 2 - 1), BYTE_GROUP_SHIFT - 1);
  return i32.mul(groups, SCALE_BYTES);
}

/** Bytes of the values of a chunk in 16 dimensions. */
export function groupBytesOf(kind: CacheKind): number {
  return (kind === 'f32' ? CHUNK : CHUNK / 2) * stepBytesOf(kind);
}
