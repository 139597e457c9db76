import type { Activation } from '../../../core/backend.ts';
import { defineKernel, type Kernel } from '../kernel.ts';
import { f32x4, i8x16, i32, v128 } from '../wasm/ops.ts';
import { UNARY } from './functions.ts';
import { type Lanes, scalarLanes, vectorLanes } from './lanes.ts';
import { forGrid, loadPart, splitGrid, storePart } from './loops.ts';
import { swish } from './math.ts';

type Gate = <V, M>(m: Lanes<V, M>, gate: V, up: V, alpha: V, limit: V) => V;

const GATES: Readonly<Record<Activation | 'clamped', Gate>> = {
  ...(Object.fromEntries(
    (['silu', 'gelu', 'geluTanh', 'geluQuick', 'relu', 'relu2'] as const).map((activation) => {
      const gate: Gate = (m, g, up, alpha, limit) => m.mul(UNARY[activation](m, g, alpha, limit), up);
      return [activation, gate];
    }),
  ) as Record<Activation, Gate>),
  clamped: (m, g, up, alpha, limit) => {
    const gate = m.let(m.min(g, limit));
    const inside = m.min(m.max(up, m.neg(limit)), limit);
    return m.mul(swish(m, gate, alpha), m.add(inside, m.const(1)));
  },
};

/**
 * `out[r, c] = activation(gate) * up` over rows `[gate | up]` of `2 width` floats, or rows of pairs when `interleaved`.
 * `alpha` and `limit` belong to the clamped variant.
 */
const gluKernel = (name: Activation | 'clamped') =>
  defineKernel({
    name: `glu.${name}`,
    fields: {
      ...{ out: 'i32', x: 'i32', rows: 'i32', width: 'i32', interleaved: 'i32' },
      ...{ alpha: 'f32', limit: 'f32' },
    },
    emit(f, { out, x, rows, width, interleaved, alpha, limit }, ctx) {
      const m = vectorLanes(f, ctx);
      const slope = f.v128('alpha', f32x4.splat(alpha));
      const bound = f.v128('limit', f32x4.splat(limit));
      const grid = splitGrid(f, rows, width, ctx);
      const row = f.i32('row');
      const pg = f.i32('pg');
      const pu = f.i32('pu');
      const po = f.i32('po');
      const left = f.i32('left');
      // The halves of a row of pairs alternate; two vectors give one of gates and one of ups.
      const step = f.i32('step', i32.select(interleaved, 32, 16));
      const upOffset = f.i32('upOffset', i32.select(interleaved, 16, i32.shl(width, 2)));
      const gate = f.v128('gate');
      const up = f.v128('up');
      const unzip = () => {
        const a = f.v128('a', gate);
        gate.set(i8x16.shuffle(a, up, [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27]));
        up.set(i8x16.shuffle(a, up, [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31]));
      };
      f.for(row, grid.rowFrom, grid.rowTo, 1, () => {
        pg.set(i32.add(x, i32.shl(i32.mul(row, width), 3)));
        pg.inc(i32.shl(grid.column, i32.select(interleaved, 3, 2)));
        po.set(i32.add(out, i32.shl(i32.add(i32.mul(row, width), grid.column), 2)));
        pu.set(i32.add(pg, upOffset));
        left.set(i32.shl(grid.columns, 2));
        f.while(i32.geS(left, 16), () => {
          gate.set(v128.load(pg));
          up.set(v128.load(pu));
          f.if(interleaved, unzip);
          f.v128Store(po, GATES[name](m, gate, up, slope, bound));
          pg.inc(step);
          pu.inc(step);
          po.inc(16);
          left.inc(-16);
        });
        f.if(left, () => {
          const second = i32.gtS(left, 4);
          const third = i32.gtS(left, 8);
          f.if(
            interleaved,
            () => {
              // One to three pairs: the first two lie in one vector, the third one alone.
              gate.set(loadPart(f, pg, i32.const(1), i32.const(0)));
              f.if(second, () => gate.set(v128.load(pg)));
              up.set(f.v128('zero', f.pooled.f32x4(0)));
              f.if(third, () => up.set(loadPart(f, i32.add(pg, 16), i32.const(1), i32.const(0))));
              unzip();
            },
            () => {
              gate.set(loadPart(f, pg, second, third));
              up.set(loadPart(f, pu, second, third));
            },
          );
          storePart(f, po, f.v128('y', GATES[name](m, gate, up, slope, bound)), second, third);
        });
      });
    },
    twin({ f32 }, { out, x, rows, width, interleaved, alpha, limit }, tid, nt) {
      forGrid(rows, width, tid, nt, (r, c) => {
        const at = (x >>> 2) + r * 2 * width;
        const gate = f32[at + (interleaved ? 2 * c : c)]!;
        const up = f32[at + (interleaved ? 2 * c + 1 : width + c)]!;
        f32[(out >>> 2) + r * width + c] = GATES[name](scalarLanes, gate, up, alpha, limit);
      });
    },
  });

export const gluKernels = Object.fromEntries(
  (Object.keys(GATES) as (Activation | 'clamped')[]).map((name) => [name, gluKernel(name)]),
) as Readonly<Record<Activation | 'clamped', ReturnType<typeof gluKernel>>>;

export const allGluKernels = Object.values(gluKernels) as readonly Kernel[];
