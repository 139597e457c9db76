import { afterEach, describe, expect, it } from 'vitest';
import { type CpuOptions, createCpuBackend } from '../../src/backends/cpu/index.ts';
import { groupedFamily } from '../../src/backends/cpu/linear/groupedFamilies.ts';
import { layoutOf } from '../../src/backends/cpu/linear/groupedLayout.ts';
import { groupsOf, TILE } from '../../src/backends/cpu/linear/layout.ts';
import { ReferenceBackend } from '../../src/backends/reference/index.ts';
import type { Backend } from '../../src/core/backend.ts';
import { rowBytes, type StorageType, storageType } from '../../src/core/dtype.ts';
import { codeBits, groupedRow, groupedType } from '../../src/core/grouped.ts';
import { Weight } from '../../src/core/weight.ts';
import { dequantizeInto, quantize } from '../../src/quant/index.ts';
import { GROUPED_CASES as CASES, storedRows } from '../quant/groupedRows.ts';
import { bench, bits, DATA, enableRelaxedSimd, random, SIMD } from './support.ts';

enableRelaxedSimd();

function decoded(type: StorageType, bytes: Uint8Array, elements: number): Float32Array {
  const out = new Float32Array(elements);
  dequantizeInto(type, bytes, 0, out, 0, elements);
  return out;
}

/** Cases whose codes are multiplied by floats; those of integers are tested with the other integer formats. */
const FLOATS = CASES.filter(([, g, columns]) => !layoutOf(g, columns));

it('most kinds of codes have both', () => {
  expect(new Set(FLOATS.map(([, g]) => g.code)).size).toBeGreaterThan(4);
  expect(new Set(CASES.filter((c) => !FLOATS.includes(c)).map(([, g]) => g.code)).size).toBeGreaterThan(3);
});

