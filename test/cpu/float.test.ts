import { describe, expect, it } from 'vitest';
import { FLOAT_FORMATS, floatFamily } from '../../src/backends/cpu/linear/float.ts';
import { groupsOf, TILE } from '../../src/backends/cpu/linear/layout.ts';
import { f32ToF16 } from '../../src/core/dtype.ts';
import { dequantize } from '../../src/quant/index.ts';
import { bench, bits, DATA, enableRelaxedSimd, random, SIMD } from './support.ts';

enableRelaxedSimd();

/** Numbers of the format, tiny and subnormal ones among them. */
function storedRows(name: string, count: number, seed: number): Uint8Array {
  const next = random(seed);
  const values = Float32Array.from({ length: count }, (_, i) => (next() - 0.5) * (i % 11 === 0 ? 1e-6 : 1));
  if (name === 'F32') return new Uint8Array(values.buffer);
  const halves = new Uint16Array(count);
  values.forEach((v, i) => {
    halves[i] = name === 'F16' ? f32ToF16(v) : new Uint32Array(values.buffer)[i]! >>> 16;
  });
  return new Uint8Array(halves.buffer);
}

describe.each(FLOAT_FORMATS.map((format) => [format.name, format] as const))('%s', (name, format) => {
  const family = floatFamily(format)(SIMD);
  const kernels = [family.repack, family.gather, family.activation.kernel, ...family.tiles];

  function setup(rows: number, columns: number, tokens: number, variant = SIMD) {
    const b = bench(kernels, variant, 1 << 20);
    let next = DATA;
    const place = (bytes: number) => {
      next += bytes;
      next = Math.ceil(next / 64) * 64;
      return next - Math.ceil(bytes / 64) * 64;
    };
    const padded = groupsOf(rows) * 8;
    const at = {
      stored: place(padded * columns * 4),
      w: place(padded * columns * 4),
      x: place(tokens * columns * 4),
      q: place(tokens * columns * 4 * 3),
      y: place(tokens * (rows + 3) * 4),
      bias: place(padded * 4),
    };
    const stored = storedRows(name, rows * columns, rows);
    b.views.u8.set(stored, at.stored);
    const noise = random(7);
    for (let i = 0; i < tokens * columns; i++) b.views.f32[at.x / 4 + i] = noise() - 0.5;
    for (let i = 0; i < padded; i++) b.views.f32[at.bias / 4 + i] = noise() - 0.5;
    return { b, at, stored, rows, columns, tokens };
  }

  function multiply(s: ReturnType<typeof setup>, how: 'wasm' | 'twin', nt = 1, copyStride = 0): Uint32Array {
    const { b, at, rows, columns, tokens } = s;
    const yStride = (rows + 3) * 4;
    const run = b[how];
    b.views.f32.fill(0.25, at.y / 4, at.y / 4 + tokens * (rows + 3));
    run(family.repack, { source: at.stored, target: at.w, groups: groupsOf(rows), columns }, nt);
    run(family.activation.kernel, { x: at.x, q: at.q, d: 0, s: 0, rows: tokens, columns, copyStride }, nt);
    for (let first = 0; first < tokens; ) {
      const n = Math.min(TILE, tokens - first);
      const tiles = n === TILE ? Math.floor((tokens - first) / TILE) : 1;
      const args = { w: at.w, rows, columns, x: at.q + first * columns * 4, d: 0, s: 0, copyStride, tiles };
      const to = { y: at.y + first * yStride, yStride, bias: at.bias, accumulate: 1, chunk: 0, counter: 0 };
      run(family.tiles[n - 1]!, { ...args, ...to }, nt);
      first += n * tiles;
    }
    return bits(b.views, at.y, tokens * (rows + 3));
  }

  it('gives the bits of its twins for odd sizes and several threads', () => {
    for (const [rows, columns, tokens] of [
      [8, 16, 1],
      [13, 37, 2],
      [5, 1, 3],
      [24, 64, 4],
      [9, 35, 10],
    ] as const) {
      const s = setup(rows, columns, tokens);
      for (const [nt, copyStride] of [
        [1, 0],
        [2, 0],
        [3, 8192],
      ] as const) {
        expect(multiply(s, 'wasm', nt, copyStride)).toEqual(multiply(s, 'twin', nt, copyStride));
      }
    }
  });

  it('is the product in single precision, also with fused arithmetic', () => {
    for (const variant of [SIMD, { fma: true, dot: 'i16' }] as const) {
      const s = setup(13, 301, 6, variant);
      const y = new Float32Array(multiply(s, 'wasm').buffer);
      const w = dequantize(name, s.stored, 301);
      for (let t = 0; t < 6; t++) {
        for (let r = 0; r < 13; r++) {
          let sum = 0.25 + s.b.views.f32[s.at.bias / 4 + r]!;
          let size = 0;
          for (let k = 0; k < 301; k++) {
            const product = w[r * 301 + k]! * s.b.views.f32[s.at.x / 4 + t * 301 + k]!;
            sum += product;
            size += Math.abs(product);
          }
          expect(Math.abs(y[t * 16 + r]! - sum)).toBeLessThan(size * 1e-6);
        }
        expect([...y.slice(t * 16 + 13, t * 16 + 16)]).toEqual([0.25, 0.25, 0.25]);
      }
    }
  });

  it('reads rows back exactly', () => {
    const s = setup(11, 21, 4);
    multiply(s, 'wasm');
    const ids = [10, 0, 8, 7];
    s.b.views.i32.set(ids, s.at.x / 4);
    const expected = dequantize(name, s.stored, 21);
    for (const how of ['wasm', 'twin'] as const) {
      s.b.views.f32.fill(-1, s.at.q / 4, s.at.q / 4 + 4 * 21);
      s.b[how](family.gather, { w: s.at.w, columns: 21, first: 0, rows: 11, ids: s.at.x, count: 4, y: s.at.q }, 2);
      ids.forEach((id, i) => {
        const at = s.at.q / 4 + i * 21;
        expect(s.b.views.f32.slice(at, at + 21)).toEqual(expected.slice(id * 21, id * 21 + 21));
      });
    }
  });
});
