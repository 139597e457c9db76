/**
 * Elementary functions on lanes. The polynomials are minimax fits made for this file (Lawson's reweighted least squares
 * in double precision); errors given are relative and include the rounding of f32 unless said otherwise.
 */
import { type Lanes, ROUNDER } from './lanes.ts';

const LOG2_E = Math.LOG2E;
/** `ln 2` in two parts, the first with few enough bits that its products with exponents are exact. */
const LN2_HIGH = 0.693359375;
const LN2_LOW = Math.LN2 - LN2_HIGH;
/** Below: the result is not a normal number any more. */
const EXP_LOWEST = -87.33654;
/** Above: the result is infinite. */
const EXP_HIGHEST = 88.72283;

/** `(eʳ - 1 - r) / r²` for `|r| ≤ ½ ln 2`, to 3e-9. */
const EXP = [0.4999999403953552, 0.1666652113199234, 0.04166838899254799, 0.00836874544620514, 0.0013814540579915047];
/** `(tanh x - x) / x³` in `x²`, for `|x| ≤ 0.625`, to 4e-9. */
const TANH = [
  -0.3333328068256378, 0.13331441581249237, -0.05373971536755562, 0.0206390880048275, -0.005704986862838268,
];
/** `erf x / x` in `x²`, for `|x| ≤ 1`, to 4e-8. */
const ERF = [
  1.1283791065216064, -0.37612324953079224, 0.11280179768800735, -0.02671131119132042, 0.004917551297694445,
  -0.0005631422391161323,
];
/** `erfc a · exp a²` in `1 / (1 + 0.3 a)`, for `0 ≤ a ≤ 10`, to 2e-8. */
const ERFC_SLOPE = 0.3;
const ERFC = [
  -1.585593599884305e-5, 0.16947424411773682, 0.1684872806072235, 0.1581568568944931, 0.18791212141513824,
  -0.04646698385477066, 0.4919376075267792, -0.471803218126297, 0.4688372015953064, -0.12651927769184113,
];
/** `(ln(1 + f) - f + f²/2) / f³` for `√½ ≤ 1 + f ≤ √2`, to 6e-9 of the logarithm. */
const LOG = [
  0.3333333134651184, -0.2500081956386566, 0.20001226663589478, -0.16623356938362122, 0.14201757311820984,
  -0.13160182535648346, 0.1276157796382904, -0.07634497433900833,
];
/** `(sin x - x) / x³` in `x²`, for `|x| ≤ π/4`, to 4e-9. */
const SIN = [-0.16666655242443085, 0.008332155644893646, -0.0001951463200384751];
/** `(cos x - 1 + x²/2) / x⁴` in `x²`, for `|x| ≤ π/4`, to 1e-10. */
const COS = [0.04166664555668831, -0.0013887309469282627, 2.4432425561826676e-5];

/** `Σ coefficients[i] xⁱ`; `x` is used several times. */
function polynomial<V, M>(m: Lanes<V, M>, x: V, coefficients: readonly number[]): V {
  let sum = m.const(coefficients[coefficients.length - 1]!);
  for (let i = coefficients.length - 2; i >= 0; i--) sum = m.madd(sum, x, m.const(coefficients[i]!));
  return sum;
}

/** `eˣ` between `EXP_LOWEST` and `EXP_HIGHEST`, to 1e-7. */
function expInRange<V, M>(m: Lanes<V, M>, x: V): V {
  const carrier = m.let(m.madd(x, m.const(LOG2_E), m.const(ROUNDER)));
  const n = m.let(m.sub(carrier, m.const(ROUNDER)));
  const r = m.let(m.madd(n, m.const(-LN2_LOW), m.madd(n, m.const(-LN2_HIGH), x)));
  const q = polynomial(m, r, EXP);
  return m.addExponent(m.add(m.madd(q, m.mul(r, r), r), m.const(1)), carrier);
}

/** `eˣ`, to 1e-7; results that are not normal numbers become 0. */
export function exp<V, M>(m: Lanes<V, M>, x: V): V {
  const inside = m.let(m.min(m.max(x, m.const(EXP_LOWEST)), m.const(EXP_HIGHEST)));
  const y = m.select(m.lt(m.const(EXP_HIGHEST), x), m.const(Infinity), expInRange(m, inside));
  return m.select(m.lt(x, m.const(EXP_LOWEST)), m.const(0), y);
}

/** `eˣ` for `x ≤ 0` (minus infinity gives 0): cheaper. */
export function expNegative<V, M>(m: Lanes<V, M>, x: V): V {
  const lowest = m.const(EXP_LOWEST);
  return m.keep(m.lt(lowest, x), expInRange(m, m.let(m.max(x, lowest))));
}

/** `eˣ` limited to normal numbers: for denominators. */
function expClamped<V, M>(m: Lanes<V, M>, x: V): V {
  return expInRange(m, m.let(m.min(m.max(x, m.const(EXP_LOWEST)), m.const(88))));
}

/** `x / (1 + e^(-slope x))` */
export function swish<V, M>(m: Lanes<V, M>, x: V, slope: V | undefined): V {
  return m.div(x, m.add(m.const(1), expClamped(m, m.neg(slope === undefined ? x : m.mul(slope, x)))));
}

export function sigmoid<V, M>(m: Lanes<V, M>, x: V): V {
  return m.div(m.const(1), m.add(m.const(1), expClamped(m, m.neg(x))));
}

