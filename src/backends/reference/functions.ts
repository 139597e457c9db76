/** Scalar functions in double precision. */
import type { BinaryKind, UnaryKind } from '../../core/backend.ts';

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

/**
 * Error function to about 1e-16: the series of `e^(-x²) Σ 2ⁿ x^(2n+1) / (1·3·5…(2n+1))` (all terms of one sign) for small
 * `x`, the continued fraction of the complement beyond.
 */
export function erf(x: number): number {
  const a = Math.abs(x);
  if (!(a < 6)) return Number.isNaN(a) ? a : Math.sign(x);
  if (a < 3) {
    let term = x;
    let sum = x;
    for (let n = 1; Math.abs(term) > 1e-18 * Math.abs(sum); n++) {
      term *= (2 * x * x) / (2 * n + 1);
      sum += term;
    }
    return ((2 * Math.exp(-x * x)) / Math.sqrt(Math.PI)) * sum;
  }
  let tail = 0;
  for (let n = 60; n >= 1; n--) tail = n / 2 / (a + tail);
  return Math.sign(x) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + tail));
}

/** Nearest integer, halves to the even one; keeps the sign of zero. */
function roundEven(x: number): number {
  const rest = Math.abs(x % 1);
  if (rest === 0) return x;
  const toward = Math.trunc(x);
  return rest < 0.5 || (rest === 0.5 && toward % 2 === 0) ? toward : toward + Math.sign(x);
}

/** `a`, `b` are the parameters of the last three. */
export const UNARY: Readonly<Record<UnaryKind, (x: number, a: number, b: number) => number>> = {
  neg: (x) => -x,
  abs: Math.abs,
  square: (x) => x * x,
  sqrt: Math.sqrt,
  rsqrt: (x) => 1 / Math.sqrt(x),
  reciprocal: (x) => 1 / x,
  exp: Math.exp,
  log: Math.log,
  sin: Math.sin,
  cos: Math.cos,
  tanh: Math.tanh,
  erf,
  sigmoid,
  softplus: (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))),
  floor: Math.floor,
  round: roundEven,
  sign: Math.sign,
  silu: (x) => x * sigmoid(x),
  gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  geluTanh: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  geluQuick: (x) => x * sigmoid(1.702 * x),
  relu: (x) => Math.max(x, 0),
  relu2: (x) => Math.max(x, 0) ** 2,
  affine: (x, a, b) => a * x + b,
  clamp: (x, a, b) => Math.min(Math.max(x, a), b),
  softcap: (x, a) => a * Math.tanh(x / a),
};

export const BINARY: Readonly<Record<BinaryKind, (x: number, y: number) => number>> = {
  add: (x, y) => x + y,
  sub: (x, y) => x - y,
  mul: (x, y) => x * y,
  div: (x, y) => x / y,
  max: Math.max,
  min: Math.min,
  pow: (x, y) => x ** y,
  less: (x, y) => (x < y ? 1 : 0),
  equal: (x, y) => (x === y ? 1 : 0),
};
