import type { BinaryKind, UnaryKind } from '../../../core/backend.ts';
import type { Lanes } from './lanes.ts';
import * as math from './math.ts';

type Unary = <V, M>(m: Lanes<V, M>, x: V, a: V, b: V) => V;
type Binary = <V, M>(m: Lanes<V, M>, x: V, y: V) => V;

/** Elementwise functions on lanes. Arguments are locals: they may be used several times. */
export const UNARY: Readonly<Record<UnaryKind, Unary>> = {
  neg: (m, x) => m.neg(x),
  abs: (m, x) => m.abs(x),
  square: (m, x) => m.mul(x, x),
  sqrt: (m, x) => m.sqrt(x),
  rsqrt: (m, x) => m.div(m.const(1), m.sqrt(x)),
  reciprocal: (m, x) => m.div(m.const(1), x),
  exp: math.exp,
  log: math.log,
  sin: (m, x) => math.sine(m, x, 0),
  cos: (m, x) => math.sine(m, x, 1),
  tanh: math.tanh,
  erf: math.erf,
  sigmoid: math.sigmoid,
  softplus: math.softplus,
  floor: (m, x) => m.floor(x),
  round: (m, x) => m.nearest(x),
  sign: (m, x) => m.select(m.lt(x, m.const(0)), m.const(-1), m.select(m.lt(m.const(0), x), m.const(1), x)),
  silu: (m, x) => math.swish(m, x, undefined),
  gelu: math.gelu,
  geluTanh: math.geluTanh,
  geluQuick: (m, x) => math.swish(m, x, m.const(1.702)),
  relu: (m, x) => m.max(x, m.const(0)),
  relu2: (m, x) => {
    const y = m.let(m.max(x, m.const(0)));
    return m.mul(y, y);
  },
  affine: (m, x, a, b) => m.madd(x, a, b),
  clamp: (m, x, a, b) => m.min(m.max(x, a), b),
  softcap: (m, x, a) => m.mul(a, math.tanh(m, m.let(m.div(x, a)))),
};

export const BINARY: Readonly<Record<BinaryKind, Binary>> = {
  add: (m, x, y) => m.add(x, y),
  sub: (m, x, y) => m.sub(x, y),
  mul: (m, x, y) => m.mul(x, y),
  div: (m, x, y) => m.div(x, y),
  max: (m, x, y) => m.maximum(x, y),
  min: (m, x, y) => m.minimum(x, y),
  pow: math.pow,
  less: (m, x, y) => m.select(m.lt(x, y), m.const(1), m.const(0)),
  equal: (m, x, y) => m.select(m.eq(x, y), m.const(1), m.const(0)),
};