export function tanh<V, M>(m: Lanes<V, M>, x: V): V {
  const x2 = m.let(m.mul(x, x));
  const small = m.madd(m.mul(polynomial(m, x2, TANH), x2), x, x);
  const a = m.let(m.abs(x));
  const e = expClamped(m, m.add(a, a));
  const large = m.let(m.sub(m.const(1), m.div(m.const(2), m.add(e, m.const(1)))));
  const signed = m.select(m.lt(x, m.const(0)), m.neg(large), large);
  return m.select(m.lt(a, m.const(0.625)), small, signed);
}

/** `erfc a` for `a ≥ 0`. */
function erfc<V, M>(m: Lanes<V, M>, a: V): V {
  const t = m.let(m.div(m.const(1), m.madd(a, m.const(ERFC_SLOPE), m.const(1))));
  return m.mul(expNegative(m, m.let(m.neg(m.mul(a, a)))), polynomial(m, t, ERFC));
}

export function erf<V, M>(m: Lanes<V, M>, x: V): V {
  const x2 = m.let(m.mul(x, x));
  const small = m.mul(polynomial(m, x2, ERF), x);
  const a = m.let(m.abs(x));
  const large = m.let(m.sub(m.const(1), erfc(m, a)));
  const signed = m.select(m.lt(x, m.const(0)), m.neg(large), large);
  return m.select(m.lt(a, m.const(1)), small, signed);
}

/** `x Φ(x)` with the normal distribution function: accurate on both tails. */
export function gelu<V, M>(m: Lanes<V, M>, x: V): V {
  const tail = m.mul(m.const(0.5), erfc(m, m.let(m.mul(m.abs(x), m.const(Math.SQRT1_2)))));
  const part = m.let(m.mul(x, tail));
  return m.select(m.lt(x, m.const(0)), part, m.sub(x, part));
}

/** `½ x (1 + tanh u) = x / (1 + e^(-2u))` with `u = √(2/π) (x + 0.044715 x³)`. */
export function geluTanh<V, M>(m: Lanes<V, M>, x: V): V {
  const scale = -2 * Math.sqrt(2 / Math.PI);
  const u = m.mul(x, m.madd(m.mul(x, x), m.const(0.044715 * scale), m.const(scale)));
  return m.div(x, m.add(m.const(1), expClamped(m, m.let(u))));
}

export function log<V, M>(m: Lanes<V, M>, x: V): V {
  const { mantissa, exponent } = m.splitExponent(x);
  const f = m.let(m.sub(mantissa, m.const(1)));
  const n = m.let(exponent);
  const f2 = m.let(m.mul(f, f));
  const tail = m.madd(m.mul(polynomial(m, f, LOG), f2), f, m.mul(n, m.const(LN2_LOW)));
  const near = m.add(m.madd(f2, m.const(-0.5), tail), f);
  const finite = m.madd(n, m.const(LN2_HIGH), near);
  const y = m.select(m.eq(x, m.const(0)), m.const(-Infinity), m.select(m.eq(x, m.const(Infinity)), x, finite));
  // NaN and negative numbers: neither below nor equal to zero from above.
  return m.select(m.lt(x, m.const(0)), m.const(Number.NaN), m.select(m.eq(x, x), y, x));
}

/** `ln(1 + eˣ) = max(x, 0) + ln(1 + e^-|x|)`; the quotient restores what `1 + u` rounds away. */
export function softplus<V, M>(m: Lanes<V, M>, x: V): V {
  const u = m.let(expNegative(m, m.let(m.neg(m.abs(x)))));
  const w = m.let(m.add(m.const(1), u));
  const gained = m.let(m.sub(w, m.const(1)));
  const isOne = m.eq(gained, m.const(0));
  const quotient = m.div(u, m.select(isOne, m.const(1), gained));
  const tail = m.select(isOne, u, m.mul(log(m, w), quotient));
  return m.add(m.max(x, m.const(0)), tail);
}

/** Sine, or cosine with `shift` 1: the quarter turn decides which polynomial and sign. */
export function sine<V, M>(m: Lanes<V, M>, x: V, shift: 0 | 1): V {
  const { quarter, rest } = m.quarterTurns(x);
  const r = m.let(rest);
  const r2 = m.let(m.mul(r, r));
  const sin = m.madd(m.mul(polynomial(m, r2, SIN), r2), r, r);
  const cos = m.add(m.madd(m.mul(polynomial(m, r2, COS), r2), r2, m.mul(r2, m.const(-0.5))), m.const(1));
  const turn = m.let(shift ? m.add(quarter, m.const(1)) : quarter);
  // `turn mod 4` is 0, 1, 2 or 3: odd ones take the cosine, the last two are negative.
  const phase = m.let(m.sub(turn, m.mul(m.const(4), m.floor(m.mul(turn, m.const(0.25))))));
  const isSine = m.eq(m.sub(phase, m.mul(m.const(2), m.floor(m.mul(phase, m.const(0.5))))), m.const(0));
  const y = m.let(m.select(isSine, sin, cos));
  return m.select(m.lt(m.const(1.5), phase), m.neg(y), y);
}

/** `xʸ = e^(y ln|x|)`, negative for odd `y` and negative `x`; NaN for negative `x` and broken `y`. */
export function pow<V, M>(m: Lanes<V, M>, x: V, y: V): V {
  const magnitude = m.let(exp(m, m.let(m.mul(y, log(m, m.let(m.abs(x)))))));
  const half = m.let(m.mul(y, m.const(0.5)));
  const signed = m.select(m.eq(m.floor(half), half), magnitude, m.neg(magnitude));
  const negative = m.select(m.eq(m.floor(y), y), signed, m.const(Number.NaN));
  const power = m.select(m.lt(x, m.const(0)), negative, magnitude);
  return m.select(m.eq(y, m.const(0)), m.const(1), power);
}
