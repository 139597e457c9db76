import { describe, expect, it } from 'vitest';
import type { Variant } from '../../src/backends/cpu/kernel.ts';
import { activationOf, BLOCK32_FORMATS, type Block32, offsetsOf } from '../../src/backends/cpu/linear/block32.ts';
import { gatherKernel } from '../../src/backends/cpu/linear/gather.ts';
import { ACTIVATION_SCALE, BLOCK, groupsOf, TILE } from '../../src/backends/cpu/linear/layout.ts';
import { quantizeI8, quantizeI16 } from '../../src/backends/cpu/linear/quantize.ts';
import { repackKernel, storedOffsets } from '../../src/backends/cpu/linear/repack.ts';
import { tileKernel } from '../../src/backends/cpu/linear/tile.ts';
import { f32ToF16 } from '../../src/core/dtype.ts';
import { dequantize } from '../../src/quant/index.ts';
import { type Bench, bench, bits, DATA, enableRelaxedSimd, random, SIMD } from './support.ts';

enableRelaxedSimd();

const RELAXED: readonly Variant[] = [
  { fma: false, dot: 'i16' },
  { fma: true, dot: 'i16' },
];

/** The last word of the test's command. */
const COUNTER = DATA - 4;

type Fill = 'random' | 'largest' | 'integers' | 'zero';

/** Rows of a checkpoint: random codes and scales, or the largest codes with scales of one. */
function storedRows(format: Block32, rows: number, columns: number, fill: Fill, seed: number): Uint8Array {
  const next = random(seed);
  const stored = storedOffsets(format);
  const bytes = new Uint8Array((rows * columns * stored.bytes) / BLOCK);
  if (fill === 'zero') return bytes;
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < bytes.length; at += stored.bytes) {
    for (let i = 0; i < stored.bytes; i++) bytes[at + i] = fill === 'largest' ? 255 : next() * 256;
    if (format.bits === 8) {
      for (let i = stored.codes; i < stored.bytes; i++) bytes[at + i] = fill === 'largest' ? 127 : next() * 256;
    }
    view.setUint16(at, fill === 'largest' ? f32ToF16(1) : f32ToF16((next() - 0.5) * 2 ** (next() * 20 - 14)), true);
    if (format.minimum) view.setUint16(at + stored.minimum, f32ToF16(next() - 0.5), true);
  }
  return bytes;
}

function activations(rows: number, columns: number, fill: Fill, seed: number): Float32Array {
  const next = random(seed);
  return Float32Array.from({ length: rows * columns }, (_, i) => {
    if (fill === 'zero') return 0;
    if (fill === 'largest') return i & 1 ? 127 : -127;
    // Exact in codes of 8 and of 16 bits: the largest of each block is 127.
    if (fill === 'integers') return i % BLOCK ? Math.floor(next() * 255) - 127 : 127;
    return (next() - 0.5) * (i % 7 === 0 ? 20 : 1) * (Math.floor(i / BLOCK) % 5 === 4 ? 0 : 1);
  });
}

interface Setup {
  readonly b: Bench;
  readonly format: Block32;
  readonly kind: 'i8' | 'i16';
  readonly rows: number;
  readonly columns: number;
  readonly tokens: number;
  readonly at: Record<'stored' | 'w' | 'x' | 'q' | 'd' | 's' | 'y' | 'bias', number>;
}

const kernels = (format: Block32) => {
  const tiles = Array.from({ length: TILE }, (_, i) => tileKernel(format, i + 1));
  return { repack: repackKernel(format), gather: gatherKernel(format), tiles };
};

