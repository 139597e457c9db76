/** Pieces of WGSL that several kernels use. */
import type { Activation, BinaryKind, UnaryKind } from '../../core/backend.ts';

/** Lanes of a workgroup of the simple kernels. */
export const LANES = 64;

/** The number of the lane among all of a dispatch by `dispatchItems(…, LANES)`. */
export const ITEM = `let item = (wid.y * nwg.x + wid.x) * ${LANES}u + li;`;

/** Four bytes of a word as numbers from -128 to 127. */
export const SIGNED_BYTES = `
fn signed(w: u32) -> vec4<f32> { return vec4<f32>(bitcast<vec4<i32>>(vec4<u32>(w) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u)); }
`;

/**
 * Functions that WGSL lacks or leaves inexact. `erf`: Maclaurin series below 1, the complement by a Chebyshev fit (W. J.
 * Cody's intervals) above; `tanh` without overflow; sine and cosine with reduction by multiples of π/2 in three parts.
 */
export const FUNCTIONS = `
fn sigmoid(x: f32) -> f32 { return 1.0 / (1.0 + exp(-clamp(x, -88.0, 88.0))); }
fn tanh_exact(x: f32) -> f32 {
  let a = abs(x);
  if (a < 0.25) {
    let s = x * x;
    return x * (1.0 + s * (-0.3333333333 + s * (0.1333333333 + s * (-0.05396825397 + s * (0.02186948854 - s * 0.008863235530)))));
  }
  let e = exp(-2.0 * a);
  return sign(x) * (1.0 - e) / (1.0 + e);
}
fn erf(x: f32) -> f32 {
  let a = abs(x);
  if (a < 1.0) {
    let s = x * x;
    return x * (1.1283791671 + s * (-0.3761263890 + s * (0.1128379167 + s * (-0.02686617065 + s * (0.005223977625
      + s * (-0.0008548327023 + s * (0.0001205533299 + s * (-0.00001492565036 + s * (0.000001646211436 - s * 0.0000001636584469)))))))));
  }
  let t = 1.0 / (1.0 + 0.5 * a);
  let c = t * exp(-a * a - 1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806
    + t * (0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277)))))))));
  return sign(x) * (1.0 - c);
}
fn quarter_turn(x: f32) -> vec2<f32> {
  let n = round(x * 0.6366197723675814);
  var r = fma(n, -1.5703125, x);
  r = fma(n, -0.0004837512969970703, r);
  r = fma(n, -0.00000007549790126404332, r);
  return vec2<f32>(r, n);
}
fn sine_part(r: f32) -> f32 {
  let s = r * r;
  return r * (1.0 + s * (-0.16666666667 + s * (0.0083333333333 + s * (-0.00019841269841 + s * 0.0000027557319224))));
}
fn cosine_part(r: f32) -> f32 {
  let s = r * r;
  return 1.0 + s * (-0.5 + s * (0.041666666667 + s * (-0.0013888888889 + s * (0.000024801587302 - s * 0.00000027557319224))));
}
fn sin_exact(x: f32) -> f32 {
  let turn = quarter_turn(x);
  let q = i32(turn.y) & 3;
  let v = select(sine_part(turn.x), cosine_part(turn.x), (q & 1) == 1);
  return select(v, -v, (q & 2) == 2);
}
fn cos_exact(x: f32) -> f32 {
  let turn = quarter_turn(x);
  let q = (i32(turn.y) + 1) & 3;
  let v = select(sine_part(turn.x), cosine_part(turn.x), (q & 1) == 1);
  return select(v, -v, (q & 2) == 2);
}
`;

const ACTIVATIONS: Readonly<Record<Activation, string>> = {
  silu: 'x * sigmoid(x)',
  gelu: '0.5 * x * (1.0 + erf(x * 0.7071067811865476))',
  geluTanh: '0.5 * x * (1.0 + tanh_exact(0.7978845608028654 * (x + 0.044715 * x * x * x)))',
  geluQuick: 'x * sigmoid(1.702 * x)',
  relu: 'max(x, 0.0)',
  relu2: 'max(x, 0.0) * max(x, 0.0)',
};

