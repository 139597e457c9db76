/** Loops over rows of floats: whole vectors, then one part of a vector. */
import { type KernelContext, split, splitRange } from '../kernel.ts';
import type { Expr, V128 } from '../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { i32, v128 } from '../wasm/ops.ts';

type I32Expr = Expr<'i32'>;

/** Reads and writes the current four floats (fewer at the end of a row) at pointers that the loop moves. */
export interface Column {
  load(pointer: I32Expr): Local<'v128'>;
  store(pointer: I32Expr, value: V128): void;
}

/**
 * Runs `body` for the bytes `[at, end)` of a row of floats, four at a time; the body is emitted twice, for whole vectors
 * and for a rest of 1 to 3. `pointers` start at the first byte and end behind the last vector touched.
 */
export function forColumns(
  f: FunctionBuilder,
  bytes: I32Expr,
  pointers: readonly Local<'i32'>[],
  body: (column: Column) => void,
): void {
  const left = f.i32('left', i32.sub(bytes, 16));
  const advance = () => {
    for (const p of pointers) p.inc(16);
  };
  f.while(i32.geS(left, 0), () => {
    body({
      load: (p) => f.v128('x', v128.load(p)),
      store: (p, value) => f.v128Store(p, value),
    });
    advance();
    left.inc(-16);
  });
  f.if(i32.gtS(left, -16), () => {
    const second = i32.geS(left, -8);
    const third = i32.eq(left, -4);
    body({
      load: (p) => loadPart(f, p, second, third),
      store: (p, value) => storePart(f, p, f.v128('y', value), second, third),
    });
  });
}

/** The first 1, 2 or 3 floats at `p`; the other lanes are zero. */
export function loadPart(f: FunctionBuilder, p: I32Expr, second: I32Expr, third: I32Expr): Local<'v128'> {
  const v = f.v128('x', v128.load32Zero(p));
  f.if(second, () => {
    v.set(v128.load32Lane(p, v, 1, 4));
    f.if(third, () => v.set(v128.load32Lane(p, v, 2, 8)));
  });
  return v;
}

export function storePart(f: FunctionBuilder, p: I32Expr, v: Local<'v128'>, second: I32Expr, third: I32Expr): void {
  f.v128StoreLane(32, p, v, 0);
  f.if(second, () => {
    f.v128StoreLane(32, p, v, 1, 4);
    f.if(third, () => f.v128StoreLane(32, p, v, 2, 8));
  });
}

/** A thread's part of a grid of rows and columns, as locals. */
export interface Grid {
  readonly rowFrom: Local<'i32'>;
  readonly rowTo: Local<'i32'>;
  /** First column of every row, and how many. */
  readonly column: Local<'i32'>;
  readonly columns: Local<'i32'>;
}

/** Shares whole rows, or, when there are fewer rows than threads, vectors of columns (the last thread takes the rest). */
export function splitGrid(f: FunctionBuilder, rows: Local<'i32'>, width: Local<'i32'>, ctx: KernelContext): Grid {
  const grid = { rowFrom: f.i32('rowFrom'), rowTo: f.i32('rowTo'), column: f.i32('column'), columns: f.i32('columns') };
  f.if(
    i32.ltU(rows, ctx.nt),
    () => {
      const { from, to } = split(f, i32.shrU(width, 2), ctx);
      grid.rowTo.set(rows);
      grid.column.set(i32.shl(from, 2));
      const end = i32.select(i32.eq(i32.add(ctx.tid, 1), ctx.nt), width, i32.shl(to, 2));
      grid.columns.set(i32.sub(end, grid.column));
    },
    () => {
      const { from, to } = split(f, rows, ctx);
      grid.rowFrom.set(from);
      grid.rowTo.set(to);
      grid.columns.set(width);
    },
  );
  return grid;
}

/** The same for twins: `visit(row, column)` for every element of the share. */
export function forGrid(
  rows: number,
  width: number,
  tid: number,
  nt: number,
  visit: (row: number, column: number) => void,
): void {
  const byColumns = rows < nt;
  const [from, to] = splitRange(byColumns ? width >>> 2 : rows, tid, nt);
  const columnEnd = !byColumns || tid === nt - 1 ? width : to * 4;
  for (let row = byColumns ? 0 : from; row < (byColumns ? rows : to); row++) {
    for (let column = byColumns ? from * 4 : 0; column < columnEnd; column++) visit(row, column);
  }
}