/** A memory holding repacked weights and quantized activations. */
function setup(
  format: Block32,
  variant: Variant,
  shape: { rows: number; columns: number; tokens: number; weights?: Fill; inputs?: Fill; seed?: number },
): Setup & ReturnType<typeof kernels> {
  const { rows, columns, tokens, seed = 1 } = shape;
  const k = kernels(format);
  const b = bench([k.repack, k.gather, ...k.tiles, quantizeI8, quantizeI16], variant, 1 << 22);
  let next = DATA;
  const place = (bytes: number) => {
    const at = next;
    next = Math.ceil((next + bytes) / 64) * 64;
    return at;
  };
  const padded = groupsOf(rows) * 8;
  const blocks = columns / BLOCK;
  const at = {
    stored: place((padded * columns * storedOffsets(format).bytes) / BLOCK),
    w: place((padded / 8) * blocks * offsetsOf(format).bytes),
    x: place(tokens * columns * 4),
    q: place(tokens * columns * 2 * 3),
    d: place(tokens * blocks * 4),
    s: place(tokens * blocks * 4),
    y: place(tokens * (rows + 3) * 4),
    bias: place(padded * 4),
  };
  b.views.u8.set(storedRows(format, rows, columns, shape.weights ?? 'random', seed), at.stored);
  b.views.f32.set(activations(tokens, columns, shape.inputs ?? 'random', seed + 1), at.x / 4);
  const noise = random(seed + 2);
  for (let i = 0; i < padded; i++) b.views.f32[at.bias / 4 + i] = noise() - 0.5;
  const kind = activationOf(format, variant) as 'i8' | 'i16';
  b.wasm(k.repack, { source: at.stored, target: at.w, groups: padded / 8, columns });
  const quantize = kind === 'i8' ? quantizeI8 : quantizeI16;
  b.wasm(quantize, { x: at.x, q: at.q, d: at.d, s: at.s, rows: tokens, columns, copyStride: 0 });
  return { b, format, kind, rows, columns, tokens, at, ...k };
}

/** All results, computed by the tile kernels as the back-end would call them. */
function multiply(
  s: ReturnType<typeof setup>,
  how: 'wasm' | 'twin',
  options: { bias?: boolean; accumulate?: boolean; nt?: number; chunk?: number } = {},
): Uint32Array {
  const { b, at, rows, columns, tokens } = s;
  const yStride = (rows + 3) * 4;
  const blocks = columns / BLOCK;
  const bytes = s.kind === 'i8' ? 1 : 2;
  b.views.f32.fill(0.25, at.y / 4, at.y / 4 + tokens * (rows + 3));
  const full = Math.floor(tokens / TILE);
  const run = (first: number, n: number, tiles: number) => {
    if (!tiles) return;
    const args = {
      ...{ w: at.w, rows, columns, copyStride: 0, tiles, yStride },
      x: at.q + first * columns * bytes,
      d: at.d + first * blocks * 4,
      s: at.s + first * blocks * 4,
      y: at.y + first * yStride,
      bias: options.bias ? at.bias : 0,
      accumulate: options.accumulate ? 1 : 0,
      chunk: options.chunk ?? 0,
      counter: COUNTER,
    };
    b.views.i32[COUNTER / 4] = 0;
    b[how](s.tiles[n - 1]!, args, options.nt ?? 1);
  };
  run(0, TILE, full);
  run(full * TILE, tokens % TILE, tokens % TILE ? 1 : 0);
  return bits(b.views, at.y, tokens * (rows + 3));
}

const floats = (words: Uint32Array) => new Float32Array(words.buffer);

function largestDifference(a: Uint32Array, b: Uint32Array): number {
  const x = floats(a);
  const y = floats(b);
  const scale = y.reduce((m, v) => Math.max(m, Math.abs(v)), 1e-30);
  return x.reduce((m, v, i) => Math.max(m, Math.abs(v - y[i]!)), 0) / scale;
}

