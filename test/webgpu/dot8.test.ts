/** Tiles of 8-bit integers: every format against double precision, experts, and models whose prompts go through them. */
import { afterAll, describe, expect, it, vi } from 'vitest';
import { createWebGpuBackend, type WebGpuBackend } from '../../src/backends/webgpu/index.ts';
import { CODES } from '../../src/backends/webgpu/linear/codes.ts';
import { type StorageTypeName, storageType } from '../../src/core/dtype.ts';
import { messageOf } from '../../src/core/errors.ts';
import * as ops from '../../src/core/ops.ts';
import type { Weight } from '../../src/core/weight.ts';
import { nodeGpu } from '../../src/platform/nodeGpu.ts';
import { nmse } from '../conformance/compare.ts';
import { Random } from '../conformance/random.ts';
import { fixtures, LoadedModel, openModel, readPrompts } from '../models/harness.ts';
import { loadMatrices, type Matrix, matrix, product, resultOn } from './matrices.ts';

vi.setConfig({ testTimeout: 300_000 });

const api = (await nodeGpu()) as GPU | undefined;

/** A back-end that multiplies integers, or the reason why there is none here. */
async function open(): Promise<WebGpuBackend | string> {
  try {
    const backend = await createWebGpuBackend({ gpu: api, int8: true });
    if (backend.gpu.facts.dot8) return backend;
    await backend.dispose();
    return 'the adapter has no dot products of 8-bit integers';
  } catch (error) {
    return messageOf(error);
  }
}

const opened = await open();
if (typeof opened === 'string') console.warn(`products of 8-bit integers skipped: ${opened}`);
const gpu = opened as WebGpuBackend;
const suite = typeof opened === 'string' ? describe.skip : describe;

/** Rounding `x` to 8 bits, 32 columns at a time, costs about 3e-5 of the result's power. */
const BOUND = 2e-4;
/** The kernels of floats come a thousand times closer: what is above this went through integers. */
const FLOATS = 1e-8;

const labels = (w: Weight) =>
  (
    w.data as unknown as { pieces: { kernels: { int8: boolean; tile: () => { source: { label: string } } } }[] }
  ).pieces.map(({ kernels }) => kernels.tile().source.label);

