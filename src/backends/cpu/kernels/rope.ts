import { defineKernel, type KernelContext, split, splitRange, type Views } from '../kernel.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { f32, i8x16, i32, v128 } from '../wasm/ops.ts';
import { type ScalarLanes, scalarLanes, vectorLanes } from './lanes.ts';

/**
 * Emits the rotation of one head at `head` by the table row at `table` (`half` cosines, then as many sines):
 * `(a, b) → (a cos - b sin, b cos + a sin)` for pairs `(i, i + half)`, or neighbours when `interleaved`.
 */
export function emitRotate(
  f: FunctionBuilder,
  ctx: KernelContext,
  head: Local<'i32'>,
  table: Local<'i32'>,
  half: Local<'i32'>,
  interleaved: Local<'i32'>,
): void {
  const m = vectorLanes(f, ctx);
  const halfBytes = f.i32('halfBytes', i32.shl(half, 2));
  const pa = f.i32('pa', head);
  const pb = f.i32('pb');
  const pc = f.i32('pc', table);
  const left = f.i32('left', half);
  const rotate = (a: Local<'v128'>, b: Local<'v128'>, cos: Local<'v128'>, sin: Local<'v128'>) => ({
    first: f.v128('first', m.sub(m.mul(a, cos), m.mul(b, sin))),
    second: f.v128('second', m.add(m.mul(b, cos), m.mul(a, sin))),
  });
  const scalar = (stepBytes: number) => {
    const sin = i32.add(pc, halfBytes);
    const a = f.f32('a', f32.load(pa));
    const b = f.f32('b', f32.load(pb));
    f.f32Store(pa, f32.sub(f32.mul(a, f32.load(pc)), f32.mul(b, f32.load(sin))));
    f.f32Store(pb, f32.add(f32.mul(b, f32.load(pc)), f32.mul(a, f32.load(sin))));
    pa.inc(stepBytes);
    pb.inc(stepBytes);
    pc.inc(4);
    left.inc(-1);
  };
  f.if(
    interleaved,
    () => {
      f.while(i32.geS(left, 4), () => {
        const x = f.v128('x', v128.load(pa));
        const y = f.v128('y', v128.load(pa, 16));
        const a = f.v128('a', i8x16.shuffle(x, y, [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27]));
        const b = f.v128('b', i8x16.shuffle(x, y, [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31]));
        const cos = f.v128('cos', v128.load(pc));
        const { first, second } = rotate(a, b, cos, f.v128('sin', v128.load(i32.add(pc, halfBytes))));
        f.v128Store(pa, i8x16.shuffle(first, second, [0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23]));
        f.v128Store(
          pa,
          i8x16.shuffle(first, second, [8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31]),
          16,
        );
        pa.inc(32);
        pc.inc(16);
        left.inc(-4);
      });
      pb.set(i32.add(pa, 4));
      f.while(left, () => scalar(8));
    },
    () => {
      pb.set(i32.add(pa, halfBytes));
      f.while(i32.geS(left, 4), () => {
        const a = f.v128('a', v128.load(pa));
        const b = f.v128('b', v128.load(pb));
        const cos = f.v128('cos', v128.load(pc));
        const { first, second } = rotate(a, b, cos, f.v128('sin', v128.load(i32.add(pc, halfBytes))));
        f.v128Store(pa, first);
        f.v128Store(pb, second);
        for (const p of [pa, pb, pc]) p.inc(16);
        left.inc(-4);
      });
      f.while(left, () => scalar(4));
    },
  );
}

/** The same at word `head` of `m.f32`, with the table row at word `table`. */
export function rotateTwin({ f32 }: Views, head: number, table: number, half: number, interleaved: number): void {
  const m: ScalarLanes = scalarLanes;
  for (let i = 0; i < half; i++) {
    const first = head + (interleaved ? 2 * i : i);
    const second = head + (interleaved ? 2 * i + 1 : half + i);
    const cos = f32[table + i]!;
    const sin = f32[table + half + i]!;
    const a = f32[first]!;
    const b = f32[second]!;
    f32[first] = m.sub(m.mul(a, cos), m.mul(b, sin));
    f32[second] = m.add(m.mul(b, cos), m.mul(a, sin));
  }
}

/** Rotates all heads of rows `[heads * headDim]` in place; `half` pairs of each, `cosSin` has `2 half` floats per row. */
export const rope = defineKernel({
  name: 'rope',
  fields: { x: 'i32', cosSin: 'i32', rows: 'i32', heads: 'i32', headDim: 'i32', half: 'i32', interleaved: 'i32' },
  emit(f, { x, cosSin, rows, heads, headDim, half, interleaved }, ctx) {
    const total = f.i32('total', i32.mul(rows, heads));
    const { from, to } = split(f, total, ctx);
    const unit = f.i32('unit');
    const head = f.i32('head');
    const table = f.i32('table');
    f.for(unit, from, to, 1, () => {
      head.set(i32.add(x, i32.shl(i32.mul(unit, headDim), 2)));
      table.set(i32.add(cosSin, i32.shl(i32.mul(i32.divU(unit, heads), half), 3)));
      emitRotate(f, ctx, head, table, half, interleaved);
    });
  },
  twin(m, { x, cosSin, rows, heads, headDim, half, interleaved }, tid, nt) {
    const [from, to] = splitRange(rows * heads, tid, nt);
    for (let unit = from; unit < to; unit++) {
      const table = (cosSin >>> 2) + Math.floor(unit / heads) * 2 * half;
      rotateTwin(m, (x >>> 2) + unit * headDim, table, half, interleaved);
    }
  },
});
