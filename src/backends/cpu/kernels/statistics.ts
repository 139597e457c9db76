import { defineKernel, type Kernel } from '../kernel.ts';
import { f32, f32x4, i32, v128 } from '../wasm/ops.ts';
import { forColumns, forGrid, splitGrid } from './loops.ts';

/** `sums[c] += Σ_r x[r, c]²`; the rows of one call are summed apart. Threads share the columns. */
export const addSquares = defineKernel({
  name: 'addSquares',
  fields: { sums: 'i32', x: 'i32', rows: 'i32', width: 'i32' },
  emit(f, { sums, x, rows, width }, ctx) {
    const one = f.i32('one', 1);
    const grid = splitGrid(f, one, width, ctx);
    const stride = f.i32('stride', i32.shl(width, 2));
    const p = f.i32('p');
    const left = f.i32('left');
    f.if(i32.ltU(grid.rowFrom, grid.rowTo), () => {
      const skip = i32.shl(grid.column, 2);
      const px = f.i32('px', i32.add(x, skip));
      const ps = f.i32('ps', i32.add(sums, skip));
      forColumns(f, i32.shl(grid.columns, 2), [px, ps], (column) => {
        const sum = f.v128('sum', v128.zero());
        p.set(px);
        left.set(rows);
        f.while(left, () => {
          const v = column.load(p);
          sum.set(f32x4.add(sum, f32x4.mul(v, v)));
          p.inc(stride);
          left.inc(-1);
        });
        column.store(ps, f32x4.add(column.load(ps), sum));
      });
    });
  },
  twin({ f32 }, { sums, x, rows, width }, tid, nt) {
    forGrid(1, width, tid, nt, (_, c) => {
      let sum = 0;
      for (let r = 0; r < rows; r++) {
        const v = f32[(x >>> 2) + r * width + c]!;
        sum = Math.fround(sum + Math.fround(v * v));
      }
      f32[(sums >>> 2) + c]! += sum;
    });
  },
});

/**
 * `sums[experts[p]] += x[p / perRow]²` and `counts[experts[p]] += 1` for each pair `p`, in their order; numbers from
 * `expertCount` on are passed over: no kernel may leave its tensors. Threads share the columns, and the first one counts.
 */
export const addExpertSquares = defineKernel({
  name: 'addExpertSquares',
  fields: {
    ...{ sums: 'i32', counts: 'i32', x: 'i32', experts: 'i32', pairs: 'i32', perRow: 'i32', width: 'i32' },
    expertCount: 'i32',
  },
  emit(f, { sums, counts, x, experts, pairs, perRow, width, expertCount }, ctx) {
    const one = f.i32('one', 1);
    const grid = splitGrid(f, one, width, ctx);
    const pair = f.i32('pair');
    const expert = f.i32('expert');
    const px = f.i32('px');
    const ps = f.i32('ps');
    f.for(pair, 0, pairs, 1, () => {
      expert.set(i32.load(i32.add(experts, i32.shl(pair, 2))));
      f.if(i32.ltU(expert, expertCount), () => {
        f.if(i32.eqz(ctx.tid), () => {
          const count = f.i32('count', i32.add(counts, i32.shl(expert, 2)));
          f.f32Store(count, f32.add(f32.load(count), 1));
        });
        const row = i32.divU(pair, perRow);
        px.set(i32.add(x, i32.shl(i32.add(i32.mul(row, width), grid.column), 2)));
        ps.set(i32.add(sums, i32.shl(i32.add(i32.mul(expert, width), grid.column), 2)));
        f.if(i32.ltU(grid.rowFrom, grid.rowTo), () => {
          forColumns(f, i32.shl(grid.columns, 2), [px, ps], (column) => {
            const v = column.load(px);
            column.store(ps, f32x4.add(column.load(ps), f32x4.mul(v, v)));
          });
        });
      });
    });
  },
  twin({ f32, u32 }, { sums, counts, x, experts, pairs, perRow, width, expertCount }, tid, nt) {
    for (let p = 0; p < pairs; p++) {
      const expert = u32[(experts >>> 2) + p]!;
      if (expert >= expertCount) continue;
      if (tid === 0) f32[(counts >>> 2) + expert]! += 1;
      const row = (x >>> 2) + Math.floor(p / perRow) * width;
      forGrid(1, width, tid, nt, (_, c) => {
        const v = f32[row + c]!;
        f32[(sums >>> 2) + expert * width + c]! += Math.fround(v * v);
      });
    }
  },
});

export const statisticsKernels = [addSquares, addExpertSquares] as readonly Kernel[];
