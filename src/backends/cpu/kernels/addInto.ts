import { defineKernel, split, splitRange } from '../kernel.ts';
import { f32, f32x4, i32, v128 } from '../wasm/ops.ts';

/** `y[i] += x[i]` for `n` floats. Threads take whole vectors; the last thread takes the tail. */
export const addInto = defineKernel({
  name: 'addInto',
  fields: { y: 'i32', x: 'i32', n: 'i32' },
  emit(f, { y, x, n }, ctx) {
    const { from, to } = split(f, i32.shrU(n, 2), ctx);
    const end = f.i32('end', i32.add(y, i32.shl(to, 4)));
    const py = f.i32('py', i32.add(y, i32.shl(from, 4)));
    const px = f.i32('px', i32.add(x, i32.shl(from, 4)));
    f.while(i32.ltU(py, end), () => {
      f.v128Store(py, f32x4.add(v128.load(py), v128.load(px)));
      py.inc(16);
      px.inc(16);
    });
    f.if(i32.eq(i32.add(ctx.tid, 1), ctx.nt), () => {
      end.set(i32.add(y, i32.shl(n, 2)));
      f.while(i32.ltU(py, end), () => {
        f.f32Store(py, f32.add(f32.load(py), f32.load(px)));
        py.inc(4);
        px.inc(4);
      });
    });
  },
  twin({ f32 }, { y, x, n }, tid, nt) {
    const [from, to] = splitRange(n >>> 2, tid, nt);
    const end = tid === nt - 1 ? n : to * 4;
    for (let i = from * 4; i < end; i++) f32[(y >>> 2) + i]! += f32[(x >>> 2) + i]!;
  },
});
