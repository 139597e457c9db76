/**
 * Arithmetic that is written once and used twice: on vectors of four floats when a kernel is emitted, and on single
 * numbers, rounded to f32 after every operation, in its twin. What both compute is the same bit for bit without fused
 * multiply-add.
 */
import type { KernelContext } from '../kernel.ts';
import type { Expr, V128 } from '../wasm/expr.ts';
import type { FunctionBuilder } from '../wasm/function.ts';
import { f32x4, f64x2, i8x16, i32x4, v128 } from '../wasm/ops.ts';

/** `V` is a value, `M` the result of a comparison. */
export interface Lanes<V = unknown, M = unknown> {
  const(value: number): V;
  /** Computes a value once that is used several times. */
  let(value: V): V;
  add(a: V, b: V): V;
  sub(a: V, b: V): V;
  mul(a: V, b: V): V;
  div(a: V, b: V): V;
  /** `a * b + c`; fused in relaxed variants. */
  madd(a: V, b: V, c: V): V;
  neg(a: V): V;
  abs(a: V): V;
  sqrt(a: V): V;
  floor(a: V): V;
  /** To the nearest integer, halves to the even one. */
  nearest(a: V): V;
  /** `b < a ? b : a`: one instruction, keeps a NaN in `a` only. */
  min(a: V, b: V): V;
  /** `a < b ? b : a`. */
  max(a: V, b: V): V;
  /** NaN when either is. */
  minimum(a: V, b: V): V;
  maximum(a: V, b: V): V;
  lt(a: V, b: V): M;
  eq(a: V, b: V): M;
  select(mask: M, yes: V, no: V): V;
  /** `mask ? value : 0` */
  keep(mask: M, value: V): V;
  /** `value * 2^n` for `carrier = ROUNDER + n`; value and result are normal numbers. */
  addExponent(value: V, carrier: V): V;
  /** `x = mantissa * 2^exponent` with the mantissa between √½ and √2, for normal `x > 0`. */
  splitExponent(x: V): { readonly mantissa: V; readonly exponent: V };
  /** `x = quarter * π/2 + rest` with `|rest| ≤ π/4`, reduced in double precision. */
  quarterTurns(x: V): { readonly quarter: V; readonly rest: V };
}

export type VectorLanes = Lanes<V128, V128>;
export type ScalarLanes = Lanes<number, boolean>;

/** Adding this number rounds a small float to an integer, which then stands in the low bits: 1.5 · 2²³. */
export const ROUNDER = 12582912;
/** Bits of √½: where mantissas are split. */
const ROOT_HALF = 0x3f3504f3;
const TWO_OVER_PI = 2 / Math.PI;
const HALF_PI = Math.PI / 2;

export function vectorLanes(f: FunctionBuilder, ctx: KernelContext): VectorLanes {
  const { pooled } = f;
  const let_ = (value: V128) => f.v128('t', value);
  const highHalf = (x: V128) => i8x16.shuffle(x, x, [8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15]);
  return {
    const: (value) => pooled.f32x4(value),
    let: let_,
    madd: ctx.madd,
    add: f32x4.add,
    sub: f32x4.sub,
    mul: f32x4.mul,
    div: f32x4.div,
    neg: f32x4.neg,
    abs: f32x4.abs,
    sqrt: f32x4.sqrt,
    floor: f32x4.floor,
    nearest: f32x4.nearest,
    min: f32x4.pmin,
    max: f32x4.pmax,
    minimum: f32x4.min,
    maximum: f32x4.max,
    lt: f32x4.lt,
    eq: f32x4.eq,
    select: (mask, yes, no) => v128.bitselect(yes, no, mask),
    keep: (mask, value) => v128.and(value, mask),
    addExponent: (value, carrier) => i32x4.add(value, i32x4.shl(carrier, 23)),
    splitExponent(x) {
      const bits = let_(i32x4.sub(x, pooled.i32x4(ROOT_HALF)));
      const exponent = let_(i32x4.shrS(bits, 23));
      return { mantissa: i32x4.sub(x, i32x4.shl(exponent, 23)), exponent: f32x4.convertI32x4S(exponent) };
    },
    quarterTurns(x) {
      const half = (part: Expr<'v128'>) => {
        const wide = let_(f64x2.promoteLowF32x4(part));
        const quarter = let_(f64x2.nearest(f64x2.mul(wide, f64x2.splat(TWO_OVER_PI))));
        return {
          quarter: f32x4.demoteF64x2Zero(quarter),
          rest: f32x4.demoteF64x2Zero(f64x2.sub(wide, f64x2.mul(quarter, f64x2.splat(HALF_PI)))),
        };
      };
      const low = half(x);
      const high = half(highHalf(x));
      const join = (a: V128, b: V128) =>
        let_(i8x16.shuffle(a, b, [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23]));
      return { quarter: join(low.quarter, high.quarter), rest: join(low.rest, high.rest) };
    },
  };
}

const { fround } = Math;
const float = new Float32Array(1);
const bitsOf = new Int32Array(float.buffer);

function withBits(change: (bits: number) => number, x: number): number {
  float[0] = x;
  bitsOf[0] = change(bitsOf[0]!);
  return float[0]!;
}

export const scalarLanes: ScalarLanes = {
  const: fround,
  let: (value) => value,
  madd: (a, b, c) => fround(fround(a * b) + c),
  add: (a, b) => fround(a + b),
  sub: (a, b) => fround(a - b),
  mul: (a, b) => fround(a * b),
  div: (a, b) => fround(a / b),
  neg: (a) => -a,
  abs: Math.abs,
  sqrt: (a) => fround(Math.sqrt(a)),
  floor: Math.floor,
  nearest: roundEven,
  // biome-ignore lint/complexity/useMathMinMax: the instruction treats NaN and zeros like this comparison.
  min: (a, b) => (b < a ? b : a),
  // biome-ignore lint/complexity/useMathMinMax: see above.
  max: (a, b) => (a < b ? b : a),
  minimum: Math.min,
  maximum: Math.max,
  lt: (a, b) => a < b,
  eq: (a, b) => a === b,
  select: (mask, yes, no) => (mask ? yes : no),
  keep: (mask, value) => (mask ? value : 0),
  addExponent(value, carrier) {
    float[0] = carrier;
    const shifted = bitsOf[0]! << 23;
    return withBits((bits) => bits + shifted, value);
  },
  splitExponent(x) {
    float[0] = x;
    const exponent = (bitsOf[0]! - ROOT_HALF) >> 23;
    return { mantissa: withBits((bits) => bits - (exponent << 23), x), exponent };
  },
  quarterTurns(x) {
    const quarter = roundEven(x * TWO_OVER_PI);
    return { quarter: fround(quarter), rest: fround(x - quarter * HALF_PI) };
  },
};

/** Nearest integer, halves to the even one; keeps the sign of zero, as the instruction does. */
export function roundEven(x: number): number {
  const rest = Math.abs(x % 1);
  if (rest === 0) return x;
  const toward = Math.trunc(x);
  if (rest < 0.5 || (rest === 0.5 && toward % 2 === 0)) return toward;
  return toward + Math.sign(x);
}