describe.each([
  ['i8', quantizeI8],
  ['i16', quantizeI16],
] as const)('quantize.%s', (kind, kernel) => {
  it('gives the bits of its twin, shared or in private copies', () => {
    const b = bench([kernel], SIMD, 1 << 16);
    const [x, q, d, s] = [DATA, DATA + 8192, DATA + 28_672, DATA + 32_768];
    const values = activations(9, 64, 'random', 5);
    values.fill(0, 64, 96);
    values.fill(1e-38, 320, 352);
    values[330] = 2e-38;
    // Halves: ties go to the even code.
    for (let k = 0; k < 32; k++) values[448 + k] = k === 0 ? 127 : k / 2;
    for (const [rows, copyStride, nt] of [
      [9, 0, 1],
      [9, 0, 3],
      [3, 4096, 2],
      [1, 4096, 1],
    ] as const) {
      const results = [b.wasm, b.twin].map((run) => {
        b.views.u8.fill(0, x, DATA + 60_000);
        b.views.f32.set(values, x / 4);
        run(kernel, { x, q, d, s, rows, columns: 64, copyStride }, nt);
        return b.views.u8.slice(q, DATA + 60_000);
      });
      expect(results[0]).toEqual(results[1]);
    }
  });

  it.each([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])('%d spoils its block alone', (odd) => {
    const b = bench([kernel], SIMD, 1 << 16);
    const [x, q, d, s] = [DATA, DATA + 8192, DATA + 28_672, DATA + 32_768];
    const values = activations(1, 96, 'random', 5);
    for (const run of [b.wasm, b.twin]) {
      b.views.f32.set(values, x / 4);
      b.views.f32[x / 4 + 40] = odd;
      run(kernel, { x, q, d, s, rows: 1, columns: 96, copyStride: 0 });
      const finite = (at: number) => Array.from(b.views.f32.slice(at / 4, at / 4 + 3), Number.isFinite);
      expect([finite(d), finite(s)]).toEqual([
        [true, false, true],
        [true, false, true],
      ]);
    }
  });

  it('stays within half a step of the input', () => {
    const b = bench([kernel], SIMD, 1 << 16);
    const [x, q, d, s] = [DATA, DATA + 8192, DATA + 28_672, DATA + 32_768];
    const values = activations(1, 64, 'random', 6);
    b.views.f32.set(values, x / 4);
    b.wasm(kernel, { x, q, d, s, rows: 1, columns: 64, copyStride: 0 });
    const order = kind === 'i8' ? [0, 16] : [0, 1, 16, 17];
    let slot = 0;
    for (let block = 0; block < 2; block++) {
      const scale = b.views.f32[d / 4 + block]! / ACTIVATION_SCALE;
      let sum = 0;
      for (let step = 0; step < 4; step++) {
        for (const start of order) {
          for (let c = 0; c < (kind === 'i8' ? 4 : 2); c++) {
            const k = block * 32 + start + 4 * step + (kind === 'i8' ? c : 2 * c);
            const code = kind === 'i8' ? b.views.i8[q + slot]! : b.views.i16[q / 2 + slot]!;
            expect(Math.abs(code * scale - values[k]!)).toBeLessThanOrEqual(scale * 0.50001);
            sum += code;
            slot++;
          }
        }
      }
      expect(b.views.f32[s / 4 + block]).toBe(Math.fround(sum * b.views.f32[d / 4 + block]!));
    }
  });
});

