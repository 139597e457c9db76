/** Recurrent layers in the sizes of models, against the reference; the conformance suite has the odd sizes. */
import { afterAll, describe, expect, it, vi } from 'vitest';
import { ReferenceBackend } from '../../src/backends/reference/index.ts';
import { GpuDevice } from '../../src/backends/webgpu/device.ts';
import { WebGpuBackend } from '../../src/backends/webgpu/index.ts';
import type { Backend, Batch } from '../../src/core/backend.ts';
import type { TypedArray } from '../../src/core/dtype.ts';
import * as ops from '../../src/core/ops.ts';
import type { Tensor } from '../../src/core/tensor.ts';
import { nmse } from '../conformance/compare.ts';
import { Environment, type SequenceSpec } from '../conformance/environment.ts';
import { openWebGpu } from './support.ts';

const opened = await openWebGpu();
if (typeof opened === 'string') console.warn(`WebGPU recurrent layers skipped: ${opened}`);
const gpu = opened as WebGpuBackend;
const reference = new ReferenceBackend();
const suite = typeof opened === 'string' ? describe.skip : describe;
vi.setConfig({ testTimeout: 300_000 });

const BOUND = 1e-11;

/** Sequences of one step, and the slots of their states. */
interface Step {
  readonly sequences: readonly SequenceSpec[];
  readonly slots: readonly number[];
}

type Layer = (e: Environment) => {
  readonly stateShape: readonly number[];
  readonly run: (state: Tensor, batch: Batch) => Tensor;
};

/** Results of the steps in order and the states at the end, whose slots held remains of others. */
async function run(backend: Backend, slots: number, steps: readonly Step[], layer: Layer): Promise<TypedArray[]> {
  const e = new Environment(backend, 11, []);
  const { stateShape, run } = layer(e);
  const state = e.normal([slots, ...stateShape], 1, false);
  const results: TypedArray[] = [];
  for (const step of steps) {
    const tables = step.sequences.map(() => [0]);
    const batch = e.batch(step.sequences, 64, tables, step.slots);
    let out: Tensor | undefined;
    backend.scope(() => {
      out = run(state, batch);
    });
    results.push((await (out as Tensor).read()).slice());
  }
  results.push((await state.read()).slice());
  expect(await e.damage()).toEqual([]);
  e.dispose();
  return results;
}

async function compare(slots: number, steps: readonly Step[], layer: Layer, backend: Backend = gpu): Promise<void> {
  const want = await run(reference, slots, steps, layer);
  const got = await run(backend, slots, steps, layer);
  expect(got.map((g, i) => nmse(g, want[i] as TypedArray)).filter((error) => !(error <= BOUND))).toEqual([]);
}

const conv: Layer = (e) => {
  const [kernel, channels] = [4, 70];
  const w = e.normal([kernel, channels]);
  const bias = e.normal([channels]);
  const run = (state: Tensor, batch: Batch) =>
    ops.causalConv(e.normal([batch.rows, channels + 9]), w, state, batch, { start: 5, bias, silu: true });
  return { stateShape: [kernel - 1, channels], run };
};

const negative = (e: Environment, n: number) =>
  e.put(
    e.random.normals(n).map((v) => -Math.abs(v)),
    [n],
  );

const ssm =
  (stateDim: number): Layer =>
  (e) => {
    const [heads, headDim, groups] = [4, 64, 2];
    const options = {
      ...{ heads, headDim, groups, stateDim, start: 3, minStep: 0.001, maxStep: Number.POSITIVE_INFINITY },
      ...{ decay: negative(e, heads), bias: e.normal([heads]), skip: e.normal([heads]) },
    };
    const run = (state: Tensor, batch: Batch) => {
      const x = e.normal([batch.rows, heads * headDim + 2 * groups * stateDim]);
      return ops.ssmScan(x, e.normal([batch.rows, heads + 5]), state, batch, options);
    };
    return { stateShape: [heads, stateDim, headDim], run };
  };

const delta =
  (cyclic: boolean): Layer =>
  (e) => {
    const [keyHeads, valueHeads, keyDim, valueDim] = [2, 4, 128, 128];
    const options = {
      ...{ keyHeads, valueHeads, keyDim, valueDim, start: 2, scale: keyDim ** -0.5, eps: 1e-6, cyclic },
      ...{ decay: negative(e, valueHeads), bias: e.normal([valueHeads]) },
    };
    const run = (state: Tensor, batch: Batch) => {
      const x = e.normal([batch.rows, 2 * keyHeads * keyDim + valueHeads * valueDim]);
      return ops.gatedDelta(x, e.normal([batch.rows, 2 * valueHeads + 3]), state, batch, options);
    };
    return { stateShape: [valueHeads, keyDim, valueDim], run };
  };

const layers: readonly (readonly [string, Layer])[] = [
  ['causalConv', conv],
  ['ssmScan', ssm(128)],
  ['ssmScan with a long state', ssm(600)],
  ['gatedDelta', delta(false)],
  ['gatedDelta with cyclic heads', delta(true)],
];

suite('recurrent layers on the device', () => {
  afterAll(async () => {
    expect(gpu.memory().persistent).toBe(0);
    await Promise.all([gpu.dispose(), reference.dispose()]);
  });

  for (const [name, layer] of layers) {
    it(`${name}: a prompt in chunks among others that decode, start and wait`, async () => {
      const steps = [
        {
          sequences: [
            { past: 0, rows: 17 },
            { past: 0, rows: 2 },
          ],
          slots: [3, 0],
        },
        {
          sequences: [
            { past: 2, rows: 1 },
            { past: 17, rows: 11 },
            { past: 0, rows: 1 },
          ],
          slots: [0, 3, 1],
        },
        {
          sequences: [
            { past: 28, rows: 0 },
            { past: 3, rows: 1 },
            { past: 1, rows: 1 },
          ],
          slots: [3, 0, 1],
        },
        { sequences: [{ past: 28, rows: 5 }], slots: [3] },
      ];
      await compare(5, steps, layer);
    });
  }

  it('a step of many sequences', async () => {
    const sequences = Array.from({ length: 40 }, (_, i) => ({ past: i % 3, rows: (i * 7) % 4 }));
    const slots = sequences.map((_, i) => (i * 9) % 40);
    await compare(40, [{ sequences, slots }], conv);
    await compare(40, [{ sequences, slots }], ssm(128));
  });

  it('a device that binds eight buffers', async () => {
    const few = new WebGpuBackend(new GpuDevice(gpu.gpu.device, { ...gpu.gpu.facts, maxBindings: 8 }), gpu.info);
    const steps = [
      {
        sequences: [
          { past: 0, rows: 3 },
          { past: 0, rows: 2 },
        ],
        slots: [1, 2],
      },
      {
        sequences: [
          { past: 3, rows: 2 },
          { past: 2, rows: 1 },
        ],
        slots: [1, 2],
      },
    ];
    await compare(4, steps, ssm(128), few);
    await compare(4, steps, delta(false), few);
    expect(few.memory().persistent).toBe(0);
  });
});
