import { defineKernel, split, splitRange } from '../kernel.ts';
import { f32, f32x4, i32, v128 } from '../wasm/ops.ts';

/**
 * `out[r] = table[ids[r]]` for rows of `rowBytes` bytes. Ids outside the table read its last row: no kernel may leave its
 * tensors. Threads share the rows.
 */
export const gatherRows = defineKernel({
  name: 'gatherRows',
  fields: { out: 'i32', table: 'i32', ids: 'i32', rows: 'i32', rowBytes: 'i32', tableRows: 'i32' },
  emit(f, { out, table, ids, rows, rowBytes, tableRows }, ctx) {
    const { from, to } = split(f, rows, ctx);
    const row = f.i32('row');
    const id = f.i32('id');
    f.for(row, from, to, 1, () => {
      id.set(i32.load(i32.add(ids, i32.shl(row, 2))));
      id.set(i32.select(i32.ltU(id, tableRows), id, i32.sub(tableRows, 1)));
      f.memoryCopy(i32.add(out, i32.mul(row, rowBytes)), i32.add(table, i32.mul(id, rowBytes)), rowBytes);
    });
  },
  twin({ u8, i32 }, { out, table, ids, rows, rowBytes, tableRows }, tid, nt) {
    const [from, to] = splitRange(rows, tid, nt);
    for (let row = from; row < to; row++) {
      const id = Math.min(i32[(ids >>> 2) + row]! >>> 0, tableRows - 1);
      const source = (table >>> 0) + id * rowBytes;
      u8.copyWithin((out >>> 0) + row * rowBytes, source, source + rowBytes);
    }
  },
});

/**
 * `out[ids[r]] = x[r]` in row order; ids outside `out` are skipped. Threads share the columns, so that the last of several
 * rows with one id wins for any number of threads. `rowBytes` is the width in bytes.
 */
export const scatterRows = defineKernel({
  name: 'scatterRows',
  fields: { out: 'i32', x: 'i32', ids: 'i32', rows: 'i32', rowBytes: 'i32', outRows: 'i32' },
  emit(f, { out, x, ids, rows, rowBytes, outRows }, ctx) {
    const { from, to } = split(f, rowBytes, ctx);
    const bytes = f.i32('bytes', i32.sub(to, from));
    const row = f.i32('row');
    const id = f.i32('id');
    f.for(row, 0, rows, 1, () => {
      id.set(i32.load(i32.add(ids, i32.shl(row, 2))));
      f.if(i32.ltU(id, outRows), () => {
        const target = i32.add(i32.add(out, i32.mul(id, rowBytes)), from);
        f.memoryCopy(target, i32.add(i32.add(x, i32.mul(row, rowBytes)), from), bytes);
      });
    });
  },
  twin({ u8, i32 }, { out, x, ids, rows, rowBytes, outRows }, tid, nt) {
    const [from, to] = splitRange(rowBytes, tid, nt);
    for (let row = 0; row < rows; row++) {
      const id = i32[(ids >>> 2) + row]! >>> 0;
      const source = (x >>> 0) + row * rowBytes;
      if (id < outRows) u8.copyWithin((out >>> 0) + id * rowBytes + from, source + from, source + to);
    }
  },
});

/** `out[ids[r]] += x[r]` for floats, in row order; threads share the columns. */
export const scatterAddRows = defineKernel({
  name: 'scatterAddRows',
  fields: { out: 'i32', x: 'i32', ids: 'i32', rows: 'i32', width: 'i32', outRows: 'i32' },
  emit(f, { out, x, ids, rows, width, outRows }, ctx) {
    const { from, to } = split(f, width, ctx);
    const row = f.i32('row');
    const id = f.i32('id');
    const px = f.i32('px');
    const po = f.i32('po');
    const left = f.i32('left');
    f.for(row, 0, rows, 1, () => {
      id.set(i32.load(i32.add(ids, i32.shl(row, 2))));
      f.if(i32.ltU(id, outRows), () => {
        px.set(i32.add(x, i32.shl(i32.add(i32.mul(row, width), from), 2)));
        po.set(i32.add(out, i32.shl(i32.add(i32.mul(id, width), from), 2)));
        left.set(i32.sub(to, from));
        f.while(i32.geS(left, 4), () => {
          f.v128Store(po, f32x4.add(v128.load(po), v128.load(px)));
          px.inc(16);
          po.inc(16);
          left.inc(-4);
        });
        f.while(left, () => {
          f.f32Store(po, f32.add(f32.load(po), f32.load(px)));
          px.inc(4);
          po.inc(4);
          left.inc(-1);
        });
      });
    });
  },
  twin({ f32, i32 }, { out, x, ids, rows, width, outRows }, tid, nt) {
    const [from, to] = splitRange(width, tid, nt);
    for (let row = 0; row < rows; row++) {
      const id = i32[(ids >>> 2) + row]! >>> 0;
      if (id >= outRows) continue;
      for (let c = from; c < to; c++) f32[(out >>> 2) + id * width + c]! += f32[(x >>> 2) + row * width + c]!;
    }
  },
});