/** Expressions of `x`, and of the numbers `p.a` and `p.b`. */
export const UNARY: Readonly<Record<UnaryKind, string>> = {
  ...ACTIVATIONS,
  neg: '-x',
  abs: 'abs(x)',
  square: 'x * x',
  sqrt: 'sqrt(x)',
  rsqrt: '1.0 / sqrt(x)',
  reciprocal: '1.0 / x',
  exp: 'exp(x)',
  log: 'log(x)',
  sin: 'sin_exact(x)',
  cos: 'cos_exact(x)',
  tanh: 'tanh_exact(x)',
  erf: 'erf(x)',
  sigmoid: 'sigmoid(x)',
  softplus: 'max(x, 0.0) + softplus_rest(exp(-abs(x)))',
  floor: 'floor(x)',
  round: 'round(x)',
  sign: 'sign(x)',
  affine: 'p.a * x + p.b',
  clamp: 'min(max(x, p.a), p.b)',
  softcap: 'p.a * tanh_exact(x / p.a)',
};

/** `log(1 + e)` for `e` in [0, 1], without the loss of small `e` in the sum. */
export const SOFTPLUS_REST = `
fn softplus_rest(e: f32) -> f32 {
  if (e < 0.01) { return e * (1.0 - e * (0.5 - e * (0.3333333333 - e * 0.25))); }
  return log(1.0 + e);
}
`;

/** Expressions of `x` and `y`. */
export const BINARY: Readonly<Record<BinaryKind, string>> = {
  add: 'x + y',
  sub: 'x - y',
  mul: 'x * y',
  div: 'x / y',
  max: 'max(x, y)',
  min: 'min(x, y)',
  pow: 'power(x, y)',
  less: 'select(0.0, 1.0, x < y)',
  equal: 'select(0.0, 1.0, x == y)',
};

/** Conversions by bits, since shaders may flush subnormal numbers: round to nearest, ties to even. */
export const CONVERSIONS = `
fn half_to_float(h: u32) -> f32 {
  let sign = (h & 0x8000u) << 16u;
  let exponent = (h >> 10u) & 31u;
  let fraction = h & 1023u;
  if (exponent == 31u) { return bitcast<f32>(sign | 0x7f800000u | (fraction << 13u)); }
  if (exponent == 0u) { return select(1.0, -1.0, sign != 0u) * f32(fraction) * 0.000000059604644775390625; }
  return bitcast<f32>(sign | ((exponent + 112u) << 23u) | (fraction << 13u));
}
fn float_to_half(v: f32) -> u32 {
  let w = bitcast<u32>(v);
  let sign = (w >> 16u) & 0x8000u;
  let a = w & 0x7fffffffu;
  if (a > 0x7f800000u) { return sign | 0x7e00u; }
  if (a >= 0x477ff000u) { return sign | 0x7c00u; }
  if (a >= 0x38800000u) {
    let kept = a - 0x38000000u;
    return sign | ((kept + 0xfffu + ((kept >> 13u) & 1u)) >> 13u);
  }
  if (a < 0x33000000u) { return sign; }
  let shift = 126u - (a >> 23u);
  let m = (a & 0x7fffffu) | 0x800000u;
  let low = m >> shift;
  let rest = m & ((1u << shift) - 1u);
  let half = 1u << (shift - 1u);
  return sign | (low + select(0u, 1u, rest > half || (rest == half && (low & 1u) == 1u)));
}
fn float_to_bf16(v: f32) -> u32 {
  let w = bitcast<u32>(v);
  if ((w & 0x7fffffffu) > 0x7f800000u) { return (w >> 16u) | 0x40u; }
  return (w + 0x7fffu + ((w >> 16u) & 1u)) >> 16u;
}
fn to_i32(v: f32) -> i32 {
  if (v >= 2147483648.0) { return 2147483647; }
  if (v < -2147483648.0) { return -2147483647 - 1; }
  return i32(v);
}
`;

/** The activation as a function of one number. */
export function activationFunction(kind: Activation): string {
  return `${FUNCTIONS}
fn activation(x: f32) -> f32 { return ${ACTIVATIONS[kind]}; }
`;
}
