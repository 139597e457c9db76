/** The paged cache and attention on the device against the reference, where sizes, limits and mixtures are unusual. */
import { afterAll, describe, expect, it } from 'vitest';
import { ReferenceBackend } from '../../src/backends/reference/index.ts';
import { GpuDevice } from '../../src/backends/webgpu/device.ts';
import { WebGpuBackend } from '../../src/backends/webgpu/index.ts';
import type { Backend, KvCache, NormOptions } from '../../src/core/backend.ts';
import type { TypedArray } from '../../src/core/dtype.ts';
import * as ops from '../../src/core/ops.ts';
import { nmse } from '../conformance/compare.ts';
import { Environment, type SequenceSpec } from '../conformance/environment.ts';
import { openWebGpu } from './support.ts';

const opened = await openWebGpu();
if (typeof opened === 'string') console.warn(`WebGPU attention skipped: ${opened}`);
const gpu = opened as WebGpuBackend;
const suite = typeof opened === 'string' ? describe.skip : describe;
const reference = new ReferenceBackend();

/** The same device, as if it could do no more than every WebGPU device. */
function lowered(): WebGpuBackend {
  const facts = { ...gpu.gpu.facts, sharedBytes: 16384, subgroups: false, maxBindings: 8, maxInvocations: 256 };
  return new WebGpuBackend(new GpuDevice(gpu.gpu.device, facts), gpu.info);
}

interface Scenario {
  readonly kvHeads: number;
  readonly group: number;
  readonly headDim: number;
  readonly valueDim?: number;
  readonly valuesInKeys?: boolean;
  readonly dtype?: 'f32' | 'f16';
  readonly blockSize?: number;
  readonly sequences: readonly SequenceSpec[];
  readonly window?: number;
  readonly softcap?: number;
  readonly sinks?: boolean;
  /** Of the scores; large ones make every row depend on few keys. */
  readonly scale?: number;
  readonly norms?: boolean;
  /** Runs between the storing of the rows and the attention. */
  readonly meddle?: (cache: KvCache, batch: ReturnType<Environment['batch']>, backend: Backend) => void;
}

/** Queries and results of a step behind a stored past. */
async function run(backend: Backend, s: Scenario): Promise<TypedArray[]> {
  const { kvHeads, headDim, blockSize = 32, dtype = 'f32', valuesInKeys = false } = s;
  const valueDim = s.valueDim ?? headDim;
  const heads = kvHeads * s.group;
  const e = new Environment(backend, 7, []);
  const blocksOf = ({ past, rows }: SequenceSpec) => Math.ceil((past + rows) / blockSize);
  const total = s.sequences.reduce((n, q) => n + blocksOf(q), 1);
  const order = e.random.shuffled(total);
  const tables = s.sequences.map((q) => order.splice(0, blocksOf(q)));
  const cache = e.keep(
    ops.createKvCache(backend, { kvHeads, keyDim: headDim, valueDim, valuesInKeys, dtype }, total, blockSize),
  );
  const norm = (kind: 'rms' | 'layer'): NormOptions | undefined =>
    s.norms ? { kind, eps: 1e-5, weight: e.normal([headDim]), bias: e.normal([headDim]) } : undefined;
  const stored = {
    heads: valuesInKeys ? 0 : heads,
    kvHeads,
    headDim,
    valueDim,
    qNorm: norm('rms'),
    kNorm: norm('layer'),
  };
  const width = (stored.heads + kvHeads) * headDim + (valuesInKeys ? 0 : kvHeads * valueDim);
  const results: TypedArray[] = [];
  const outputs: { read(): Promise<TypedArray> }[] = [];
  backend.scope(() => {
    const past = e.batch(
      s.sequences.map((q) => ({ past: 0, rows: q.past })),
      blockSize,
      tables,
    );
    ops.qkvStore(e.normal([past.rows, width]), undefined, cache, past, stored);
    const batch = e.batch(s.sequences, blockSize, tables);
    const own = ops.qkvStore(e.normal([batch.rows, width]), undefined, cache, batch, stored);
    const q = valuesInKeys ? e.normal([batch.rows, heads * headDim]) : own;
    s.meddle?.(cache, batch, backend);
    const options = {
      ...{ heads, kvHeads, headDim, valueDim, window: s.window, softcap: s.softcap },
      scale: s.scale ?? headDim ** -0.5,
      sinks: s.sinks ? e.normal([heads], 3) : undefined,
    };
    outputs.push(q, ops.attention(q, cache, batch, options));
  });
  for (const t of outputs) results.push(await t.read());
  e.dispose();
  return results;
}

