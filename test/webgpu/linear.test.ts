/** Matrix products over every stored format, against double precision over the dequantized numbers. */
import { afterAll, describe, expect, it, vi } from 'vitest';
import { type DeviceFacts, GpuDevice } from '../../src/backends/webgpu/device.ts';
import { WebGpuBackend } from '../../src/backends/webgpu/index.ts';
import { STORAGE_TYPES, storageType } from '../../src/core/dtype.ts';
import { WeightError } from '../../src/core/errors.ts';
import * as ops from '../../src/core/ops.ts';
import type { Tensor } from '../../src/core/tensor.ts';
import type { Weight } from '../../src/core/weight.ts';
import { nmse } from '../conformance/compare.ts';
import { Random } from '../conformance/random.ts';
import { loadMatrices, type Matrix, matrix, product, resultOn, sectionOf } from './matrices.ts';
import { openWebGpu } from './support.ts';

const opened = await openWebGpu();
if (typeof opened === 'string') console.warn(`WebGPU matrix products skipped: ${opened}`);
const gpu = opened as WebGpuBackend;
const suite = typeof opened === 'string' ? describe.skip : describe;

// Software adapters compile a kernel for seconds, on a busy machine for many.
vi.setConfig({ testTimeout: 300_000 });

const EXACT = 1e-11;

const load = (parts: readonly Matrix[], backend = gpu): Promise<Weight> => loadMatrices(backend, parts);
const result = (run: () => Tensor, backend = gpu): Promise<Float32Array> => resultOn(backend, run);

/** The same device with other facts: what kernels and loading make of them. */
function withFacts(facts: Partial<DeviceFacts>): WebGpuBackend {
  const device = new GpuDevice(gpu.gpu.device, { ...gpu.gpu.facts, ...facts });
  return new WebGpuBackend(device, gpu.info);
}

/** Every type of GGUF files that holds weights in blocks, floats, and one type that is expanded. */
const types = [...STORAGE_TYPES.values()]
  .filter((t) => t.blockSize > 1 && t.ggml !== undefined)
  .map((t) => t.name)
  .concat(['F32', 'F16', 'BF16', 'F8_E4M3']);

