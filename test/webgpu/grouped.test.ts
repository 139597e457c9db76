/** Matrices of grouped rows, against double precision over their dequantized numbers. */
import { afterAll, describe, expect, it, vi } from 'vitest';
import type { WebGpuBackend } from '../../src/backends/webgpu/index.ts';
import { rowBytes, type StorageType, storageType } from '../../src/core/dtype.ts';
import { groupedType } from '../../src/core/grouped.ts';
import * as ops from '../../src/core/ops.ts';
import type { Tensor } from '../../src/core/tensor.ts';
import { Weight } from '../../src/core/weight.ts';
import { dequantizeInto, quantize } from '../../src/quant/index.ts';
import { nmse } from '../conformance/compare.ts';
import { Random } from '../conformance/random.ts';
import { GROUPED_CASES, storedRows } from '../quant/groupedRows.ts';
import { openWebGpu } from './support.ts';

const opened = await openWebGpu();
if (typeof opened === 'string') console.warn(`WebGPU grouped matrices skipped: ${opened}`);
const gpu = opened as WebGpuBackend;
const suite = typeof opened === 'string' ? describe.skip : describe;

// Software adapters compile a kernel for seconds, on a busy machine for many.
vi.setConfig({ testTimeout: 300_000 });

/** A number is rounded before its bias is added in some shaders, behind it in others. */
const EXACT = 1e-11;
const ROWS = 70;

function sectionOf(type: StorageType, bytes: Uint8Array, columns: number) {
  const row = rowBytes(type, columns) as number;
  return {
    type,
    rows: bytes.length / row,
    readRows: async (first: number, rows: number, target: Uint8Array) =>
      target.set(bytes.subarray(first * row, (first + rows) * row)),
  };
}

async function result(run: () => Tensor): Promise<Float32Array> {
  let out: Tensor | undefined;
  gpu.scope(() => {
    out = run();
  });
  return (await (out as Tensor).read()) as Float32Array;
}

/** Loads parts below one another and compares products, rows read back, and the size. */
async function check(
  parts: readonly (readonly [StorageType, Uint8Array])[],
  columns: number,
  label: string,
  bytesPerNumber: number,
): Promise<void> {
  const sections = parts.map(([type, bytes]) => sectionOf(type, bytes, columns));
  const rows = sections.reduce((n, s) => n + s.rows, 0);
  const w = new Weight('w', [rows, columns], await gpu.loadWeight({ name: 'w', shape: [rows, columns], sections }));
  expect(w.data.formats).toEqual([label]);
  expect(w.data.bytes / (Math.ceil(rows / 8) * 8) / (Math.ceil(columns / 32) * 32)).toBeLessThanOrEqual(bytesPerNumber);
  const values = new Float32Array(rows * columns);
  let at = 0;
  for (const [type, bytes] of parts) {
    const count = (bytes.length / (rowBytes(type, columns) as number)) * columns;
    dequantizeInto(type, bytes, 0, values, at, count);
    at += count;
  }
  for (const count of [1, 33]) {
    const x = new Random(count).normals(count * columns);
    const from = gpu.upload(x, [count, columns]);
    const got = await result(() => ops.linear(from, w));
    const want = Float32Array.from({ length: count * rows }, (_, i) => {
      const [row, o] = [Math.floor(i / rows) * columns, (i % rows) * columns];
      let sum = 0;
      for (let c = 0; c < columns; c++) sum += (x[row + c] as number) * (values[o + c] as number);
      return sum;
    });
    expect(nmse(got, want), `${count} rows`).toBeLessThan(EXACT);
    from.dispose();
  }
  const chosen = [rows - 1, 0, 8, 7];
  const ids = gpu.upload(Int32Array.from(chosen), [4]);
  const got = await result(() => ops.gatherRows(w, ids));
  const want = chosen.flatMap((r) => [...values.subarray(r * columns, (r + 1) * columns)]);
  expect(nmse(got, Float32Array.from(want))).toBeLessThan(EXACT);
  ids.dispose();
  w.dispose();
}

suite('grouped matrices on the device', () => {
  afterAll(async () => {
    expect(gpu.memory().persistent).toBe(0);
    await gpu.dispose();
  });

  for (const [name, g, columns] of GROUPED_CASES) {
    it(name, async () => {
      const type = groupedType(g, columns);
      const units = Math.ceil(columns / 32);
      const scales = (g.indexed ? g.group : Math.ceil((32 * units) / Math.min(g.group, columns))) * (g.bias ? 8 : 4);
      const code = ['u8', 'i8', 'e4m3'].includes(g.code) ? 1 : 0.5;
      // Numbers of groups once for eight rows.
      const size = code + scales / (32 * units) + (g.indexed ? 0.25 : 0);
      await check([[type, storedRows(g, columns, ROWS, 3)]], columns, g.label, size);
    });
  }

  it('indexed rows of several orders', async () => {
    const [, g, columns] = GROUPED_CASES.find(([name]) => name === 'u4, indexed') as (typeof GROUPED_CASES)[number];
    const type = groupedType(g, columns);
    const parts = [13, 24, 8].map((rows, i) => [type, storedRows(g, columns, rows, i)] as const);
    await check(parts, columns, g.label, 1.5);
  });

  for (const [name, size] of [
    ['AFQ3', 0.625],
    ['AFQ8_G32', 1.25],
    ['F8Q8', 1.125],
    ['NF4', 0.5625],
  ] as const) {
    it(`${name} blocks`, async () => {
      const x = new Random(5).normals(ROWS * 192);
      await check([[storageType(name), quantize(name, x, 192)]], 192, name, size);
    });
  }
});