describe.each(FLOATS)('grouped rows, %s', (_, g, columns) => {
  const type = groupedType(g, columns);
  const family = groupedFamily(g, columns)[1](SIMD);
  const kernels = [family.repack, family.gather, family.activation.kernel, ...family.tiles];

  function setup(rows: number, tokens: number, variant = SIMD) {
    const b = bench(kernels, variant, 1 << 20);
    let next = DATA;
    const place = (bytes: number) => {
      next += Math.ceil(bytes / 64) * 64;
      return next - Math.ceil(bytes / 64) * 64;
    };
    const padded = groupsOf(rows) * 8;
    const at = {
      stored: place(padded * type.blockBytes),
      w: place((padded / 8) * family.groupBytes(columns)),
      x: place(tokens * columns * 4),
      q: place(tokens * columns * 4 * 3),
      y: place(tokens * (rows + 3) * 4),
      bias: place(padded * 4),
    };
    const stored = storedRows(g, columns, rows, rows + 1);
    b.views.u8.set(stored, at.stored);
    const noise = random(7);
    for (let i = 0; i < tokens * columns; i++) b.views.f32[at.x / 4 + i] = noise() - 0.5;
    for (let i = 0; i < padded; i++) b.views.f32[at.bias / 4 + i] = noise() - 0.5;
    return { b, at, stored, rows, tokens };
  }

  function multiply(s: ReturnType<typeof setup>, how: 'wasm' | 'twin', nt = 1, copyStride = 0): Uint32Array {
    const { b, at, rows, tokens } = s;
    const yStride = (rows + 3) * 4;
    const run = b[how];
    b.views.f32.fill(0.25, at.y / 4, at.y / 4 + tokens * (rows + 3));
    b.views.u8.fill(0xaa, at.w, at.w + groupsOf(rows) * family.groupBytes(columns));
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
    for (const [rows, tokens] of [
      [8, 1],
      [13, 2],
      [5, 3],
      [24, 4],
      [9, 10],
    ] as const) {
      const s = setup(rows, tokens);
      for (const [nt, copyStride] of [
        [1, 0],
        [2, 0],
        [3, 8192],
      ] as const) {
        const got = multiply(s, 'wasm', nt, copyStride);
        const kept = s.b.views.u8.slice(s.at.w, s.at.w + groupsOf(rows) * family.groupBytes(columns));
        expect(got).toEqual(multiply(s, 'twin', nt, copyStride));
        expect(s.b.views.u8.slice(s.at.w, s.at.w + kept.length)).toEqual(kept);
      }
    }
  });

  it('is the product in single precision, also with fused arithmetic', () => {
    for (const variant of [SIMD, { fma: true, dot: 'i16' }] as const) {
      const s = setup(13, 6, variant);
      const y = new Float32Array(multiply(s, 'wasm').buffer);
      const w = decoded(type, s.stored, 13 * columns);
      for (let t = 0; t < 6; t++) {
        for (let r = 0; r < 13; r++) {
          let sum = 0.25 + s.b.views.f32[s.at.bias / 4 + r]!;
          let size = 1;
          for (let k = 0; k < columns; k++) {
            const product = w[r * columns + k]! * s.b.views.f32[s.at.x / 4 + t * columns + k]!;
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
    for (const variant of [SIMD, { fma: true, dot: 'i16' }] as const) {
      const s = setup(11, 4, variant);
      multiply(s, 'wasm');
      const ids = [10, 0, 8, 7];
      s.b.views.i32.set(ids, s.at.x / 4);
      const expected = decoded(type, s.stored, 11 * columns);
      for (const how of ['wasm', 'twin'] as const) {
        s.b.views.f32.fill(-1, s.at.q / 4, s.at.q / 4 + 4 * columns);
        s.b[how](family.gather, { w: s.at.w, columns, first: 0, rows: 11, ids: s.at.x, count: 4, y: s.at.q }, 2);
        ids.forEach((id, i) => {
          const at = s.at.q / 4 + i * columns;
          const got = Array.from(s.b.views.f32.slice(at, at + columns), (v) => v + 0);
          expect(got).toEqual(Array.from(expected.slice(id * columns, (id + 1) * columns), (v) => v + 0));
        });
      }
    }
  });
});

const live: Backend[] = [];
afterEach(async () => {
  for (const backend of live.splice(0)) await backend.dispose();
});

interface Matrix {
  readonly type: StorageType;
  readonly bytes: Uint8Array;
  readonly columns: number;
}

const BLOCKS = ['AFQ2', 'AFQ3', 'AFQ4', 'AFQ6', 'AFQ8', 'AFQ4_G32', 'AFQ3_G128', 'F8Q8', 'NF4', 'FP4'] as const;
const ROWS = 24;

function matrices(): readonly Matrix[] {
  const next = random(5);
  const x = Float32Array.from({ length: ROWS * 256 }, () => next() - 0.5);
  return [
    ...CASES.map(([, g, columns]) => ({
      ...{ type: groupedType(g, columns), bytes: storedRows(g, columns, ROWS, 3), columns },
    })),
    ...BLOCKS.map((name) => ({ type: storageType(name), bytes: quantize(name, x, 256), columns: 256 })),
  ];
}

describe.each<readonly [string, () => Promise<Backend>]>([
  ...(
    [
      ['cpu, two workers', { threads: 2 }],
      ['cpu, inline, SIMD128', { inline: true, simd: 'simd' }],
    ] as [string, CpuOptions][]
  ).map(([name, options]) => [name, () => createCpuBackend(options)] as [string, () => Promise<Backend>]),
  ['reference', async () => new ReferenceBackend()],
])('matrices of grouped rows: %s', (name, create) => {
  it('are kept as codes, read back exactly and multiplied, also by experts', async () => {
    const backend = await create();
    live.push(backend);
    for (const { type, bytes, columns } of matrices()) {
      const row = rowBytes(type, columns)!;
      const readRows = async (first: number, n: number, target: Uint8Array) =>
        target.set(bytes.subarray(first * row, (first + n) * row));
      const raw = { name: 'w', shape: [ROWS, columns] as const, sections: [{ type, rows: ROWS, readRows }] };
      const w = new Weight('w', raw.shape, await backend.loadWeight(raw));
      expect(w.data.formats).toEqual([type.grouping?.label ?? type.name]);
      const nibbles = (type.grouping ? codeBits(type.grouping.code) : type.name.startsWith('AFQ8') ? 8 : 4) === 4;
      const indexed = type.grouping?.indexed === true;
      if (columns >= 96 && !indexed) expect(w.data.bytes).toBeLessThan(ROWS * columns * (nibbles ? 1.3 : 1.6));
      else if (columns >= 64) expect(w.data.bytes).toBeLessThan(ROWS * columns * 4);
      const values = decoded(type, bytes, ROWS * columns);
      const out = backend.alloc([2, columns]);
      backend.ops.gatherRows(out, w, backend.upload(Int32Array.of(ROWS - 1, 3), [2]));
      const rows = (await backend.read(out)) as Float32Array;
      [ROWS - 1, 3].forEach((id, i) => {
        const got = Array.from(rows.slice(i * columns, (i + 1) * columns), (v) => v + 0);
        expect(got).toEqual(Array.from(values.slice(id * columns, (id + 1) * columns), (v) => v + 0));
      });
      const next = random(9);
      const x = Float32Array.from({ length: 5 * columns }, () => next() - 0.5);
      const input = backend.upload(x, [5, columns]);
      const y = backend.alloc([5, ROWS]);
      backend.ops.linear(y, input, w, {});
      const integers = name !== 'reference' && (!type.grouping || layoutOf(type.grouping, columns) !== undefined);
      const expectProduct = (got: number, t: number, r: number) => {
        let sum = 0;
        let size = 0;
        for (let k = 0; k < columns; k++) {
          sum += x[t * columns + k]! * values[r * columns + k]!;
          size += Math.abs(values[r * columns + k]!);
        }
        // Inputs are at most 0.5, and half a step of 8 bits away from their codes.
        const rounding = integers ? (size * 0.5) / 254 : 0;
        expect(Math.abs(got - sum)).toBeLessThan(2e-5 * columns + rounding);
      };
      const result = (await backend.read(y)) as Float32Array;
      result.forEach((v, i) => {
        expectProduct(v, Math.floor(i / ROWS), i % ROWS);
      });
      const experts = backend.upload(Int32Array.of(2, 0, 1, 1, 2, 0, 0, 2, 1, 0), [5, 2]);
      const chosen = backend.alloc([10, 8]);
      backend.ops.linearExperts!(chosen, input, w, experts, 3);
      const ofExperts = (await backend.read(chosen)) as Float32Array;
      [2, 0, 1, 1, 2, 0, 0, 2, 1, 0].forEach((expert, pair) => {
        for (let r = 0; r < 8; r++) {
          expectProduct(ofExperts[pair * 8 + r]!, Math.floor(pair / 2), expert * 8 + r);
        }
      });
      for (const t of [out, input, y, chosen, w]) t.dispose();
    }
  });
});

it.each(['simd', 'auto'] as const)(
  'scales as large and as small as floats go keep products in range: %s',
  async (simd) => {
    const backend = await createCpuBackend({ inline: true, simd });
    live.push(backend);
    const columns = 128;
    const types = [
      ...(['AFQ2', 'AFQ4', 'AFQ6', 'AFQ8', 'NF4', 'FP4'] as const).map(storageType),
      ...(['u4', 'u8', 'i8', 'e4m3', 'e2m1'] as const).map((code) =>
        groupedType({ label: 'SOME', code, group: 64, bias: code.startsWith('u'), indexed: false }, columns),
      ),
    ];
    const next = random(2);
    const x = Float32Array.from({ length: columns }, () => next() - 0.5);
    for (const type of types) {
      for (const scale of [1e32, 1e-32, 0]) {
        const bytes = new Uint8Array(ROWS * rowBytes(type, columns)!).map(() => next() * 120);
        const view = new DataView(bytes.buffer);
        const floatsInFront = type.grouping
          ? groupedRow(type.grouping, columns).codes / 4
          : type.name.startsWith('AFQ')
            ? 2
            : 1;
        for (let at = 0; at < bytes.length; at += type.blockBytes) {
          for (let i = 0; i < floatsInFront; i++) view.setFloat32(at + 4 * i, i % 2 ? -scale : scale, true);
        }
        const readRows = async (first: number, n: number, target: Uint8Array) => {
          const row = rowBytes(type, columns)!;
          target.set(bytes.subarray(first * row, (first + n) * row));
        };
        const raw = { name: 'w', shape: [ROWS, columns] as const, sections: [{ type, rows: ROWS, readRows }] };
        const w = new Weight('w', raw.shape, await backend.loadWeight(raw));
        const y = backend.alloc([1, ROWS]);
        backend.ops.linear(y, backend.upload(x, [1, columns]), w, {});
        const values = decoded(type, bytes, ROWS * columns);
        (await backend.read(y)).forEach((got, r) => {
          let [sum, magnitude] = [0, 0];
          for (let k = 0; k < columns; k++) {
            sum += x[k]! * values[r * columns + k]!;
            magnitude += Math.abs(x[k]! * values[r * columns + k]!);
          }
          expect(Math.abs(got - sum), `${type.name} ${type.grouping?.code} ${scale}`).toBeLessThanOrEqual(
            magnitude * 0.02,
          );
        });
        for (const t of [y, w]) t.dispose();
      }
    }
  },
);

it('bytes without a scale are kept as bfloat16, which holds them exactly', async () => {
  const backend = await createCpuBackend({ inline: true });
  live.push(backend);
  const columns = 40;
  for (const name of ['F8_E4M3', 'F8_E5M2', 'I8', 'U8'] as const) {
    const type = storageType(name);
    // No code that is not a number.
    const bytes = Uint8Array.from({ length: ROWS * columns }, (_, i) => ((i * 37) % 120) | (i & 1 ? 128 : 0));
    const readRows = async (first: number, n: number, target: Uint8Array) =>
      target.set(bytes.subarray(first * columns, (first + n) * columns));
    const raw = { name: 'w', shape: [ROWS, columns] as const, sections: [{ type, rows: ROWS, readRows }] };
    const w = new Weight('w', raw.shape, await backend.loadWeight(raw));
    expect(w.data.bytes).toBe(2 * ROWS * columns);
    const out = backend.alloc([1, columns]);
    backend.ops.gatherRows(out, w, backend.upload(Int32Array.of(5), [1]));
    const expected = decoded(type, bytes, ROWS * columns).slice(5 * columns, 6 * columns);
    expect(Array.from(await backend.read(out), (v) => v + 0)).toEqual(Array.from(expected, (v) => v + 0));
    for (const t of [out, w]) t.dispose();
  }
});