suite('linear on the device', () => {
  afterAll(async () => {
    expect(gpu.memory().persistent).toBe(0);
    await gpu.dispose();
  });

  // Rows for each kernel and beyond its size; all of them where little has to be compiled.
  for (const type of types) {
    it(`${type}`, async () => {
      const { blockSize } = storageType(type);
      const columns = blockSize === 1 ? 67 : 3 * Math.max(blockSize, 32);
      const m = matrix(type, 70, columns, 1);
      const w = await load([m]);
      if (type !== 'F8_E4M3') {
        // Kept as it is: 70 rows make nine slabs, a code book may lie behind them.
        expect(w.data.formats).toEqual([type]);
        expect(w.data.bytes).toBeLessThan(
          ((72 * m.bytes.length) / 70) * (blockSize === 1 ? 1.5 : 1.15) + (1 << 14) + 1,
        );
      }
      for (const rows of type === 'F32' ? [1, 2, 3, 4, 5, 8, 9, 16, 17, 33, 64, 65, 130] : [1, 5, 33]) {
        const x = new Random(rows).normals(rows * columns);
        const from = gpu.upload(x, [rows, columns]);
        const got = await result(() => ops.linear(from, w));
        expect(nmse(got, product(x, [m], columns)), `${rows} rows`).toBeLessThan(EXACT);
        from.dispose();
      }
      const ids = gpu.upload(Int32Array.of(69, 0, 8, 7), [4]);
      const got = await result(() => ops.gatherRows(w, ids));
      const want = [69, 0, 8, 7].flatMap((r) => [...m.values.subarray(r * columns, (r + 1) * columns)]);
      expect(nmse(got, Float32Array.from(want))).toBeLessThan(EXACT);
      ids.dispose();
      w.dispose();
    });
  }

  it('the larger blocks of real adapters', async () => {
    const large = withFacts({ software: false });
    const m = matrix('Q8_0', 70, 320, 2);
    const w = await load([m], large);
    for (const rows of [7, 13, 70]) {
      const x = new Random(rows).normals(rows * 320);
      const from = large.upload(x, [rows, 320]);
      const got = await result(() => ops.linear(from, w), large);
      expect(nmse(got, product(x, [m], 320)), `${rows} rows`).toBeLessThan(EXACT);
      from.dispose();
    }
    w.dispose();
    expect(large.memory().persistent).toBe(0);
  });

  it('sections of several types, with bias, added to a residual', async () => {
    const parts = [
      matrix('Q8_0', 13, 256, 3),
      matrix('F32', 5, 256, 4),
      matrix('F32', 6, 256, 5),
      matrix('Q4_K', 9, 256, 6),
    ];
    const w = await load(parts);
    expect(w.data.formats).toEqual(['Q8_0', 'F32', 'Q4_K']);
    const bias = gpu.upload(new Random(7).normals(33), [33]);
    const options = { bias, accumulate: true };
    for (const rows of [1, 3, 20]) {
      const x = new Random(rows).normals(rows * 256);
      const before = new Random(rows + 1).normals(rows * 33);
      const from = gpu.upload(x, [rows, 256]);
      const residual = gpu.upload(before, [rows, 33]);
      const got = await result(() => ops.linearAdd(residual, from, w, options));
      const b = (await bias.read()) as Float32Array;
      const want = product(x, parts, 256).map((v, i) => v + (before[i] as number) + (b[i % 33] as number));
      expect(nmse(got, want), `${rows} rows`).toBeLessThan(EXACT);
      from.dispose();
      residual.dispose();
    }
    bias.dispose();
    w.dispose();
  });

  it('x in the buffer of the result', async () => {
    const m = matrix('F32', 64, 64, 8);
    const w = await load([m]);
    const both = gpu.upload(new Random(9).normals(192), [3, 64]);
    const values = ((await both.read()) as Float32Array).slice();
    const got = await result(() => ops.linearAdd(both.rows(0, 1), both.rows(2, 3), w));
    const want = product(values.subarray(128), [m], 64).map((v, i) => v + (values[i] as number));
    expect(nmse(got, want)).toBeLessThan(EXACT);
    expect(((await both.read()) as Float32Array).subarray(64)).toEqual(values.subarray(64));
    both.dispose();
    w.dispose();
  });

  it('matrices larger than a binding are cut', async () => {
    const small = withFacts({ maxBinding: 1 << 14 });
    const parts = [matrix('Q8_0', 100, 320, 10), matrix('F16', 90, 320, 11)];
    const w = await load(parts, small);
    expect(small.memory().persistent).toBe(w.data.bytes);
    // 16 KiB hold 48 rows of 340 bytes, 24 rows of 640.
    expect((w.data as unknown as { pieces: unknown[] }).pieces).toHaveLength(3 + 4);
    for (const rows of [1, 6, 40]) {
      const x = new Random(rows).normals(rows * 320);
      const from = gpu.upload(x, [rows, 320]);
      const got = await result(() => {
        const out = gpu.allocRows(rows, 190);
        small.ops.linear(out, from, w, {});
        void small.flush();
        return out;
      });
      expect(nmse(got, product(x, parts, 320)), `${rows} rows`).toBeLessThan(EXACT);
      from.dispose();
    }
    w.dispose();
    expect(small.memory().persistent).toBe(0);
  });

  for (const limits of [{}, { maxBinding: 1 << 14 }]) {
    it(`chosen experts${'maxBinding' in limits ? ' of a matrix that is cut' : ''}`, async () => {
      const backend = withFacts(limits);
      const [experts, features, columns] = [5, 21, 192];
      const m = matrix('Q8_0', experts * features, columns, 12);
      const w = await load([m], backend);
      // Few rows; many; all with one expert, more than a tile of them; each with a row of `x` of its own.
      for (const [rows, perRow, spread, choices] of [
        [2, 2, false, experts],
        [60, 3, false, experts],
        [70, 1, false, 1],
        [40, 2, true, experts],
      ] as const) {
        const chosen = new Random(rows).integers(rows * perRow, choices);
        const xs = spread ? rows * perRow : rows;
        const x = new Random(rows + 1).normals(xs * columns);
        const from = gpu.upload(x, [xs, columns]);
        const ids = gpu.upload(chosen, [rows, perRow]);
        const got = await result(() => {
          const out = gpu.allocRows(rows * perRow, features);
          backend.scope(() => backend.ops.linearExperts?.(out, from, w, ids, experts));
          void backend.flush();
          return out;
        });
        const want = new Float32Array(rows * perRow * features);
        chosen.forEach((expert, pair) => {
          const row = Math.floor(pair / (spread ? 1 : perRow)) * columns;
          const values = m.values.subarray(expert * features * columns, (expert + 1) * features * columns);
          const part = { ...m, rows: features, values };
          want.set(product(x.subarray(row, row + columns), [part], columns), pair * features);
        });
        expect(nmse(got, want), `${rows} rows`).toBeLessThan(EXACT);
        from.dispose();
        ids.dispose();
      }
      w.dispose();
      expect(backend.memory().persistent).toBe(0);
    });
  }

  for (const transposed of [false, true]) {
    it(`matmul${transposed ? ' transposed' : ''}`, async () => {
      for (const [batch, m, k, n] of [
        [3, 1, 70, 5],
        [2, 66, 33, 65],
        [1, 3, 4, 130],
      ] as const) {
        const a = new Random(1).normals(batch * m * k);
        const b = new Random(2).normals(batch * k * n);
        const left = gpu.upload(a, [batch, m, k]);
        const right = gpu.upload(b, transposed ? [batch, n, k] : [batch, k, n]);
        const got = await result(() => ops.matmul(left, right, transposed));
        const want = new Float32Array(batch * m * n);
        for (let i = 0; i < want.length; i++) {
          const g = Math.floor(i / (m * n));
          const [row, column] = [Math.floor(i / n) * k, i % n];
          let sum = 0;
          for (let j = 0; j < k; j++) {
            sum += (a[row + j] as number) * (b[g * k * n + (transposed ? column * k + j : j * n + column)] as number);
          }
          want[i] = sum;
        }
        expect(nmse(got, want), `${m} × ${k} × ${n}`).toBeLessThan(EXACT);
        left.dispose();
        right.dispose();
      }
    });
  }

  it('what is wrong with a matrix is said, and nothing stays behind', async () => {
    const before = gpu.memory().persistent;
    const m = matrix('Q8_0', 4, 64, 13);
    const shape = [4, 64] as const;
    const section = sectionOf(m);
    const refused = async (raw: Parameters<WebGpuBackend['loadWeight']>[0], message: RegExp) => {
      const error = await gpu.loadWeight(raw).then(
        () => undefined,
        (e: unknown) => e,
      );
      expect(String(error)).toMatch(message);
      expect(gpu.memory().persistent).toBe(before);
      return error;
    };
    const rows = await refused({ name: 'w', shape: [5, 64], sections: [section] }, /expected 5 rows, got 4/);
    expect(rows).toBeInstanceOf(WeightError);
    await refused({ name: 'w', shape: [4, 40], sections: [section] }, /whole Q8_0 blocks \(32\), got 40/);
    const broken = { ...section, readRows: () => Promise.reject(new Error('torn file')) };
    await refused({ name: 'w', shape, sections: [broken] }, /torn file/);
    m.bytes[1] = 0x7c;
    await refused({ name: 'w', shape, sections: [section] }, /expected finite scales, got infinity or NaN in row 0/);
  });
});
