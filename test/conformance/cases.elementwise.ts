import fc from 'fast-check';
import type { BinaryKind, UnaryKind } from '../../src/core/backend.ts';
import * as ops from '../../src/core/ops.ts';
import { type Case, define, rows, width } from './case.ts';

const UNARY = {
  neg: 1,
  abs: 1,
  square: 1,
  exp: 1,
  sin: 3,
  cos: 3,
  tanh: 2,
  erf: 1,
  sigmoid: 4,
  softplus: 4,
  floor: 5,
  round: 5,
  sign: 1,
  silu: 4,
  gelu: 2,
  geluTanh: 2,
  geluQuick: 2,
  relu: 1,
  relu2: 1,
  reciprocal: 1,
} as const satisfies Partial<Record<UnaryKind, number>>;

const positive: readonly UnaryKind[] = ['sqrt', 'rsqrt', 'log'];
const binaries: readonly BinaryKind[] = ['add', 'sub', 'mul', 'div', 'max', 'min', 'less', 'equal'];
const matrix = fc.record({ rows, width });
const broadcast = fc.constantFrom('same', 'row', 'column', 'one' as const);

const yShape = (how: string, p: { rows: number; width: number }): number[] =>
  how === 'same' ? [p.rows, p.width] : how === 'row' ? [p.width] : how === 'column' ? [p.rows, 1] : [1];

export const elementwiseCases: readonly Case[] = [
  ...Object.entries(UNARY).map(([kind, spread]) =>
    define('unary', kind, matrix, (e, p) => {
      const x = e.normal([p.rows, p.width], spread);
      return ops.unary(kind as UnaryKind, x);
    }),
  ),
  ...positive.map((kind) =>
    define('unary', kind, matrix, (e, p) => ops.unary(kind, ops.unary('abs', e.normal([p.rows, p.width])))),
  ),
  define(
    'unary',
    'affine, clamp and softcap',
    fc.record({ rows, width, a: fc.integer({ min: 1, max: 9 }) }),
    (e, p) => {
      const x = e.normal([p.rows, p.width], 5);
      return [
        ops.unary('affine', x, p.a / 3, -1.5),
        ops.unary('clamp', x, -p.a / 4, p.a / 2),
        ops.unary('softcap', x, p.a),
      ];
    },
  ),
  define(
    'unary',
    'large and special values',
    fc.record({
      kind: fc.constantFrom<UnaryKind>('exp', 'tanh', 'sigmoid', 'silu', 'softplus', 'gelu', 'geluTanh', 'erf'),
    }),
    (e, p) => {
      const x = e.put(Float32Array.of(-200, -88, -87, -30, -10, -0, 0, 1e-20, 1e-6, 10, 30, 87, 88), [13]);
      return ops.unary(p.kind, x);
    },
  ),
  define(
    'unary',
    'in place',
    fc.record({ rows, width, kind: fc.constantFrom<UnaryKind>('silu', 'neg', 'exp', 'gelu') }),
    (e, p) => ops.unaryInto(p.kind, e.normal([p.rows, p.width], 1, false)),
  ),
  ...binaries.map((kind) =>
    define('binary', kind, fc.record({ rows, width, how: broadcast }), (e, p) => {
      const x = e.normal([p.rows, p.width]);
      const y = e.normal(yShape(p.how, p));
      return [ops.binary(kind, x, y), ops.binary(kind, ops.unary('round', x), ops.unary('round', y))];
    }),
  ),
  define('binary', 'pow', matrix, (e, p) =>
    ops.binary('pow', ops.unary('abs', e.normal([p.rows, p.width])), e.normal([p.rows, p.width])),
  ),
  define('binary', 'in place', fc.record({ rows, width, how: broadcast }), (e, p) =>
    ops.addInto(e.normal([p.rows, p.width], 1, false), e.normal(yShape(p.how, p))),
  ),
  define('binary', 'x with itself', matrix, (e, p) => {
    const x = e.normal([p.rows, p.width]);
    return ops.mul(x, x);
  }),
  define(
    'select',
    '',
    matrix,
    (e, p) => {
      const x = e.normal([p.rows, p.width]);
      const y = e.normal([p.rows, p.width]);
      return ops.select(ops.unary('relu', e.normal([p.rows, p.width])), x, y);
    },
    { nmse: 0 },
  ),
  define(
    'cast',
    'f32 to the others and back',
    fc.record({ n: fc.integer({ min: 0, max: 70 }), spread: fc.constantFrom(1e-6, 1, 300, 1e5) }),
    (e, p) => {
      const x = e.normal([p.n], p.spread);
      return (['f16', 'bf16', 'i32', 'u8'] as const).flatMap((dtype) => {
        const y = ops.cast(x, dtype);
        return [y, ops.cast(y, 'f32')];
      });
    },
    { nmse: 0 },
  ),
];