async function expectEqual(backend: Backend, s: Scenario): Promise<void> {
  const want = await run(reference, s);
  const got = await run(backend, s);
  const bound = s.dtype === 'f16' ? 1e-9 : 1e-11;
  got.forEach((g, i) => {
    expect(nmse(g, want[i] as TypedArray)).toBeLessThanOrEqual(bound);
  });
}

suite('attention on WebGPU', () => {
  afterAll(() => Promise.all([gpu.dispose(), reference.dispose()]));

  describe.each(['f32', 'f16'] as const)('over a cache in %s', (dtype) => {
    it('shares long contexts among workgroups', () =>
      expectEqual(gpu, {
        ...{ kvHeads: 2, group: 4, headDim: 32, dtype, blockSize: 16 },
        sequences: [
          { past: 1500, rows: 1 },
          { past: 70, rows: 1 },
          { past: 900, rows: 3 },
          { past: 0, rows: 1 },
        ],
      }));

    it('decodes and prefills in one step', () =>
      expectEqual(gpu, {
        ...{ kvHeads: 1, group: 3, headDim: 20, valueDim: 12, dtype, sinks: true },
        sequences: [
          { past: 40, rows: 1 },
          { past: 10, rows: 90 },
          { past: 0, rows: 0 },
          { past: 600, rows: 3 },
          { past: 0, rows: 9 },
          { past: 33, rows: 8 },
        ],
      }));
  });

  it.each([1, 31, 32, 33, 64, 65])('sees a window of %i positions', (window) =>
    expectEqual(gpu, {
      ...{ kvHeads: 1, group: 2, headDim: 16, window },
      sequences: [
        { past: 31, rows: 1 },
        { past: 32, rows: 1 },
        { past: 700, rows: 1 },
        { past: 95, rows: 66 },
      ],
    }),
  );

  it.each([1, 5, 48])('works on blocks of %i positions', (blockSize) =>
    expectEqual(gpu, {
      ...{ kvHeads: 2, group: 1, headDim: 6, blockSize },
      sequences: [
        { past: 130, rows: 1 },
        { past: 3, rows: 50 },
      ],
    }),
  );

  it('keeps its sums when later keys outweigh all before', () =>
    expectEqual(gpu, {
      ...{ kvHeads: 1, group: 4, headDim: 64, scale: 3, sinks: true, softcap: 50 },
      sequences: [
        { past: 400, rows: 1 },
        { past: 100, rows: 70 },
      ],
    }));

  /** Kernels of large tiles take software adapters long to compile. */
  const LONG = 240_000;
  const large = { kvHeads: 1, group: 16, headDim: 576, valueDim: 512, valuesInKeys: true };
  const sequences = [
    { past: 300, rows: 1 },
    { past: 5, rows: 35 },
  ];

  it('takes large heads whose values lie in the keys', () => expectEqual(gpu, { ...large, sequences }), LONG);

  it(
    'takes them with little workgroup memory and without subgroups',
    async () => {
      const small = lowered();
      await expectEqual(small, { ...large, sequences, dtype: 'f16' });
      expect(small.memory().persistent).toBe(0);
    },
    LONG,
  );

  it.each([
    { kvHeads: 2, group: 12, headDim: 256 },
    { kvHeads: 1, group: 80, headDim: 8 },
  ])('deals $group heads of $headDim to several tiles', (heads) => expectEqual(gpu, { ...heads, sequences }), LONG);

  it(
    'norms with biases, on devices with few bindings too',
    async () => {
      const scenario = { kvHeads: 2, group: 2, headDim: 24, norms: true, sequences: [{ past: 40, rows: 12 }] };
      await expectEqual(gpu, scenario);
      await expectEqual(lowered(), scenario);
    },
    LONG,
  );

  it('copies blocks, keys and values, without ties to the original', () =>
    expectEqual(gpu, {
      ...{
        kvHeads: 2,
        group: 1,
        headDim: 10,
        valueDim: 14,
        sequences: [
          { past: 70, rows: 4 },
          { past: 64, rows: 4 },
        ],
      },
      meddle: (cache, batch, backend) => {
        const [a, b, c] = batch.host.blockTable as unknown as [number, number, number];
        ops.copyKvBlock(backend, cache, a, b);
        ops.copyKvBlock(backend, cache, c, a);
      },
    }));

  it('takes lengths from the device: what the host holds only sets the size of the grid', () => {
    const scenario = {
      kvHeads: 1,
      group: 2,
      headDim: 16,
      sequences: [
        { past: 333, rows: 1 },
        { past: 20, rows: 2 },
      ],
    };
    return expectEqual(gpu, {
      ...scenario,
      meddle: (_cache, batch, backend) => {
        if (backend === gpu) batch.host.kvLen.fill(900, 0, 2);
      },
    });
  });

  it('masks plain keys: shared or by head, whole rows, lowest numbers', async () => {
    const dense = async (backend: Backend, byHead: boolean, causal: boolean) => {
      const [heads, kvHeads, headDim, valueDim, rows, keys] = [4, 2, 18, 40, 70, 133];
      const e = new Environment(backend, 3, []);
      const mask = e.random.normals((byHead ? heads : 1) * rows * keys, 2);
      mask.forEach((_, i) => {
        if (i % 3 === 0) mask[i] = -Infinity;
        // A row that sees nothing, and one whose keys all have the lowest of numbers.
        if (Math.floor(i / keys) % rows === 5) mask[i] = -Infinity;
        if (Math.floor(i / keys) % rows === 6) mask[i] = -3.4028234663852886e38;
      });
      const shape = byHead ? [heads, rows, keys] : [rows, keys];
      let out: { read(): Promise<TypedArray> } | undefined;
      backend.scope(() => {
        out = ops.denseAttention(
          e.normal([rows, heads * headDim]),
          e.normal([keys, kvHeads * headDim]),
          e.normal([keys, kvHeads * valueDim]),
          { heads, kvHeads, headDim, valueDim, scale: 0.3, causal },
          e.put(mask, shape),
        );
      });
      const values = await (out as { read(): Promise<TypedArray> }).read();
      e.dispose();
      return values;
    };
    for (const [byHead, causal] of [
      [false, false],
      [true, true],
    ] as const) {
      const want = await dense(reference, byHead, causal);
      expect(nmse(await dense(gpu, byHead, causal), want)).toBeLessThanOrEqual(1e-11);
      expect(Math.max(...want.slice(5 * 160, 6 * 160))).toBe(0);
    }
  });

  it('makes nothing new when a step repeats, and returns all memory', async () => {
    const scenario: Scenario = { kvHeads: 1, group: 2, headDim: 16, sequences: [{ past: 700, rows: 1 }] };
    await run(gpu, scenario);
    const e = new Environment(gpu, 1, []);
    const cache = e.keep(ops.createKvCache(gpu, { kvHeads: 1, keyDim: 16, valueDim: 16, dtype: 'f16' }, 25, 32));
    const tables = [Array.from({ length: 25 }, (_, i) => i)];
    const batch = e.batch([{ past: 700, rows: 1 }], 32, tables);
    const qkv = e.normal([1, 64]);
    const options = { heads: 2, kvHeads: 1, headDim: 16, valueDim: 16, scale: 1 };
    const step = async () => {
      gpu.scope(() => ops.attention(ops.qkvStore(qkv, undefined, cache, batch, options), cache, batch, options));
      await gpu.flush();
    };
    await step();
    const { groups } = gpu.counters;
    const { arena } = gpu.memory();
    for (let i = 0; i < 3; i++) await step();
    expect(gpu.counters.groups).toBe(groups);
    expect(gpu.memory().arena).toBe(arena);
    e.dispose();
    expect(gpu.memory().persistent).toBe(0);
  });
});
