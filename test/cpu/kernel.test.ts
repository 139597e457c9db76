import { describe, expect, it } from 'vitest';
import { defineKernel, split, splitRange } from '../../src/backends/cpu/kernel.ts';
import { f32, f32x4, i32, v128 } from '../../src/backends/cpu/wasm/ops.ts';
import { bench, bits, DATA, random, SIMD } from './support.ts';

/** `y[i] += x[i]` for `n` floats. Threads take whole vectors; the last thread takes the tail. */
const addInto = defineKernel({
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

describe('splitRange', () => {
  it('covers every unit once', () => {
    for (const count of [0, 1, 2, 7, 64, 65]) {
      for (const nt of [1, 2, 3, 8]) {
        let next = 0;
        for (let tid = 0; tid < nt; tid++) {
          const [from, to] = splitRange(count, tid, nt);
          expect(from).toBe(next);
          expect(to - from).toBeLessThanOrEqual(Math.ceil(count / nt));
          next = to;
        }
        expect(next).toBe(count);
      }
    }
  });
});

describe('addInto', () => {
  it('gives the bits of its twin for every length and thread count', () => {
    const b = bench([addInto], SIMD, 4096);
    const [x, y] = [DATA + 4, DATA + 2048];
    const next = random(3);
    for (const n of [0, 1, 3, 4, 5, 31, 64, 67]) {
      for (const nt of [1, 2, 3]) {
        const start = Float32Array.from({ length: 512 }, () => next() - 0.5);
        const results = [b.wasm, b.twin].map((run) => {
          b.views.f32.set(start, y / 4);
          b.views.f32.set(start.subarray(100, 200), x / 4);
          run(addInto, { y, x, n }, nt);
          return bits(b.views, y, 100);
        });
        expect(results[0]).toEqual(results[1]);
        expect(b.views.f32[y / 4 + n]).toBe(start[n]);
        if (n) expect(b.views.f32[y / 4 + n - 1]).toBe(Math.fround(start[n - 1]! + start[99 + n]!));
      }
    }
  });
});

describe('defineKernel', () => {
  it('refuses more arguments than a command holds', () => {
    const fields = Object.fromEntries(Array.from({ length: 30 }, (_, i) => [`a${i}`, 'i32' as const]));
    expect(() => defineKernel({ name: 'many', fields, emit() {}, twin() {} })).toThrow(
      'many: 30 arguments, at most 29 fit',
    );
  });
});