suite('products of 8-bit integers', () => {
  afterAll(async () => {
    expect(gpu.memory().persistent).toBe(0);
    await gpu.dispose();
  });

  for (const type of CODES.keys() as Iterable<StorageTypeName>) {
    it(type, async () => {
      const { blockSize } = storageType(type);
      for (const [blocks, features, counts] of [
        [3, 70, [17, 64, 130]],
        [1, 5, [17]],
      ] as const) {
        const columns = blocks * Math.max(blockSize, 32);
        const m = matrix(type, features, columns, 1);
        const w = await loadMatrices(gpu, [m]);
        expect(labels(w)).toEqual([`tile ${type} int8`]);
        for (const rows of counts) {
          const x = new Random(rows).normals(rows * columns);
          const source = gpu.upload(x, [rows, columns]);
          const got = await resultOn(gpu, () => ops.linear(source, w));
          const error = nmse(got, product(x, [m], columns));
          expect(error, `${rows} rows`).toBeLessThan(BOUND);
          expect(error, `${rows} rows`).toBeGreaterThan(FLOATS);
          source.dispose();
        }
        w.dispose();
      }
    });
  }

  it('is exact where rows are whole numbers of steps', async () => {
    // Each unit holds 127 and integers: its codes are the numbers themselves.
    const [rows, columns] = [20, 512];
    const x = Float32Array.from(new Random(3).integers(rows * columns, 255), (v) => v - 127);
    for (let i = 0; i < x.length; i += 32) x[i] = i % 64 ? 127 : -127;
    x.fill(0, 5 * columns, 6 * columns);
    for (const type of ['Q4_1', 'Q5_0', 'Q6_K', 'Q8_0', 'Q2_K'] as const) {
      const m = matrix(type, 9, columns, 4);
      const w = await loadMatrices(gpu, [m]);
      const source = gpu.upload(x, [rows, columns]);
      const got = await resultOn(gpu, () => ops.linear(source, w));
      expect(nmse(got, product(x, [m], columns)), type).toBeLessThan(1e-11);
      expect([...got.subarray(45, 54)]).toEqual(new Array(9).fill(0));
      source.dispose();
      w.dispose();
    }
  });

  it('outliers spoil only the numbers of their own unit', async () => {
    const [rows, columns] = [17, 256];
    const m = matrix('Q8_0', 8, columns, 5);
    for (let o = 0; o < 8; o++) m.bytes.fill(0, o * 272, o * 272 + 34);
    m.values.forEach((_, i) => {
      if (i % columns < 32) m.values[i] = 0;
    });
    const x = new Random(6).normals(rows * columns);
    for (let r = 0; r < rows; r++) x[r * columns + 7] = 1e6;
    const w = await loadMatrices(gpu, [m]);
    const source = gpu.upload(x, [rows, columns]);
    const got = await resultOn(gpu, () => ops.linear(source, w));
    expect(nmse(got, product(x, [m], columns))).toBeLessThan(BOUND);
    source.dispose();
    w.dispose();
  });

  it('sections of integers and floats, with bias, added to a residual, x in the buffer of the result', async () => {
    const parts = [matrix('Q8_0', 13, 256, 7), matrix('F16', 5, 256, 8), matrix('Q4_K', 238, 256, 9)];
    const w = await loadMatrices(gpu, parts);
    expect(labels(w)).toEqual(['tile Q8_0 int8', 'tile F16', 'tile Q4_K int8']);
    const [rows, width] = [20, 256];
    const bias = gpu.upload(new Random(10).normals(width), [width]);
    const both = gpu.upload(new Random(11).normals(2 * rows * width), [2 * rows, width]);
    const before = ((await both.read()) as Float32Array).slice();
    const got = await resultOn(gpu, () =>
      ops.linearAdd(both.rows(0, rows), both.rows(rows, 2 * rows), w, { bias, accumulate: true }),
    );
    const b = (await bias.read()) as Float32Array;
    const added = product(before.subarray(rows * width), parts, width);
    const want = added.map((v, i) => v + (before[i] as number) + (b[i % width] as number));
    expect(nmse(got, want)).toBeLessThan(BOUND);
    for (const t of [bias, both]) t.dispose();
    w.dispose();
  });

  it('chosen experts', async () => {
    const [experts, features, columns] = [5, 21, 512];
    for (const type of ['Q8_0', 'Q5_K', 'Q6_K', 'MXFP4'] as const) {
      const m = matrix(type, experts * features, columns, 12);
      const w = await loadMatrices(gpu, [m]);
      for (const [rows, perRow, spread, choices] of [
        [60, 3, false, experts],
        [70, 1, false, 1],
        [40, 2, true, experts],
      ] as const) {
        const chosen = new Random(rows).integers(rows * perRow, choices);
        const given = spread ? rows * perRow : rows;
        const x = new Random(rows + 1).normals(given * columns);
        const source = gpu.upload(x, [given, columns]);
        const ids = gpu.upload(chosen, [rows, perRow]);
        const got = await resultOn(gpu, () => {
          const out = gpu.allocRows(rows * perRow, features);
          gpu.ops.linearExperts?.(out, source, w, ids, experts);
          return out;
        });
        const want = new Float32Array(rows * perRow * features);
        chosen.forEach((expert, pair) => {
          const row = Math.floor(pair / (spread ? 1 : perRow)) * columns;
          const values = m.values.subarray(expert * features * columns, (expert + 1) * features * columns);
          const part: Matrix = { ...m, rows: features, values };
          want.set(product(x.subarray(row, row + columns), [part], columns), pair * features);
        });
        const error = nmse(got, want);
        expect(error, `${type}, ${rows} rows`).toBeLessThan(BOUND);
        expect(error, `${type}, ${rows} rows`).toBeGreaterThan(FLOATS);
        source.dispose();
        ids.dispose();
      }
      w.dispose();
    }
  });

  it('is off with `strict`, and on software unless asked for', async () => {
    expect(gpu.info.reason).toMatch(/8-bit integers/);
    const kindOf = async (options: { strict?: boolean; int8?: boolean }) => {
      const backend = await createWebGpuBackend({ gpu: api, ...options });
      const w = await loadMatrices(backend, [matrix('Q8_0', 8, 64, 13)]);
      const [label] = labels(w);
      const said = /8-bit integers/.test(backend.info.reason);
      w.dispose();
      const { software } = backend.gpu.facts;
      await backend.dispose();
      expect(said).toBe(label === 'tile Q8_0 int8');
      return { said, software };
    };
    expect((await kindOf({ strict: true, int8: true })).said).toBe(false);
    expect((await kindOf({ int8: false })).said).toBe(false);
    const plain = await kindOf({});
    expect(plain.said).toBe(!plain.software);
  });

  // Random weights spread the rounding: one product is off by 0.5 %, the logits by 1.4 to 2.1 %.
  for (const name of ['gguf_llama_q8_0', 'gguf_llama_q4_k_m', 'gguf_qwen3moe_q8_0']) {
    it(`logits of ${name}`, async () => {
      const folder = new URL(`${name}/`, fixtures);
      const prompts = await readPrompts(folder);
      const model = await LoadedModel.load(gpu, 16, await openModel(folder, 'metadata'), 'auto');
      // Both prompts in one step, so that all rows go through tiles.
      const parts = prompts.map((p) => ({ track: model.track(p.ids), count: p.ids.length }));
      const got = await model.step(parts);
      const want = prompts.flatMap((p) => [...p.logits]);
      const error = Math.sqrt(nmse(got, Float32Array.from(want)));
      expect(error).toBeLessThan(0.025);
      expect(error).toBeGreaterThan(1e-4);
      model.dispose();
    });
  }
});
