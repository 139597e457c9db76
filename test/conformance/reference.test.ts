/** The reference back-end against numbers worked out here, by other means than its own loops. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { erf } from '../../src/backends/reference/functions.ts';
import { ReferenceBackend } from '../../src/backends/reference/index.ts';
import type { UnaryKind } from '../../src/core/backend.ts';
import * as ops from '../../src/core/ops.ts';
import type { Tensor } from '../../src/core/tensor.ts';
import { Environment, loadBytes } from './environment.ts';

const backend = new ReferenceBackend();
let e: Environment;
beforeAll(() => {
  e = new Environment(backend, 1, []);
});
afterAll(() => {
  e.dispose();
  return backend.dispose();
});

const tensor = (values: readonly number[], shape: readonly number[] = [values.length]): Tensor =>
  e.put(Float32Array.from(values), shape, false);
const ints = (values: readonly number[], shape: readonly number[] = [values.length]): Tensor =>
  e.put(Int32Array.from(values), shape);

async function expectClose(t: Tensor, want: readonly number[], digits = 6): Promise<void> {
  const got = Array.from(await t.read());
  expect(got.length).toBe(want.length);
  got.forEach((v, i) => {
    expect(v, `element ${i}`).toBeCloseTo(want[i] as number, digits);
  });
}

describe('unary', () => {
  // Tables: Abramowitz & Stegun (erf), and e, ln 2, tanh 1 to ten digits.
  const known: readonly [UnaryKind, number, number][] = [
    ['neg', 2, -2],
    ['abs', -2, 2],
    ['square', -3, 9],
    ['sqrt', 2, Math.SQRT2],
    ['rsqrt', 4, 0.5],
    ['reciprocal', 8, 0.125],
    ['exp', 1, Math.E],
    ['log', 2, Math.LN2],
    ['sin', Math.PI / 6, 0.5],
    ['cos', Math.PI / 3, 0.5],
    ['tanh', 1, 0.761594156],
    ['erf', 0.5, 0.5204998778],
    ['erf', 1, 0.8427007929],
    ['erf', 2, 0.995322265],
    ['erf', 3.5, 0.9999992569],
    ['erf', -1, -0.8427007929],
    ['sigmoid', 0, 0.5],
    ['sigmoid', Math.log(3), 0.75],
    ['softplus', 0, Math.LN2],
    ['softplus', 50, 50],
    ['floor', -1.5, -2],
    ['round', 2.5, 2],
    ['round', 3.5, 4],
    ['round', -0.75, -1],
    ['sign', -7, -1],
    ['silu', Math.log(3), 0.75 * Math.log(3)],
    ['gelu', 1, 0.8413447461],
    ['geluTanh', 1, 0.8411919906],
    ['geluQuick', 0, 0],
    ['relu', -1, 0],
    ['relu2', 3, 9],
    ['relu2', -3, 0],
  ];
  it.each(known)('%s(%d) = %d', async (kind, x, y) => {
    await expectClose(ops.unary(kind, tensor([x])), [y]);
  });

  it('takes parameters', async () => {
    await expectClose(ops.unary('affine', tensor([1, 2]), 3, 1), [4, 7]);
    await expectClose(ops.unary('clamp', tensor([-5, 0, 5]), -1, 2), [-1, 0, 2]);
    await expectClose(ops.unary('softcap', tensor([2]), 2), [2 * 0.761594156]);
  });

  it('has an error function that joins its two halves', () => {
    expect(erf(3 - 1e-12)).toBeCloseTo(erf(3), 11);
    expect(erf(3)).toBeCloseTo(0.9999779095030014, 14);
    expect(erf(7)).toBe(1);
    expect(erf(Number.NaN)).toBeNaN();
  });
});

describe('binary, select, cast', () => {
  it('repeats rows, columns and single elements', async () => {
    const x = tensor([1, 2, 3, 4, 5, 6], [2, 3]);
    await expectClose(ops.add(x, tensor([10, 20, 30])), [11, 22, 33, 14, 25, 36]);
    await expectClose(ops.mul(x, tensor([2, 3], [2, 1])), [2, 4, 6, 12, 15, 18]);
    await expectClose(ops.sub(x, tensor([1])), [0, 1, 2, 3, 4, 5]);
    await expectClose(ops.binary('less', x, tensor([3])), [1, 1, 0, 0, 0, 0]);
    await expectClose(ops.binary('pow', x, tensor([2])), [1, 4, 9, 16, 25, 36]);
    await expectClose(ops.select(tensor([0, 1, -1]), tensor([1, 2, 3]), tensor([4, 5, 6])), [4, 2, 3]);
  });

  it('saturates and truncates', async () => {
    await expectClose(ops.cast(tensor([-1.9, 2.9, 3e9, -3e9, Number.NaN]), 'i32'), [-1, 2, 2147483647, -2147483648, 0]);
    await expectClose(ops.cast(tensor([-4, 255.9, 300]), 'u8'), [0, 255, 255]);
    // 1 + 2⁻¹¹ lies half-way between two halves; the even one is 1.
    await expectClose(ops.cast(tensor([1 + 2 ** -11, 65504, 1e6]), 'f16'), [0x3c00, 0x7bff, 0x7c00]);
    await expectClose(ops.cast(tensor([1, -2]), 'bf16'), [0x3f80, 0xc000]);
  });
});

describe('layout', () => {
  const grid = () => tensor([0, 1, 2, 3, 4, 5], [2, 3]);
  it('moves elements', async () => {
    await expectClose(ops.slice(grid(), 1, 0, 3, 2), [0, 2, 3, 5]);
    await expectClose(ops.slice(grid(), 1, 2, -1, -1), [2, 1, 0, 5, 4, 3]);
    await expectClose(ops.concat([grid(), tensor([8, 9], [2, 1])], 1), [0, 1, 2, 8, 3, 4, 5, 9]);
    await expectClose(ops.permute(grid(), [1, 0]), [0, 3, 1, 4, 2, 5]);
    await expectClose(ops.expand(tensor([1, 2], [2, 1]), [2, 3]), [1, 1, 1, 2, 2, 2]);
    await expectClose(ops.pad(tensor([1, 2], [1, 2]), [1, 1], [0, 1], 7), [7, 7, 7, 7, 7, 1, 2, 7]);
  });

  it('gathers and scatters rows', async () => {
    await expectClose(ops.gatherRows(grid(), ints([1, 0, 1])), [3, 4, 5, 0, 1, 2, 3, 4, 5]);
    await expectClose(ops.gatherRows(grid(), ints([1, 0, 1]), 1), [3, 4, 5]);
    await expectClose(ops.scatterRows(grid(), tensor([7, 8, 9], [1, 3]), ints([1])), [0, 1, 2, 7, 8, 9]);
    const twice = tensor([1, 1, 1, 2, 2, 2], [2, 3]);
    await expectClose(ops.scatterRows(grid(), twice, ints([0, 0]), true), [3, 4, 5, 3, 4, 5]);
    expect(() => ops.gatherRows(grid(), ints([2]))).toThrow('expected ids from 0 to 1, got 2');
  });
});

describe('reductions', () => {
  it('runs along any axis', async () => {
    const x = tensor([1, 5, 2, 4, 3, 6], [2, 3]);
    await expectClose(ops.reduce('sum', x, 0), [5, 8, 8]);
    await expectClose(ops.reduce('mean', x, 1), [8 / 3, 13 / 3]);
    await expectClose(ops.reduce('max', x, 1), [5, 6]);
    await expectClose(ops.reduce('min', x, 0), [1, 3, 2]);
    await expectClose(ops.reduce('argmax', tensor([1, 5, 5, 2], [2, 2]), 1), [1, 0]);
    await expectClose(ops.reduce('argmax', tensor([7, 7, 7]), 0), [0]);
    await expectClose(ops.cumsum(x, 1), [1, 6, 8, 4, 7, 13]);
  });

  it('orders the largest, ties by index', async () => {
    const { values, indices } = ops.topk(tensor([1, 3, 2, 3, -Infinity, 0]), 4);
    await expectClose(values, [3, 3, 2, 1]);
    await expectClose(indices, [1, 3, 2, 0]);
  });
});

describe('products', () => {
  it('multiplies matrices', async () => {
    const a = tensor([1, 2, 3, 4], [2, 2]);
    await expectClose(ops.matmul(a, tensor([5, 6, 7, 8], [2, 2])), [19, 22, 43, 50]);
    await expectClose(ops.matmul(a, tensor([5, 7, 6, 8], [2, 2]), true), [19, 22, 43, 50]);
  });

  it('applies weights of several storage types', async () => {
    const f32 = await loadBytes(
      backend,
      { shape: [2, 2], type: 'F32' },
      new Uint8Array(Float32Array.of(1, 2, 3, 4).buffer),
    );
    const x = tensor([1, -1], [1, 2]);
    await expectClose(ops.linear(x, f32, { bias: tensor([0.5, 0]) }), [-0.5, -1]);
    await expectClose(ops.linearAdd(tensor([10, 20], [1, 2]), x, f32), [9, 19]);
    await expectClose(ops.gatherRows(f32, ints([1])), [3, 4]);
    // Q8_0: scale 0.5 in binary16, then 32 signed bytes.
    const q8 = new Uint8Array(34);
    q8.set([0x00, 0x38, 2, 0xff]);
    const weight = await loadBytes(backend, { shape: [1, 32], type: 'Q8_0' }, q8);
    await expectClose(
      ops.linear(
        tensor(
          Array.from({ length: 32 }, (_, i) => i + 1),
          [1, 32],
        ),
        weight,
      ),
      [1 - 1],
    );
    const stacked = await loadBytes(
      backend,
      { shape: [2, 1], type: 'F32' },
      new Uint8Array(Float32Array.of(10, 100).buffer),
    );
    await expectClose(
      ops.linearExperts(tensor([1, 2], [2, 1]), stacked, ints([0, 1, 1, 0], [2, 2]), 2),
      [10, 100, 200, 20],
    );
    await expectClose(ops.linearExperts(tensor([1, 2], [2, 1]), stacked, ints([1, 0], [1, 2]), 2), [100, 20]);
    for (const w of [f32, weight, stacked]) w.dispose();
  });
});

describe('normalize', () => {
  it('norms rows', async () => {
    const x = tensor([3, 4], [1, 2]);
    const rms = Math.sqrt(12.5);
    await expectClose(ops.norm(x, { kind: 'rms', eps: 0 }), [3 / rms, 4 / rms]);
    await expectClose(ops.norm(x, { kind: 'rms', eps: 12.5 }), [3 / 5, 4 / 5]);
    await expectClose(ops.norm(x, { kind: 'rms', eps: 0, weight: tensor([1, 0]), plusOne: true }), [6 / rms, 4 / rms]);
    await expectClose(ops.norm(x, { kind: 'l2', eps: 0 }), [0.6, 0.8]);
    await expectClose(ops.norm(x, { kind: 'layer', eps: 0, weight: tensor([2, 2]), bias: tensor([0, 1]) }), [-2, 3]);
    await expectClose(ops.norm(tensor([1, 3, 10, 30], [1, 4]), { kind: 'layer', eps: 0, groups: 2 }), [-1, 1, -1, 1]);
    // Two channels in one group, two positions each: mean 4, variance 5.
    const grouped = { kind: 'group', eps: 0, groups: 1, weight: tensor([1, 2]), bias: tensor([0, 1]) } as const;
    const s = Math.sqrt(5);
    await expectClose(ops.norm(tensor([1, 3, 5, 7], [1, 2, 2]), grouped), [-3 / s, -1 / s, 1 + 2 / s, 1 + 6 / s]);
  });

  it('adds, then norms', async () => {
    const residual = tensor([1, 2], [1, 2]);
    await expectClose(ops.addNorm(residual, tensor([2, 2], [1, 2]), { kind: 'l2', eps: 0 }), [0.6, 0.8]);
    await expectClose(residual, [3, 4]);
  });

  it('makes probabilities', async () => {
    await expectClose(ops.softmax(tensor([0, Math.log(3)])), [0.25, 0.75]);
    await expectClose(ops.softmax(tensor([0, 1, 5]), Math.log(2), tensor([0, 0, -Infinity])), [1 / 3, 2 / 3, 0]);
    await expectClose(ops.softmax(tensor([1000, 1000])), [0.5, 0.5]);
    await expectClose(ops.softmax(tensor([-Infinity, -Infinity])), [0, 0]);
  });

  it('gates', async () => {
    const gate = Math.log(3);
    await expectClose(ops.glu(tensor([gate, 1, 2, 5], [1, 4]), { activation: 'silu' }), [1.5 * gate, 5 * 0.7310585786]);
    await expectClose(ops.glu(tensor([-1, 7, 2, 5], [1, 4]), { activation: 'relu', interleaved: true }), [0, 10]);
    const clamped = { alpha: 1, limit: 2 };
    await expectClose(ops.glu(tensor([9, -9], [1, 2]), { activation: 'silu', clamped }), [2 * 0.880797078 * -1]);
  });

  it('rotates', async () => {
    const quarter = tensor([0, 1, 1, 0], [1, 4]); // cosines 0, 1; sines 1, 0
    const x = () => tensor([1, 2, 3, 4], [1, 4]);
    await expectClose(ops.rope(x(), quarter, { headDim: 4, rotaryDim: 4, interleaved: false }), [-3, 2, 1, 4]);
    await expectClose(ops.rope(x(), quarter, { headDim: 4, rotaryDim: 4, interleaved: true }), [-2, 1, 3, 4]);
    const half = tensor([0, 1], [1, 2]);
    await expectClose(ops.rope(x(), half, { headDim: 4, rotaryDim: 2, interleaved: false }), [-2, 1, 3, 4]);
    await expectClose(ops.rope(x(), half, { headDim: 2, rotaryDim: 2, interleaved: false }), [-2, 1, -4, 3]);
  });
});

describe('attention', () => {
  it('mixes visible positions of its own sequence', async () => {
    // Two heads on one key head; keys are 0 except position 1 of sequence 0, so that weights are 1 : 3.
    const options = { heads: 2, kvHeads: 1, headDim: 2, valueDim: 1 };
    const spec = { kvHeads: 1, keyDim: 2, valueDim: 1, dtype: 'f32' } as const;
    const cache = ops.createKvCache(backend, spec, 4, 2);
    const key = Math.log(3);
    const rows = [
      [1, 0, 0, 1, 0, 0, 4],
      [1, 0, 0, 1, key, 0, 8],
      [1, 0, 0, 1, 0, 0, 20],
      [5, 5, 5, 5, 9, 9, 100],
    ];
    const batch = e.batch(
      [
        { past: 0, rows: 3 },
        { past: 0, rows: 1 },
      ],
      2,
      [[3, 1], [0]],
    );
    const q = ops.qkvStore(tensor(rows.flat(), [4, 7]), undefined, cache, batch, options);
    await expectClose(
      q,
      rows.flatMap((r) => r.slice(0, 4)),
    );
    const run = (extra: object) => ops.attention(q, cache, batch, { ...options, scale: 1, ...extra });
    await expectClose(run({}), [4, 4, 7, 6, (4 + 24 + 20) / 5, 32 / 3, 100, 100]);
    await expectClose(run({ window: 2 }), [4, 4, 7, 6, 11, 14, 100, 100]);
    await expectClose(run({ window: 1, sinks: tensor([0, Math.log(4)]) }), [
      2,
      4 / 5,
      6,
      8 / 5,
      10,
      4,
      100 / (1 + Math.exp(-90)),
      100 / (1 + 4 * Math.exp(-90)),
    ]);
    const capped = Math.exp(0.5 * Math.tanh(key / 0.5));
    await expectClose(run({ softcap: 0.5 }), [
      4,
      4,
      (4 + 8 * capped) / (1 + capped),
      6,
      (24 + 8 * capped) / (2 + capped),
      32 / 3,
      100,
      100,
    ]);
    cache.dispose();
  });

  it('takes explicit keys and masks', async () => {
    const q = tensor([1, 1], [2, 1]);
    const k = tensor([0, Math.log(3), 0], [3, 1]);
    const v = tensor([4, 8, 20], [3, 1]);
    const options = { heads: 1, kvHeads: 1, headDim: 1, valueDim: 1, scale: 1 };
    await expectClose(ops.denseAttention(q, k, v, options), [48 / 5, 48 / 5]);
    await expectClose(ops.denseAttention(q, k, v, { ...options, causal: true }), [7, 48 / 5]);
    const mask = tensor([0, 0, -Infinity, -Infinity, -Infinity, 0], [2, 3]);
    await expectClose(ops.denseAttention(q, k, v, options, mask), [7, 20]);
  });
});

describe('recurrent', () => {
  const decode = (past: number, rows: number) => e.batch([{ past, rows }], 8, [[0]], [1]);

  it('convolves over time, across steps', async () => {
    const w = tensor([1, 10, 2, 20, 3, 30], [3, 2]);
    const state = tensor(new Array(8).fill(99), [2, 2, 2]);
    const bias = tensor([0.5, 0]);
    const x = tensor([9, 1, 2, 9, 3, 4], [2, 3]);
    // Channel 0 sees 1, 3, then 5: columns from 1 on.
    await expectClose(ops.causalConv(x, w, state, decode(0, 2), { start: 1, bias }), [3.5, 60, 2 + 9 + 0.5, 40 + 120]);
    await expectClose(state, [99, 99, 99, 99, 1, 2, 3, 4]);
    const next = ops.causalConv(tensor([0, 5, 6], [1, 3]), w, state, decode(2, 1), { start: 1, bias });
    await expectClose(next, [1 + 6 + 15 + 0.5, 20 + 80 + 180]);
    await expectClose(state, [99, 99, 99, 99, 3, 4, 5, 6]);
    const gated = ops.causalConv(
      tensor([Math.log(3)], [1, 1]),
      tensor([1], [1, 1]),
      tensor([], [2, 0, 1]),
      decode(2, 1),
      {
        start: 0,
        silu: true,
      },
    );
    await expectClose(gated, [0.75 * Math.log(3)]);
  });

  it('scans selectively', async () => {
    // softplus(ln(e - 1)) = 1, so a step is 1 and the state fades by e^-ln 2 = 1/2; B, C and D choose what is seen.
    const one = Math.log(Math.E - 1);
    const options = {
      ...{ heads: 1, headDim: 1, groups: 1, stateDim: 2, start: 1, minStep: 0, maxStep: Number.POSITIVE_INFINITY },
      ...{ decay: tensor([-Math.LN2]), bias: tensor([one]), skip: tensor([100]) },
    };
    const state = tensor([7, 7, 7, 7], [2, 1, 2, 1]);
    const x = tensor([1, 1, 2, 3, 4, 2, 10, 0, 1, 1], [2, 5]);
    const out = ops.ssmScan(x, tensor([9, 0, 9, 0], [2, 2]), state, decode(0, 2), options);
    // S = (1, 2), then (1, 2) / 2 + 2 (10, 0) = (20.5, 1).
    await expectClose(out, [3 + 8 + 100, 21.5 + 200], 4);
    await expectClose(state, [7, 7, 20.5, 1], 5);
    const limited = { ...options, minStep: 2, maxStep: 2, start: 0 };
    const next = ops.ssmScan(tensor([1, 0, 0, 1, 1], [1, 5]), tensor([0], [1, 1]), state, decode(2, 1), limited);
    await expectClose(next, [21.5 / 4 + 100], 4);
  });

  it('corrects what it remembers', async () => {
    const half = { decay: tensor([-1]), bias: tensor([Math.log(Math.E - 1)]) };
    const options = { keyHeads: 1, valueHeads: 1, keyDim: 2, valueDim: 1, start: 0, scale: 0.5, eps: 0, ...half };
    const state = tensor([7, 7, 7, 7], [2, 1, 2, 1]);
    // Query and key of any length count as unit vectors; gates: σ(0) = 1/2, fade e^-1.
    const x = tensor([0, 3, 0, 5, 8], [1, 5]);
    await expectClose(ops.gatedDelta(x, tensor([0, 0], [1, 2]), state, decode(0, 1), options), [0.5 * 4]);
    await expectClose(state, [7, 7, 0, 4]);
    const next = ops.gatedDelta(x, tensor([0, 0], [1, 2]), state, decode(1, 1), options);
    const known = 4 / Math.E;
    await expectClose(next, [0.5 * (known + (8 - known) / 2)]);
    // Four value heads under two key heads, of which the second one's query and key are at right angles.
    const four = {
      ...options,
      keyHeads: 2,
      valueHeads: 4,
      scale: 1,
      decay: tensor([-1, -1, -1, -1]),
      bias: tensor([0, 0, 0, 0]),
    };
    const values = tensor([1, 0, 1, 0, 1, 0, 0, 1, 2, 4, 6, 8], [1, 12]);
    const gates = tensor([0, 0, 0, 0, 0, 0, 0, 0], [1, 8]);
    const empty = tensor(new Array(16).fill(0), [2, 4, 2, 1]);
    await expectClose(ops.gatedDelta(values, gates, empty, decode(0, 1), four), [1, 2, 0, 0]);
    await expectClose(ops.gatedDelta(values, gates, empty, decode(0, 1), { ...four, cyclic: true }), [1, 0, 3, 0]);
  });
});

describe('spatial', () => {
  it('convolves', async () => {
    const plain = { stride: [1], padding: [0], dilation: [1], groups: 1 };
    const x = tensor([1, 2, 3, 4], [1, 1, 4]);
    await expectClose(ops.conv(x, tensor([1, 10], [1, 1, 2]), plain), [21, 32, 43]);
    await expectClose(ops.conv(x, tensor([1, 10], [1, 1, 2]), { ...plain, padding: [1], stride: [2] }), [10, 32, 4]);
    await expectClose(
      ops.conv(x, tensor([1, 10], [1, 1, 2]), { ...plain, dilation: [2], bias: tensor([100]) }),
      [131, 142],
    );
    const grouped = { ...plain, groups: 2 };
    await expectClose(ops.conv(tensor([1, 2, 3, 4], [1, 2, 2]), tensor([2, 5], [2, 1, 1]), grouped), [2, 4, 15, 20]);
    const two = { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 };
    const square = tensor([1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 1, 3, 3]);
    await expectClose(ops.conv(square, tensor([1, 0, 0, 1], [1, 1, 2, 2]), two), [6, 8, 12, 14]);
    const up = { stride: [2], padding: [0], dilation: [1], groups: 1 };
    await expectClose(
      ops.convTranspose(tensor([1, 2], [1, 1, 2]), tensor([1, 10, 100], [1, 1, 3]), up),
      [1, 10, 102, 20, 200],
    );
    const cut = { ...up, padding: [1], outputPadding: [1] };
    await expectClose(
      ops.convTranspose(tensor([1, 2], [1, 1, 2]), tensor([1, 10, 100], [1, 1, 3]), cut),
      [10, 102, 20, 200],
    );
  });

  it('pools and resizes', async () => {
    const x = tensor([1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 1, 3, 3]);
    await expectClose(ops.pool(x, { kind: 'max', size: [2, 2], stride: [1, 1] }), [5, 6, 8, 9]);
    await expectClose(ops.pool(x, { kind: 'mean', size: [3], stride: [3] }), [2, 5, 8]);
    const line = tensor([0, 10], [1, 1, 1, 2]);
    await expectClose(ops.resize(line, 1, 4, { mode: 'nearest', alignCorners: false }), [0, 0, 10, 10]);
    await expectClose(ops.resize(line, 1, 4, { mode: 'bilinear', alignCorners: false }), [0, 2.5, 7.5, 10]);
    await expectClose(ops.resize(line, 1, 3, { mode: 'bilinear', alignCorners: true }), [0, 5, 10]);
    // Keys' kernel (a = -0.75): 0.26171875 at distance 0.75, -0.03515625 at 1.75, -0.10546875 at 1.25.
    const cubic = [-1.0546875, 2.265625, 7.734375, 11.0546875];
    await expectClose(ops.resize(line, 1, 4, { mode: 'bicubic', alignCorners: false }), cubic);
  });
});
