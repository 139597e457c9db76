import { describe, expect, it } from 'vitest';
import { defineKernel, splitRange } from '../../src/backends/cpu/kernel.ts';
import { addInto } from '../../src/backends/cpu/kernels/addInto.ts';
import { bench, bits, DATA, random, SIMD } from './support.ts';

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
    const fields = Object.fromEntries(Array.from({ length: 31 }, (_, i) => [`a${i}`, 'i32' as const]));
    expect(() => defineKernel({ name: 'many', fields, emit() {}, twin() {} })).toThrow(
      'many: 31 arguments, at most 30 fit',
    );
  });
});
