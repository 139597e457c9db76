/** Recurrent layers from elementwise ops and matrix products, one row of one sequence after the other. */
import type { Batch, CausalConvOptions, GatedDeltaOptions, SsmScanOptions } from '../backend.ts';
import { addInto, mul, mulInto, scaleInto, sub, unary, unaryInto } from '../ops/elementwise.ts';
import { concat, expand, slice } from '../ops/layout.ts';
import { matmul } from '../ops/linear.ts';
import { norm } from '../ops/normalize.ts';
import type { Tensor } from '../tensor.ts';
import { copy, fill } from './basics.ts';

export function composedCausalConv(
  out: Tensor,
  x: Tensor,
  w: Tensor,
  state: Tensor,
  batch: Batch,
  options: CausalConvOptions,
): void {
  const { start, bias, silu } = options;
  const [kernel, channels] = w.shape as [number, number];
  forSequences(state, batch, (tail, first, end) => {
    const rows = end - first;
    const past = tail.reshape([kernel - 1, channels]);
    const inputs = concat([past, slice(x.rows(first, end), 1, start, start + channels)], 0);
    const sum = out.rows(first, end);
    copy(sum, bias ? expand(bias.reshape([1, channels]), [rows, channels]) : fill(x.backend, [rows, channels], 0));
    for (let j = 0; j < kernel; j++) addInto(sum, mul(inputs.rows(j, j + rows), w.rows(j, j + 1).reshape([channels])));
    if (silu) unaryInto('silu', sum);
    if (tail.size) copy(tail, inputs.rows(rows, rows + kernel - 1));
  });
}

export function composedSsmScan(
  out: Tensor,
  x: Tensor,
  dt: Tensor,
  state: Tensor,
  batch: Batch,
  options: SsmScanOptions,
): void {
  const { heads, headDim, groups, stateDim, start, decay, bias, skip, minStep, maxStep } = options;
  const values = heads * headDim;
  const keys = groups * stateDim;
  const column = (t: Tensor) => t.reshape([heads, 1]);
  forSequences(state, batch, (s, first, end) => {
    for (let r = first; r < end; r++) {
      x.backend.scope(() => {
        const row = x.rows(r, r + 1);
        const step = unaryInto('softplus', addInto(slice(dt.rows(r, r + 1), 1, start, start + heads), bias));
        unaryInto('clamp', step, minStep, Math.min(maxStep, 3e38));
        const value = slice(row, 1, 0, values).reshape([heads, headDim]);
        const key = perHead(slice(row, 1, values, values + keys), groups, heads, stateDim);
        const query = perHead(slice(row, 1, values + keys, values + 2 * keys), groups, heads, stateDim);
        const fade = unaryInto('exp', mul(column(step), column(decay)));
        mulInto(s.reshape([heads, stateDim * headDim]), fade);
        addInto(s, outer(key, mul(value, column(step))));
        const y = matmul(query.reshape([heads, 1, stateDim]), s.reshape([heads, stateDim, headDim]));
        copy(out.rows(r, r + 1), addInto(y.reshape([heads, headDim]), mul(value, column(skip))));
      });
    }
  });
}

export function composedGatedDelta(
  out: Tensor,
  x: Tensor,
  gates: Tensor,
  state: Tensor,
  batch: Batch,
  options: GatedDeltaOptions,
): void {
  const { keyHeads, valueHeads: heads, keyDim, valueDim, start, decay, bias, eps, cyclic } = options;
  const keys = keyHeads * keyDim;
  const column = (t: Tensor) => t.reshape([heads, 1]);
  const unit = (t: Tensor) => norm(perHead(t, keyHeads, heads, keyDim, cyclic), { kind: 'l2', eps });
  forSequences(state, batch, (s, first, end) => {
    const cube = s.reshape([heads, keyDim, valueDim]);
    for (let r = first; r < end; r++) {
      x.backend.scope(() => {
        const row = x.rows(r, r + 1);
        const gate = gates.rows(r, r + 1);
        const query = scaleInto(unit(slice(row, 1, 0, keys)), options.scale);
        const key = unit(slice(row, 1, keys, 2 * keys));
        const value = slice(row, 1, 2 * keys, x.width).reshape([heads, valueDim]);
        const strength = unary('sigmoid', slice(gate, 1, start, start + heads));
        const step = unaryInto('softplus', addInto(slice(gate, 1, start + heads, start + 2 * heads), bias));
        mulInto(s.reshape([heads, keyDim * valueDim]), column(unaryInto('exp', mulInto(step, decay))));
        const known = matmul(key.reshape([heads, 1, keyDim]), cube).reshape([heads, valueDim]);
        addInto(s, outer(key, mulInto(sub(value, known), column(strength))));
        copy(out.rows(r, r + 1), matmul(query.reshape([heads, 1, keyDim]), cube));
      });
    }
  });
}

/** Visits every sequence with rows, with its state as `[1, …]`: zeroed where it starts. */
function forSequences(state: Tensor, batch: Batch, visit: (state: Tensor, first: number, end: number) => void): void {
  const { seqStart, kvLen, stateSlots } = batch.host;
  for (let s = 0; s < batch.sequences; s++) {
    const first = seqStart[s] as number;
    const end = seqStart[s + 1] as number;
    if (first === end) continue;
    const slot = stateSlots[s] as number;
    state.backend.scope(() => {
      const own = state.rows(slot, slot + 1);
      if (kvLen[s] === end - first && own.size) copy(own, fill(state.backend, [own.size], 0));
      visit(own, first, end);
    });
  }
}

/** `[1, groups * width]`, shared by consecutive heads or in turn, as `[heads, width]`. */
function perHead(t: Tensor, groups: number, heads: number, width: number, cyclic = false): Tensor {
  if (cyclic) {
    const turns = expand(t.reshape([1, groups, width]), [heads / groups, groups, width]);
    return turns.reshape([heads, width]);
  }
  const shared = expand(t.reshape([groups, 1, width]), [groups, heads / groups, width]);
  return shared.reshape([heads, width]);
}

/** `[heads, a] ⊗ [heads, b]`, as `[heads, a, b]`. */
function outer(a: Tensor, b: Tensor): Tensor {
  const [heads, n] = a.shape as [number, number];
  return matmul(a.reshape([heads, n, 1]), b.reshape([heads, 1, b.width]));
}
