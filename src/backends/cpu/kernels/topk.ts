import { defineKernel, split, splitRange } from '../kernel.ts';
import type { Local } from '../wasm/function.ts';
import { f32, f32x4, i32, v128 } from '../wasm/ops.ts';

/**
 * The `k` largest of each row in falling order, ties by lower index, NaN last. The result is kept sorted; four numbers at
 * a time are compared with its smallest one, and few pass. Threads share the rows.
 */
export const topk = defineKernel({
  name: 'topk',
  fields: { values: 'i32', indices: 'i32', x: 'i32', rows: 'i32', width: 'i32', k: 'i32' },
  emit(f, { values, indices, x, rows, width, k }, ctx) {
    const { from, to } = split(f, rows, ctx);
    const row = f.i32('row');
    const px = f.i32('px');
    const best = f.i32('best');
    const where = f.i32('where');
    const index = f.i32('index');
    const kept = f.i32('kept');
    const value = f.f32('value');
    const smallest = f.v128('smallest');
    const at = f.i32('at');

    /** Puts `value` of `index` into its place among the first `count` entries, which move up by one. */
    const insert = (count: Local<'i32'>) => {
      at.set(i32.shl(count, 2));
      f.block((done) => {
        f.loop((again) => {
          f.branchIf(done, i32.eqz(at));
          f.branchIf(done, i32.eqz(f32.lt(f32.load(i32.sub(i32.add(best, at), 4)), value)));
          f.f32Store(i32.add(best, at), f32.load(i32.sub(i32.add(best, at), 4)));
          f.i32Store(i32.add(where, at), i32.load(i32.sub(i32.add(where, at), 4)));
          at.inc(-4);
          f.branch(again);
        });
      });
      f.f32Store(i32.add(best, at), value);
      f.i32Store(i32.add(where, at), index);
    };
    const last = f.i32('last', i32.sub(k, 1));
    const consider = (offset: number) => {
      value.set(f32.load(i32.add(px, i32.shl(index, 2)), offset));
      f.if(f32.lt(f32.load(i32.add(best, i32.shl(last, 2))), value), () => {
        if (offset) index.inc(offset / 4);
        insert(last);
        if (offset) index.inc(-offset / 4);
      });
    };

    f.for(row, from, to, 1, () => {
      px.set(i32.add(x, i32.shl(i32.mul(row, width), 2)));
      best.set(i32.add(values, i32.shl(i32.mul(row, k), 2)));
      where.set(i32.add(indices, i32.shl(i32.mul(row, k), 2)));
      index.set(0);
      kept.set(0);
      f.while(i32.and(i32.ltU(kept, k), i32.ltU(index, width)), () => {
        value.set(f32.load(i32.add(px, i32.shl(index, 2))));
        f.if(f32.eq(value, value), () => {
          insert(kept);
          kept.inc(1);
        });
        index.inc(1);
      });
      const vectorEnd = f.i32('vectorEnd', i32.sub(width, 4));
      f.while(i32.leS(index, vectorEnd), () => {
        smallest.set(v128.load32Splat(i32.add(best, i32.shl(last, 2))));
        f.if(v128.anyTrue(f32x4.gt(v128.load(i32.add(px, i32.shl(index, 2))), smallest)), () => {
          for (let lane = 0; lane < 4; lane++) consider(4 * lane);
        });
        index.inc(4);
      });
      f.while(i32.ltU(index, width), () => {
        consider(0);
        index.inc(1);
      });
      index.set(0);
      f.while(i32.and(i32.ltU(kept, k), i32.ltU(index, width)), () => {
        value.set(f32.load(i32.add(px, i32.shl(index, 2))));
        f.if(f32.ne(value, value), () => {
          f.f32Store(i32.add(best, i32.shl(kept, 2)), value);
          f.i32Store(i32.add(where, i32.shl(kept, 2)), index);
          kept.inc(1);
        });
        index.inc(1);
      });
    });
  },
  twin({ f32, i32 }, { values, indices, x, rows, width, k }, tid, nt) {
    const [from, to] = splitRange(rows, tid, nt);
    for (let row = from; row < to; row++) {
      const numbers = f32.subarray((x >>> 2) + row * width, (x >>> 2) + (row + 1) * width);
      const nan = (i: number) => (Number.isNaN(numbers[i]) ? 1 : 0);
      const order = Array.from(numbers.keys()).sort((i, j) => {
        if (nan(i) || nan(j)) return nan(i) - nan(j) || i - j;
        return numbers[i]! === numbers[j]! ? i - j : numbers[i]! < numbers[j]! ? 1 : -1;
      });
      for (let i = 0; i < k; i++) {
        f32[(values >>> 2) + row * k + i] = numbers[order[i]!]!;
        i32[(indices >>> 2) + row * k + i] = order[i]!;
      }
    }
  },
});
