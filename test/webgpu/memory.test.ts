/** Scratch memory of ops that are called outside of scopes. */
import { afterAll, describe, expect, it, vi } from 'vitest';
import type { WebGpuBackend } from '../../src/backends/webgpu/index.ts';
import { storageType } from '../../src/core/dtype.ts';
import { Weight } from '../../src/core/weight.ts';
import { openWebGpu } from './support.ts';

const opened = await openWebGpu();
if (typeof opened === 'string') console.warn(`WebGPU scratch memory skipped: ${opened}`);
const gpu = opened as WebGpuBackend;
const suite = typeof opened === 'string' ? describe.skip : describe;
vi.setConfig({ testTimeout: 300_000 });

suite('scratch memory outside of scopes', () => {
  afterAll(() => gpu.dispose());

  it('comes back with every step, however it ends', async () => {
    // 33 columns: rows of x are copied into whole units, which takes scratch memory.
    const [rows, columns] = [4, 33];
    const bytes = new Uint8Array(new Float32Array(rows * columns).fill(1).buffer);
    const section = {
      type: storageType('F32'),
      rows,
      readRows: async (first: number, count: number, target: Uint8Array) =>
        target.set(bytes.subarray(first * columns * 4, (first + count) * columns * 4)),
    };
    const raw = { name: 'w', shape: [rows, columns] as const, sections: [section] };
    const w = new Weight('w', raw.shape, await gpu.loadWeight(raw));
    const x = gpu.upload(new Float32Array(columns).fill(2), [1, columns]);
    const out = gpu.persistent([1, rows]);
    const step = async (end: () => Promise<unknown>) => {
      for (let i = 0; i < 3; i++) gpu.ops.linear(out, x, w, {});
      await end();
    };
    const ends = [() => gpu.read(out), () => gpu.view(out), () => gpu.flush()];
    for (const end of ends) await step(end);
    const before = gpu.memory();
    expect(before.arena).toBeGreaterThan(0);
    for (let i = 0; i < 20; i++) await step(ends[i % ends.length] as () => Promise<unknown>);
    expect(gpu.memory()).toEqual(before);
    expect([...(await gpu.read(out))]).toEqual([66, 66, 66, 66]);
    for (const t of [x, out, w]) t.dispose();
    expect(gpu.memory().persistent).toBe(0);
  });
});
