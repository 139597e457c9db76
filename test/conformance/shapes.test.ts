/** Malformed calls are refused before a kernel runs, with a message that says what was expected. */
import { afterAll, describe, expect, it } from 'vitest';
import { ReferenceBackend } from '../../src/backends/reference/index.ts';
import { ShapeError } from '../../src/core/errors.ts';
import * as ops from '../../src/core/ops.ts';
import type { Tensor } from '../../src/core/tensor.ts';
import { Weight } from '../../src/core/weight.ts';
import { Environment } from './environment.ts';

const backend = new ReferenceBackend();
const e = new Environment(backend, 7, []);
afterAll(() => {
  e.dispose();
  return backend.dispose();
});

const f = (...shape: number[]): Tensor => e.normal(shape);
const i = (...shape: number[]): Tensor => e.integers(shape, 1);
const w = new Weight('blk.0.w', [4, 3]);
const plain = { stride: [1], padding: [0], dilation: [1], groups: 1 };
const heads = { heads: 4, kvHeads: 2, headDim: 8, valueDim: 8 };
const rope = { headDim: 8, rotaryDim: 8, interleaved: false };
const cache = () => e.keep(ops.createKvCache(backend, { kvHeads: 2, keyDim: 8, valueDim: 8, dtype: 'f32' }, 1, 32));
const batch = () => e.batch([{ past: 0, rows: 2 }], 32, [[0]]);

const two = () => f(2);
const ssm = {
  ...{ heads: 2, headDim: 4, groups: 1, stateDim: 3, start: 0, minStep: 0, maxStep: 1 },
  ...{ decay: two(), bias: two(), skip: two() },
};
const delta = {
  ...{ keyHeads: 2, valueHeads: 2, keyDim: 2, valueDim: 2, start: 0, scale: 1, eps: 0 },
  ...{ decay: two(), bias: two() },
};

