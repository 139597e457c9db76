import { describe, expect, it } from 'vitest';
import { binaryKernels, elementwiseKernels, select, unaryKernels } from '../../src/backends/cpu/kernels/elementwise.ts';
import { UNARY as EXACT, BINARY as EXACT_BINARY } from '../../src/backends/reference/functions.ts';
import type { BinaryKind, UnaryKind } from '../../src/core/backend.ts';
import { bench, bits, DATA, random, SIMD } from './support.ts';

const ROOM = 8192;
const [X, Y, Z, OUT] = [DATA + 4, DATA + ROOM, DATA + 2 * ROOM + 8, DATA + 3 * ROOM + 12];
const b = bench(elementwiseKernels, SIMD, 4 * ROOM + 64);

/** Arguments that meet every branch: special values, then each magnitude. */
function samples(n: number, positive: boolean): Float32Array {
  const next = random(5);
  const special = [0, -0, 1, -1, 0.5, 2.5, -2.5, 1e-30, -1e-30, 88, -88, 100, -100, Infinity, -Infinity, Number.NaN];
  return Float32Array.from({ length: n }, (_, i) => {
    const x = special[i] ?? (next() - 0.5) * 2 ** (Math.floor(next() * 20) - 10);
    return positive ? Math.abs(x) : x;
  });
}

/** NaN patterns differ between engines, so every NaN counts as one. */
const plain = (words: Uint32Array) => words.map((w) => ((w & 0x7fffffff) > 0x7f800000 ? 0x7fc00000 : w));

const RELATIVE = 4e-7;
/** Room for the rounding of intermediate results near zeros of the function. */
const absolute = (kind: UnaryKind, x: number) => (kind === 'affine' ? 2e-7 * (1 + Math.abs(x)) : 4e-8);
/** `-∞ · 0` is NaN in one formula and `-∞` in another; neither occurs in a sane model. */
const ambiguous = (kind: UnaryKind, x: number) => x === -Infinity && /silu|gelu/.test(kind);
const kinds = Object.keys(unaryKernels) as UnaryKind[];

describe('unary kernels', () => {
  it.each(kinds)('%s: bits of the twin, numbers of the exact function', (kind) => {
    const kernel = unaryKernels[kind];
    for (const n of [0, 1, 2, 3, 4, 7, 19, 1003]) {
      for (const nt of [1, 2, 3]) {
        const x = samples(n, kind === 'sqrt' || kind === 'rsqrt');
        const results = [b.wasm, b.twin].map((run) => {
          b.views.f32.fill(7, OUT / 4, OUT / 4 + n + 4);
          b.views.f32.set(x, X / 4);
          run(kernel, { out: OUT, x: X, n, a: 1.5, b: 3 }, nt);
          return plain(bits(b.views, OUT, n + 4));
        });
        expect(results[0]).toEqual(results[1]);
        x.forEach((v, i) => {
          const want = Math.fround(EXACT[kind](v, 1.5, 3));
          const got = b.views.f32[OUT / 4 + i]!;
          if (ambiguous(kind, v)) return;
          if (Number.isNaN(want)) expect(got).toBeNaN();
          else if (Math.abs(want) > 1e-30 || Math.abs(got) > 1e-30) {
            const error = Number.isFinite(want) ? Math.abs(got - want) : got === want ? 0 : Infinity;
            expect(error, `${kind}(${v}) = ${want}, got ${got}`).toBeLessThanOrEqual(
              RELATIVE * Math.abs(want) + absolute(kind, v),
            );
          }
        });
      }
    }
  });

  it('works in place', () => {
    b.views.f32.set([1, 2, 3, 4, 5], X / 4);
    b.wasm(unaryKernels.affine, { out: X, x: X, n: 5, a: 2, b: 1 }, 2);
    expect(Array.from(b.views.f32.subarray(X / 4, X / 4 + 5))).toEqual([3, 5, 7, 9, 11]);
  });
});

describe('exp', () => {
  it('is accurate to 1e-7 over its range', () => {
    const n = 1500;
    let worst = 0;
    for (let start = -87; start < 88; start += 1.75) {
      const x = Float32Array.from({ length: n }, (_, i) => start + (1.75 * i) / n);
      b.views.f32.set(x, X / 4);
      b.wasm(unaryKernels.exp, { out: OUT, x: X, n, a: 0, b: 0 });
      x.forEach((v, i) => {
        worst = Math.max(worst, Math.abs(b.views.f32[OUT / 4 + i]! / Math.exp(v) - 1));
      });
    }
    expect(worst).toBeLessThan(1.2e-7);
    expect(worst).toBeGreaterThan(1e-9);
  });
});

describe('binary kernels', () => {
  const layouts = [
    { name: 'same', rows: 1, single: 0, yRow: 0 },
    { name: 'row', rows: 5, single: 0, yRow: 0 },
    { name: 'column', rows: 5, single: 1, yRow: 4 },
    { name: 'one', rows: 5, single: 1, yRow: 0 },
  ];
  it.each(Object.keys(binaryKernels) as BinaryKind[])('%s', (kind) => {
    const next = random(9);
    const values = (count: number) =>
      Float32Array.from({ length: count }, (_, i) => (i % 7 === 0 ? 1 : Math.fround((next() - 0.3) * 4)));
    for (const { rows, single, yRow } of layouts) {
      for (const width of [1, 3, 4, 18, 65]) {
        for (const nt of [1, 2, 7]) {
          const x = values(rows * width);
          const y = values(rows * width);
          const results = [b.wasm, b.twin].map((run) => {
            b.views.f32.fill(7, OUT / 4, OUT / 4 + rows * width + 4);
            b.views.f32.set(x, X / 4);
            b.views.f32.set(y, Y / 4);
            run(binaryKernels[kind], { out: OUT, x: X, y: Y, rows, width, yRow, single }, nt);
            return plain(bits(b.views, OUT, rows * width + 4));
          });
          expect(results[0]).toEqual(results[1]);
          for (let i = 0; i < rows * width; i++) {
            const r = Math.floor(i / width);
            const right = y[(r * yRow) / 4 + (single ? 0 : i % width)]!;
            const want = Math.fround(EXACT_BINARY[kind](x[i]!, right));
            const got = b.views.f32[OUT / 4 + i]!;
            if (Number.isNaN(want)) expect(got).toBeNaN();
            else expect(Math.abs(got - want)).toBeLessThanOrEqual(1e-5 * Math.abs(want));
          }
        }
      }
    }
  });
});

describe('select', () => {
  it('takes x where the condition is not zero', () => {
    for (const n of [1, 6, 23]) {
      for (const nt of [1, 3]) {
        for (const run of [b.wasm, b.twin]) {
          b.views.f32.set(
            Float32Array.from({ length: n }, (_, i) => (i % 3) - 1),
            Z / 4,
          );
          b.views.f32.set(
            Float32Array.from({ length: n }, (_, i) => i),
            X / 4,
          );
          b.views.f32.set(
            Float32Array.from({ length: n }, (_, i) => -i),
            Y / 4,
          );
          run(select, { out: OUT, condition: Z, x: X, y: Y, n }, nt);
          const want = Array.from({ length: n }, (_, i) => (i % 3 === 1 ? -i : i));
          expect(Array.from(b.views.f32.subarray(OUT / 4, OUT / 4 + n))).toEqual(want);
        }
      }
    }
  });
});
