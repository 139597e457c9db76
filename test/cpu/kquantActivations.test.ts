import { describe, expect, it } from 'vitest';
import { quantizeK8, quantizeK16, SUM_WORDS } from '../../src/backends/cpu/linear/kquantActivations.ts';
import { activations } from './kquantSupport.ts';
import { bench, DATA, SIMD } from './support.ts';

const [X, Q, D, S, END] = [DATA, DATA + 32_768, DATA + 81_920, DATA + 83_968, DATA + 131_072];

describe.each([
  ['k8', quantizeK8],
  ['k16', quantizeK16],
] as const)('quantize.%s', (kind, kernel) => {
  const b = bench([kernel], SIMD, END - DATA);
  const run = (how: 'wasm' | 'twin', values: Float32Array, rows: number, copyStride = 0, nt = 1) => {
    b.views.u8.fill(0, X, END);
    b.views.f32.set(values, X / 4);
    b[how](kernel, { x: X, q: Q, d: D, s: S, rows, columns: 512, copyStride }, nt);
  };

  it('gives the bits of its twin, shared or in private copies', () => {
    const values = activations(9, 512, 'random', 5);
    values.fill(0, 512, 768);
    values.fill(1e-38, 1024, 1280);
    values[1100] = 2e-38;
    // Halves: ties go to the even code.
    for (let k = 0; k < 256; k++) values[1536 + k] = k === 0 ? 127 : (k % 100) / 2;
    for (const [rows, copyStride, nt] of [
      [9, 0, 1],
      [9, 0, 3],
      [3, 8192, 2],
      [1, 8192, 1],
    ] as const) {
      const [wasm, twin] = (['wasm', 'twin'] as const).map((how) => {
        run(how, values, rows, copyStride, nt);
        return b.views.u32.slice(Q / 4, END / 4);
      });
      expect(wasm!.findIndex((word, i) => word !== twin![i])).toBe(-1);
    }
  });

  it('NaN and infinities spoil their block alone', () => {
    for (const odd of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const values = activations(1, 512, 'random', 5);
      values[300] = odd;
      for (const how of ['wasm', 'twin'] as const) {
        run(how, values, 1);
        expect([Number.isFinite(b.views.f32[D / 4]), Number.isFinite(b.views.f32[D / 4 + 1])]).toEqual([true, false]);
      }
    }
  });

  it('stores codes in the order of the columns, and their sums', () => {
    const rows = 6;
    const values = activations(rows, 512, 'random', 6);
    run('wasm', values, rows);
    for (const [first, tokens] of [
      [0, 4],
      [4, 2],
    ] as const) {
      for (let token = 0; token < tokens; token++) {
        for (let block = 0; block < 2; block++) {
          const before = first * 2 + block * tokens;
          const scale = b.views.f32[D / 4 + before + token]!;
          const word = (i: number) => i * tokens + token;
          const codes = Array.from({ length: 256 }, (_, k) => {
            if (kind === 'k8') return b.views.i8[Q + before * 256 + word(k >> 2) * 4 + (k & 3)]!;
            return b.views.i16[Q / 2 + before * 256 + word((k >> 2) * 2 + (k & 1)) * 2 + ((k & 2) >> 1)]!;
          });
          codes.forEach((code, k) => {
            const value = values[(first + token) * 512 + block * 256 + k]!;
            expect(Math.abs(code * scale - value)).toBeLessThanOrEqual(scale * 0.50001);
          });
          expect(Math.max(...codes.map(Math.abs))).toBe(127);
          const stored = (i: number) => b.views.i16[S / 2 + (before * SUM_WORDS.count + word(i >> 1)) * 2 + (i & 1)]!;
          const sum = (pick: (k: number) => boolean) => codes.reduce((n, code, k) => n + (pick(k) ? code : 0), 0);
          for (let i = 0; i < 16; i++) {
            expect(stored(2 * (SUM_WORDS.halvesOf16 + i))).toBe(sum((k) => k >> 4 === i && !(k & 2)));
            expect(stored(2 * (SUM_WORDS.halvesOf16 + i) + 1)).toBe(sum((k) => k >> 4 === i && !!(k & 2)));
            expect(stored(2 * SUM_WORDS.of16 + i)).toBe(sum((k) => k >> 4 === i));
          }
          for (let i = 0; i < 8; i++) expect(stored(2 * SUM_WORDS.of32 + i)).toBe(sum((k) => k >> 5 === i));
        }
      }
    }
  });
});