const refused: readonly [string, () => unknown, string][] = [
  ['unary of integers', () => ops.unary('neg', i(2)), 'unary: expected f32 x; cast it first, got i32[2]'],
  [
    'binary sizes',
    () => ops.add(f(2, 3), f(2)),
    'binary: expected y of the size of x, one row, one column or one element',
  ],
  ['binary row of another width', () => ops.add(f(2, 3), f(2, 2)), 'got f32[2,3] and f32[2,2]'],
  ['select sizes', () => ops.select(f(2), f(2), f(3)), 'select: expected three tensors of one size'],
  ['slice beyond the end', () => ops.slice(f(2, 3), 1, 1, 5), 'slice: expected entries of an axis of 3'],
  ['slice step 0', () => ops.slice(f(2, 3), 1, 0, 3, 0), 'slice: expected entries'],
  ['slice axis', () => ops.slice(f(2, 3), 2, 0, 1), 'slice: expected an axis of rank 2, got 2'],
  [
    'concat other sizes',
    () => ops.concat([f(2, 3), f(3, 3)], 1),
    'concat: expected tensors that differ in axis 1 only',
  ],
  ['concat other types', () => ops.concat([f(2), i(2)], 0), 'concat: expected tensors that differ in axis 0 only'],
  ['concat of nothing', () => ops.concat([], 0), 'concat: expected at least one tensor'],
  ['permute', () => ops.permute(f(2, 3), [0, 0]), 'permute: expected an order of 2 axes, got [0,0]'],
  ['expand', () => ops.expand(f(2, 3), [4, 3]), 'expand: expected a shape that differs where [2,3] has 1 only'],
  ['pad', () => ops.pad(f(2), [-1], [0]), 'pad: expected 1 counts before and after'],
  ['gatherRows by floats', () => ops.gatherRows(f(2, 3), f(2)), 'gatherRows: expected i32 ids'],
  ['gatherRows count', () => ops.gatherRows(f(2, 3), i(2), 3), 'gatherRows: expected at least 3 ids'],
  ['scatterRows width', () => ops.scatterRows(f(2, 3), f(2, 2), i(2)), 'scatterRows: expected rows of one width'],
  ['scatterRows ids', () => ops.scatterRows(f(2, 3), f(2, 3), i(1)), 'scatterRows: expected rows of one width'],
  ['reduce of an empty axis', () => ops.reduce('max', f(2, 0), 1), 'reduce: expected a non-empty axis for max'],
  ['topk', () => ops.topk(f(2, 3), 4), 'topk: expected 1 <= k <= 3, got 4'],
  ['linear width', () => ops.linear(f(3, 5), w), 'linear: expected x […, 3] for "blk.0.w", got f32[3,5]'],
  ['linear bias', () => ops.linear(f(1, 3), w, { bias: f(3) }), 'linear: expected bias f32[4], got f32[3]'],
  ['linear accumulating', () => ops.linear(f(1, 3), w, { accumulate: true }), 'use linearAdd'],
  ['linearAdd residual', () => ops.linearAdd(f(2, 4), f(1, 3), w), 'linearAdd: expected a residual [1, 4]'],
  ['linearAdd options', () => ops.linearAdd(f(1, 4), f(1, 3), w, {}), 'linearAdd: expected options with accumulate'],
  ['linearExperts count', () => ops.linearExperts(f(1, 3), w, i(1, 2), 3), 'of 3 stacked matrices'],
  ['linearExperts rows', () => ops.linearExperts(f(3, 3), w, i(2, 2), 2), 'linearExperts: expected 2 or 4 rows of x'],
  ['matmul', () => ops.matmul(f(2, 3), f(2, 3)), 'matmul: expected […, m, k] and […, k, n], got f32[2,3] and f32[2,3]'],
  ['matmul leading axes', () => ops.matmul(f(2, 2, 3), f(3, 3, 2)), 'matmul: expected'],
  ['norm weight', () => ops.norm(f(2, 3), { kind: 'rms', eps: 0, weight: f(2) }), 'norm: expected weight f32[3]'],
  [
    'norm groups',
    () => ops.norm(f(2, 3), { kind: 'rms', eps: 0, groups: 2 }),
    'norm: expected a width that 2 groups divide',
  ],
  ['addNorm', () => ops.addNorm(f(2, 3), f(2, 4), { kind: 'rms', eps: 0 }), 'addNorm: expected x like the residual'],
  [
    'addNorm kind',
    () => ops.addNorm(f(2, 3), f(2, 3), { kind: 'group', eps: 0 }),
    'addNorm: expected rms, layer or l2',
  ],
  ['softmax mask', () => ops.softmax(f(2, 3), 1, f(2)), 'softmax: expected a mask of the size of x or of one row'],
  ['glu', () => ops.glu(f(2, 3), { activation: 'silu' }), 'glu: expected an even last axis'],
  ['rope heads', () => ops.rope(f(2, 12), f(2, 8), rope), 'rope: expected [rows, heads * 8]'],
  ['rope table', () => ops.rope(f(2, 16), f(1, 8), rope), 'rope: expected cosSin [2, 8]'],
  ['rope odd', () => ops.rope(f(2, 16), f(2, 7), { ...rope, rotaryDim: 7 }), 'rope: expected an even rotaryDim'],
  [
    'cache sizes',
    () => ops.createKvCache(backend, { kvHeads: 0, keyDim: 8, valueDim: 8, dtype: 'f32' }, 1, 32),
    'createKvCache',
  ],
  [
    'qkvStore width',
    () => ops.qkvStore(f(2, 63), undefined, cache(), batch(), heads),
    'qkvStore: expected [rows, (4 + 2) * 8 + 2 * 8]',
  ],
  ['qkvStore rows', () => ops.qkvStore(f(3, 64), undefined, cache(), batch(), heads), 'qkvStore: expected 2 rows'],
  [
    'qkvStore table',
    () => ops.qkvStore(f(2, 64), undefined, cache(), batch(), { ...heads, rope }),
    'cosSin for the rotation',
  ],
  [
    'qkvStore cache',
    () => ops.qkvStore(f(2, 56), undefined, cache(), batch(), { ...heads, valueDim: 4 }),
    'a cache of 2 heads of 8 and 4',
  ],
  [
    'attention q',
    () => ops.attention(f(2, 31), cache(), batch(), { ...heads, scale: 1 }),
    'attention: expected q [2, 4 * 8]',
  ],
  [
    'attention heads',
    () => ops.attention(f(2, 24), cache(), batch(), { ...heads, heads: 3, scale: 1 }),
    'heads that kvHeads divide',
  ],
  [
    'attention sinks',
    () => ops.attention(f(2, 32), cache(), batch(), { ...heads, scale: 1, sinks: f(2) }),
    'sinks f32[4]',
  ],
  [
    'causalConv columns',
    () => ops.causalConv(f(2, 5), f(3, 4), f(1, 2, 4), batch(), { start: 2 }),
    'causalConv: expected x of 2 rows with columns 2 to 6, got f32[2,5]',
  ],
  [
    'causalConv state',
    () => ops.causalConv(f(2, 4), f(3, 4), f(1, 3, 4), batch(), { start: 0 }),
    'causalConv: expected state [slots, 2, 4]',
  ],
  ['ssmScan width', () => ops.ssmScan(f(2, 13), f(2, 2), f(1, 2, 3, 4), batch(), ssm), 'x [rows, 2 * 4 + 2 * 1 * 3]'],
  ['ssmScan steps', () => ops.ssmScan(f(2, 14), f(2, 1), f(1, 2, 3, 4), batch(), ssm), 'dt of 2 rows with columns 0'],
  ['ssmScan state', () => ops.ssmScan(f(2, 14), f(2, 2), f(1, 2, 4, 3), batch(), ssm), 'state [slots, 2, 3, 4]'],
  [
    'gatedDelta heads',
    () => ops.gatedDelta(f(2, 14), f(2, 6), f(1, 3, 2, 2), batch(), { ...delta, valueHeads: 3 }),
    'value heads that keyHeads divide',
  ],
  ['gatedDelta gates', () => ops.gatedDelta(f(2, 12), f(2, 3), f(1, 2, 2, 2), batch(), delta), 'gates of 2 rows'],
  ['copyState', () => ops.copyState(f(2, 3), 0, 2), 'copyState: expected slots below 2, got 0 and 2'],
  [
    'denseAttention keys',
    () => ops.denseAttention(f(2, 32), f(2, 16), f(3, 16), { ...heads, scale: 1 }),
    'denseAttention: expected k',
  ],
  [
    'denseAttention causal',
    () => ops.denseAttention(f(2, 32), f(1, 16), f(1, 16), { ...heads, scale: 1, causal: true }),
    'at least as many keys',
  ],
  [
    'denseAttention mask',
    () => ops.denseAttention(f(2, 32), f(3, 16), f(3, 16), { ...heads, scale: 1 }, f(3)),
    'a mask [2, 3] or [4, 2, 3]',
  ],
  ['conv channels', () => ops.conv(f(1, 3, 5), f(2, 2, 3), plain), 'conv: expected w [out, 3 / 1, …kernel]'],
  ['conv kernel', () => ops.conv(f(1, 3, 2), f(2, 3, 3), plain), 'conv: expected a kernel that fits'],
  ['conv options', () => ops.conv(f(1, 3, 5), f(2, 3, 3), { ...plain, stride: [1, 1] }), 'conv: expected 1 strides'],
  [
    'convTranspose',
    () => ops.convTranspose(f(1, 3, 5), f(2, 3, 3), plain),
    'convTranspose: expected w [3, out / 1, …kernel]',
  ],
  ['pool', () => ops.pool(f(3), { kind: 'max', size: [4], stride: [1] }), 'pool: expected at least [4] values'],
  [
    'resize',
    () => ops.resize(f(2, 2), 1, 1, { mode: 'nearest', alignCorners: false }),
    'resize: expected [batch, channels',
  ],
];

describe('malformed calls', () => {
  it.each(refused)('%s', (_, call, message) => {
    expect(call).toThrow(ShapeError);
    expect(call).toThrow(message);
  });
});

describe('empty tensors', () => {
  it('give empty results without a kernel', () => {
    expect(ops.linear(f(0, 3), w).shape).toEqual([0, 4]);
    expect(ops.norm(f(0, 3), { kind: 'rms', eps: 0 }).shape).toEqual([0, 3]);
    expect(ops.slice(f(2, 3), 1, 2, 2).shape).toEqual([2, 0]);
  });
});

describe('the arena', () => {
  it('gives a second pass the same tensors', () => {
    const pass = () => {
      const seen: Tensor[] = [];
      backend.scope(() => {
        const x = ops.norm(fixed, { kind: 'rms', eps: 0 });
        seen.push(x, ops.glu(x, { activation: 'silu' }), ops.gatherRows(x, rows, 1));
      });
      return seen;
    };
    const fixed = f(3, 8);
    const rows = i(2);
    const first = pass();
    pass().forEach((t, n) => {
      expect(t).toBe(first[n]);
    });
  });
});
