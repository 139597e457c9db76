import type { BinaryKind, UnaryKind } from '../../../core/backend.ts';
import { defineKernel, type Kernel } from '../kernel.ts';
import { f32x4, i32, v128 } from '../wasm/ops.ts';
import { BINARY, UNARY } from './functions.ts';
import { scalarLanes, vectorLanes } from './lanes.ts';
import { forColumns, forGrid, splitGrid } from './loops.ts';

/** `out[i] = kind(x[i])`; `out` may be `x`. */
export const unaryKernel = (kind: UnaryKind) =>
  defineKernel({
    name: `unary.${kind}`,
    fields: { out: 'i32', x: 'i32', n: 'i32', a: 'f32', b: 'f32' },
    emit(f, { out, x, n, a, b }, ctx) {
      const m = vectorLanes(f, ctx);
      const first = f.v128('a', f32x4.splat(a));
      const second = f.v128('b', f32x4.splat(b));
      const one = f.i32('one', 1);
      const grid = splitGrid(f, one, n, ctx);
      f.if(i32.ltU(grid.rowFrom, grid.rowTo), () => {
        const skip = i32.shl(grid.column, 2);
        const px = f.i32('px', i32.add(x, skip));
        const py = f.i32('py', i32.add(out, skip));
        forColumns(f, i32.shl(grid.columns, 2), [px, py], (column) => {
          column.store(py, UNARY[kind](m, column.load(px), first, second));
        });
      });
    },
    twin({ f32 }, { out, x, n, a, b }, tid, nt) {
      forGrid(1, n, tid, nt, (_, i) => {
        f32[(out >>> 2) + i] = UNARY[kind](scalarLanes, f32[(x >>> 2) + i]!, a, b);
      });
    },
  });

/**
 * `out[r, c] = kind(x[r, c], y)`; `out` may be `x`. A row of `y` lies `yRow` bytes behind the previous one (0: one row for
 * all); with `single` a row of `y` is one number. Same sizes are one row of all elements.
 */
export const binaryKernel = (kind: BinaryKind) =>
  defineKernel({
    name: `binary.${kind}`,
    fields: { out: 'i32', x: 'i32', y: 'i32', rows: 'i32', width: 'i32', yRow: 'i32', single: 'i32' },
    emit(f, { out, x, y, rows, width, yRow, single }, ctx) {
      const m = vectorLanes(f, ctx);
      const grid = splitGrid(f, rows, width, ctx);
      const row = f.i32('row');
      const px = f.i32('px');
      const py = f.i32('py');
      const po = f.i32('po');
      f.for(row, grid.rowFrom, grid.rowTo, 1, () => {
        const skip = f.i32('skip', i32.shl(i32.add(i32.mul(row, width), grid.column), 2));
        px.set(i32.add(x, skip));
        po.set(i32.add(out, skip));
        py.set(i32.add(y, i32.mul(row, yRow)));
        const bytes = i32.shl(grid.columns, 2);
        f.if(
          single,
          () => {
            const value = f.v128('value', v128.load32Splat(py));
            forColumns(f, bytes, [px, po], (column) => column.store(po, BINARY[kind](m, column.load(px), value)));
          },
          () => {
            py.inc(i32.shl(grid.column, 2));
            forColumns(f, bytes, [px, po, py], (column) =>
              column.store(po, BINARY[kind](m, column.load(px), column.load(py))),
            );
          },
        );
      });
    },
    twin({ f32 }, { out, x, y, rows, width, yRow, single }, tid, nt) {
      forGrid(rows, width, tid, nt, (r, c) => {
        const i = r * width + c;
        const value = f32[((y + r * yRow) >>> 2) + (single ? 0 : c)]!;
        f32[(out >>> 2) + i] = BINARY[kind](scalarLanes, f32[(x >>> 2) + i]!, value);
      });
    },
  });

/** `out[i] = condition[i] ≠ 0 ? x[i] : y[i]`; `out` may be any of them. */
export const select = defineKernel({
  name: 'select',
  fields: { out: 'i32', condition: 'i32', x: 'i32', y: 'i32', n: 'i32' },
  emit(f, { out, condition, x, y, n }, ctx) {
    const one = f.i32('one', 1);
    const grid = splitGrid(f, one, n, ctx);
    f.if(i32.ltU(grid.rowFrom, grid.rowTo), () => {
      const skip = i32.shl(grid.column, 2);
      const [pc, px, py, po] = [condition, x, y, out].map((p) => f.i32('p', i32.add(p, skip)));
      forColumns(f, i32.shl(grid.columns, 2), [pc!, px!, py!, po!], (column) => {
        const isZero = f32x4.eq(column.load(pc!), f.pooled.f32x4(0));
        column.store(po!, v128.bitselect(column.load(py!), column.load(px!), isZero));
      });
    });
  },
  twin({ f32, u32 }, { out, condition, x, y, n }, tid, nt) {
    forGrid(1, n, tid, nt, (_, i) => {
      const from = f32[(condition >>> 2) + i] !== 0 ? x : y;
      u32[(out >>> 2) + i] = u32[(from >>> 2) + i]!;
    });
  },
});

const unaryKinds = Object.keys(UNARY) as UnaryKind[];
const binaryKinds = Object.keys(BINARY) as BinaryKind[];

export const unaryKernels = Object.fromEntries(unaryKinds.map((kind) => [kind, unaryKernel(kind)])) as Readonly<
  Record<UnaryKind, ReturnType<typeof unaryKernel>>
>;
export const binaryKernels = Object.fromEntries(binaryKinds.map((kind) => [kind, binaryKernel(kind)])) as Readonly<
  Record<BinaryKind, ReturnType<typeof binaryKernel>>
>;

export const elementwiseKernels: readonly Kernel[] = [
  ...Object.values(unaryKernels),
  ...Object.values(binaryKernels),
  select,
] as readonly Kernel[];