describe.each(BLOCK32_FORMATS.map((format) => [format.name, format] as const))('%s', (name, format) => {
  it('repacks as its twin, whatever the number of threads', () => {
    const s = setup(format, SIMD, { rows: 20, columns: 96, tokens: 1 });
    const bytes = 3 * 3 * offsetsOf(format).bytes;
    const results = (['wasm', 'twin'] as const).flatMap((how) =>
      [1, 2, 3].map((nt) => {
        s.b.views.u8.fill(0xaa, s.at.w, s.at.w + bytes);
        s.b[how](s.repack, { source: s.at.stored, target: s.at.w, groups: 3, columns: 96 }, nt);
        return s.b.views.u8.slice(s.at.w, s.at.w + bytes);
      }),
    );
    for (const r of results) expect(r).toEqual(results[0]);
  });

  it('reads back the floats that the format defines', () => {
    const s = setup(format, SIMD, { rows: 20, columns: 96, tokens: 8 });
    const stored = s.b.views.u8.slice(s.at.stored, s.at.stored + (20 * 96 * storedOffsets(format).bytes) / 32);
    const expected = dequantize(name, stored, 96);
    const ids = [0, 19, 7, 8, 3, 3, 12, 5];
    s.b.views.i32.set(ids, s.at.x / 4);
    for (const how of ['wasm', 'twin'] as const) {
      s.b.views.f32.fill(-1, s.at.q / 4, s.at.q / 4 + 8 * 96);
      // Two sections over the same rows: the ids of the other one are left alone.
      s.b[how](s.gather, { w: s.at.w, columns: 96, first: 0, rows: 20, ids: s.at.x, count: 8, y: s.at.q }, 2);
      s.b[how](s.gather, { w: s.at.w, columns: 96, first: 20, rows: 20, ids: s.at.x, count: 8, y: s.at.q });
      ids.forEach((id, i) => {
        const at = s.at.q / 4 + i * 96;
        expect([...s.b.views.f32.slice(at, at + 96)]).toEqual([...expected.slice(id * 96, id * 96 + 96)]);
      });
    }
  });

  it('multiplies with the bits of its twin: SIMD128, every tile size, threads, bias, accumulation, odd rows', () => {
    for (const [rows, tokens] of [
      [8, 1],
      [13, 2],
      [16, 3],
      [21, 4],
      [9, 11],
    ] as const) {
      const s = setup(format, SIMD, { rows, columns: 96, tokens, seed: rows });
      for (const options of [
        {},
        { bias: true, accumulate: true, nt: 2 },
        { bias: true, nt: 3 },
        { accumulate: true, nt: 2, chunk: 1 },
        { chunk: 2 },
      ]) {
        expect(multiply(s, 'wasm', options)).toEqual(multiply(s, 'twin', options));
      }
    }
  });

  it('is exact in integers at the extremes', () => {
    for (const [weights, inputs] of [
      ['largest', 'largest'],
      ['random', 'largest'],
      ['largest', 'zero'],
    ] as const) {
      const s = setup(format, SIMD, { rows: 8, columns: 64, tokens: 4, weights, inputs });
      expect(multiply(s, 'wasm')).toEqual(multiply(s, 'twin'));
    }
  });

  it('tiles of every size agree with single tokens', () => {
    const s = setup(format, SIMD, { rows: 16, columns: 128, tokens: 7 });
    const together = multiply(s, 'wasm');
    for (let t = 0; t < 7; t++) {
      const single = setup(format, SIMD, { rows: 16, columns: 128, tokens: 1 });
      single.b.views.f32.set(s.b.views.f32.subarray(s.at.x / 4 + t * 128, s.at.x / 4 + t * 128 + 128), single.at.x / 4);
      const { x, q, d, s: sums } = single.at;
      single.b.wasm(quantizeI16, { x, q, d, s: sums, rows: 1, columns: 128, copyStride: 0 });
      expect(multiply(single, 'wasm')).toEqual(together.slice(t * 19, t * 19 + 19));
    }
  });

  it('is close to the product of the dequantized matrix', () => {
    const s = setup(format, SIMD, { rows: 16, columns: 256, tokens: 4, seed: 9 });
    const stored = s.b.views.u8.slice(s.at.stored, s.at.stored + (16 * 256 * storedOffsets(format).bytes) / 32);
    const w = dequantize(name, stored, 256);
    const y = floats(multiply(s, 'wasm'));
    let error = 0;
    let norm = 0;
    for (let t = 0; t < 4; t++) {
      for (let r = 0; r < 16; r++) {
        let sum = 0;
        for (let k = 0; k < 256; k++) sum += w[r * 256 + k]! * s.b.views.f32[s.at.x / 4 + t * 256 + k]!;
        error += (sum - y[t * 19 + r]!) ** 2;
        norm += sum ** 2;
      }
    }
    expect(Math.sqrt(error / norm)).toBeLessThan(0.02);
    expect(error).toBeGreaterThan(0);
  });

  const relaxed = hasRelaxed();
  it.skipIf(!relaxed)(
    `relaxed SIMD: same integers, floats within rounding${relaxed ? '' : ' (engine lacks it)'}`,
    () => {
      for (const variant of RELAXED) {
        for (const fill of ['random', 'largest'] as const) {
          for (const [rows, tokens] of [
            [13, 1],
            [16, 3],
            [24, 10],
          ] as const) {
            const shape = {
              rows,
              columns: 96,
              tokens,
              weights: fill,
              inputs: fill === 'random' ? 'integers' : fill,
            } as const;
            const expected = multiply(setup(format, SIMD, shape), 'wasm', { bias: true });
            const actual = multiply(setup(format, variant, shape), 'wasm', { bias: true });
            if (variant.fma) expect(largestDifference(actual, expected)).toBeLessThan(1e-6);
            else expect(actual).toEqual(expected);
          }
        }
      }
    },
  );
});

function hasRelaxed(): boolean {
  try {
    setup(BLOCK32_FORMATS[0]!, RELAXED[0]!, { rows: 8, columns: 32, tokens: 1 });
    return true;
  } catch {
    return false;
  }
}
