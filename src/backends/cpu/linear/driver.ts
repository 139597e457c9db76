import {
  defineKernel,
  type Fields,
  type Kernel,
  type KernelContext,
  split,
  splitRange,
  type Views,
} from '../kernel.ts';
import type { I32 } from '../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { i32 } from '../wasm/ops.ts';
import { GROUP } from './layout.ts';
import { writeOut, writeOutTwin } from './writeOut.ts';

/** Arguments of the tile kernels of every format. */
export const TILE_FIELDS = {
  /** First group of the section, and rows of it. */
  w: 'i32',
  rows: 'i32',
  /** Columns. */
  columns: 'i32',
  /** Activations of the first tile: codes, scales, scaled sums; see `quantize.ts` for `copyStride`. */
  x: 'i32',
  d: 'i32',
  s: 'i32',
  copyStride: 'i32',
  tiles: 'i32',
  /** Result of the first token, and bytes between tokens. */
  y: 'i32',
  yStride: 'i32',
  /** Address of one float per row, or 0. */
  bias: 'i32',
  /** 1: adds to `y`. */
  accumulate: 'i32',
  /**
   * 0: each thread takes its equal share of the groups. Otherwise threads take `chunk` groups at a time, counted by the
   * word at `counter`, which starts at 0: a thread that is slow, or was interrupted, holds up the others less.
   */
  chunk: 'i32',
  counter: 'i32',
} as const;

export type TileKernel = Kernel<typeof TILE_FIELDS>;
export type TileArgs = Fields<typeof TILE_FIELDS>;

/** Where a tile reads. */
export interface TilePointers {
  /** First block of the group, and the end of the group. */
  readonly pw: Local<'i32'>;
  readonly end: Local<'i32'>;
  /** Codes, scales and sums of the tile's activations. A tile leaves the pointers behind what it has read. */
  readonly px: Local<'i32'>;
  readonly pd: Local<'i32'>;
  readonly ps: Local<'i32'>;
}

/** One result for the twin: row `row` of group `group`, token `token` of tile `tile`. */
export interface TilePlace {
  readonly group: number;
  readonly row: number;
  readonly tile: number;
  readonly token: number;
  /** Bytes from the first thread's copy of the activations to this thread's. */
  readonly copy: number;
}

/** What differs between formats. */
export interface TileCode {
  groupBytes(columns: I32): I32;
  /** Sums of 8 rows × `n` tokens over all columns, as `[token][quad]`. */
  emitTile(
    f: FunctionBuilder,
    p: TilePointers,
    columns: Local<'i32'>,
    ctx: KernelContext,
  ): readonly (readonly Local<'v128'>[])[];
  sumTwin(m: Views, a: TileArgs, place: TilePlace): number;
}

/**
 * `y[token, row] = Σ w[row, k] x[token, k]` for tiles of `n` tokens. Threads take groups of 8 rows; for each group the
 * tiles run in the inner loop, so that weights come from the nearest cache from the second tile on.
 */
export function defineTileKernel(format: string, n: number, code: TileCode): TileKernel {
  return defineKernel({
    name: `linear.${format}.${n}`,
    fields: TILE_FIELDS,
    emit(f, a, ctx) {
      const groups = f.i32('groups', i32.shrU(i32.add(a.rows, GROUP - 1), 3));
      const { from, to } = split(f, groups, ctx);
      const groupBytes = f.i32('groupBytes', code.groupBytes(a.columns));
      const copy = f.i32('copy', i32.mul(a.copyStride, ctx.tid));
      for (const p of [a.x, a.d, a.s]) p.inc(copy);
      const group = f.i32('group');
      const tile = f.i32('tile');
      const w = f.i32('w');
      const y = f.i32('y');
      const bias = f.i32('bias');
      const rowsLeft = f.i32('rowsLeft');
      const py = f.i32('py');
      const p = { pw: f.i32('pw'), end: f.i32('end'), px: f.i32('px'), pd: f.i32('pd'), ps: f.i32('ps') };
      f.loop((again) => {
        f.if(a.chunk, () => {
          from.set(i32.mul(i32.atomicAdd(a.counter, 1), a.chunk));
          f.if(i32.geU(from, groups), () => f.return());
          to.set(i32.add(from, a.chunk));
          f.if(i32.gtU(to, groups), () => to.set(groups));
        });
        w.set(i32.add(a.w, i32.mul(from, groupBytes)));
        y.set(i32.add(a.y, i32.mul(from, GROUP * 4)));
        bias.set(i32.select(a.bias, i32.add(a.bias, i32.mul(from, GROUP * 4)), 0));
        rowsLeft.set(i32.sub(a.rows, i32.mul(from, GROUP)));
        f.for(group, from, to, 1, () => {
          p.px.set(a.x);
          p.pd.set(a.d);
          p.ps.set(a.s);
          py.set(y);
          p.end.set(i32.add(w, groupBytes));
          f.for(tile, 0, a.tiles, 1, () => {
            p.pw.set(w);
            const sums = code.emitTile(f, p, a.columns, ctx);
            writeOut(f, sums, { py, stride: a.yStride, rowsLeft, bias, accumulate: a.accumulate });
          });
          w.set(p.end);
          y.inc(GROUP * 4);
          f.if(bias, () => bias.inc(GROUP * 4));
          rowsLeft.inc(-GROUP);
        });
        f.branchIf(again, a.chunk);
      });
    },
    twin(m, a, tid, nt) {
      const groups = Math.ceil(a.rows / GROUP);
      const copy = a.copyStride * tid;
      const run = (from: number, to: number) => {
        for (let group = from; group < to; group++) {
          for (let tile = 0; tile < a.tiles; tile++) {
            for (let token = 0; token < n; token++) {
              for (let row = 0; row < GROUP && group * GROUP + row < a.rows; row++) {
                const sum = code.sumTwin(m, a, { group, row, tile, token, copy });
                writeOutTwin(m, sum, group * GROUP + row, tile * n + token, a);
              }
            }
          }
        }
      };
      if (!a.chunk) {
        run(...splitRange(groups, tid, nt));
        return;
      }
      for (;;) {
        const from = Atomics.add(m.i32, a.counter >>> 2, 1) * a.chunk;
        if (from >= groups) return;
        run(from, Math.min(from + a.chunk, groups));
      }
    },
  });
}
