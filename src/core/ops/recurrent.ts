import type { Batch, CausalConvOptions, GatedDeltaOptions, SsmScanOptions } from '../backend.ts';
import { composedCausalConv, composedGatedDelta, composedSsmScan } from '../composed/recurrent.ts';
import type { Tensor } from '../tensor.ts';
import { needF32, needVector, refuse } from './check.ts';

/**
 * Depthwise causal convolution of columns `[start, start + channels)` of `x`, with the last inputs of every sequence in
 * `state` `[slots, kernel - 1, channels]`. `w` is `[kernel, channels]`; the result `[rows, channels]`.
 */
export function causalConv(x: Tensor, w: Tensor, state: Tensor, batch: Batch, options: CausalConvOptions): Tensor {
  needF32('causalConv', 'w', w);
  if (w.shape.length !== 2 || w.size === 0) refuse('causalConv', 'w [kernel, channels]', w);
  const [kernel, channels] = w.shape as [number, number];
  checkRows('causalConv', 'x', x, batch, options.start, channels);
  checkState('causalConv', state, batch, kernel - 1, channels);
  needVector('causalConv', 'bias', options.bias, channels);
  const { backend } = x;
  const out = backend.allocRows(batch.rows, channels);
  if (out.size) {
    if (backend.ops.causalConv) backend.ops.causalConv(out, x, w, state, batch, options);
    else composedCausalConv(out, x, w, state, batch, options);
  }
  return out;
}

/**
 * Mamba 2's selective scan of `x` `[rows, heads * headDim + 2 * groups * stateDim]` (values, `B`, `C`) with steps `dt`,
 * over `state` `[slots, heads, stateDim, headDim]`: `[rows, heads * headDim]`. Formulas at `OptionalOps.ssmScan`.
 */
export function ssmScan(x: Tensor, dt: Tensor, state: Tensor, batch: Batch, options: SsmScanOptions): Tensor {
  const { heads, headDim, groups, stateDim, start, decay, bias, skip } = options;
  const width = heads * headDim + 2 * groups * stateDim;
  if (heads % groups !== 0) refuse('ssmScan', 'heads that groups divide', `${heads} and ${groups}`);
  if (x.width !== width) refuse('ssmScan', `x [rows, ${heads} * ${headDim} + 2 * ${groups} * ${stateDim}]`, x);
  checkRows('ssmScan', 'x', x, batch, 0, width);
  checkRows('ssmScan', 'dt', dt, batch, start, heads);
  checkState('ssmScan', state, batch, heads, stateDim, headDim);
  needVector('ssmScan', 'decay', decay, heads);
  needVector('ssmScan', 'bias', bias, heads);
  needVector('ssmScan', 'skip', skip, heads);
  const { backend } = x;
  const out = backend.allocRows(batch.rows, heads * headDim);
  if (out.size) {
    if (backend.ops.ssmScan) backend.ops.ssmScan(out, x, dt, state, batch, options);
    else composedSsmScan(out, x, dt, state, batch, options);
  }
  return out;
}

/**
 * The gated delta rule over `x` `[rows, 2 * keyHeads * keyDim + valueHeads * valueDim]` (queries, keys, values) with
 * `gates` (`b`, then `a`), over `state` `[slots, valueHeads, keyDim, valueDim]`: `[rows, valueHeads * valueDim]`. Formulas
 * at `OptionalOps.gatedDelta`.
 */
export function gatedDelta(x: Tensor, gates: Tensor, state: Tensor, batch: Batch, options: GatedDeltaOptions): Tensor {
  const { keyHeads, valueHeads, keyDim, valueDim, start, decay, bias } = options;
  const width = 2 * keyHeads * keyDim + valueHeads * valueDim;
  if (valueHeads % keyHeads !== 0) {
    refuse('gatedDelta', 'value heads that keyHeads divide', `${valueHeads} and ${keyHeads}`);
  }
  if (x.width !== width) {
    refuse('gatedDelta', `x [rows, 2 * ${keyHeads} * ${keyDim} + ${valueHeads} * ${valueDim}]`, x);
  }
  checkRows('gatedDelta', 'x', x, batch, 0, width);
  checkRows('gatedDelta', 'gates', gates, batch, start, 2 * valueHeads);
  checkState('gatedDelta', state, batch, valueHeads, keyDim, valueDim);
  needVector('gatedDelta', 'decay', decay, valueHeads);
  needVector('gatedDelta', 'bias', bias, valueHeads);
  const { backend } = x;
  const out = backend.allocRows(batch.rows, valueHeads * valueDim);
  if (out.size) {
    if (backend.ops.gatedDelta) backend.ops.gatedDelta(out, x, gates, state, batch, options);
    else composedGatedDelta(out, x, gates, state, batch, options);
  }
  return out;
}

/** Copies slot `from` of a state `[slots, …]` over slot `to`. */
export function copyState(state: Tensor, from: number, to: number): void {
  const slots = state.dim(0);
  const inside = (slot: number) => Number.isInteger(slot) && slot >= 0 && slot < slots;
  if (!inside(from) || !inside(to)) refuse('copyState', `slots below ${slots}`, `${from} and ${to}`);
  if (from !== to && state.size) state.backend.ops.slice(state.rows(to, to + 1), state, 0, from, 1);
}

function checkRows(op: string, name: string, x: Tensor, batch: Batch, start: number, columns: number): void {
  needF32(op, name, x);
  if (x.shape.length !== 2 || x.shape[0] !== batch.rows || !(start >= 0) || start + columns > x.width) {
    refuse(op, `${name} of ${batch.rows} rows with columns ${start} to ${start + columns}`, x);
  }
}

/** Slots are numbers of the batch's maker; those of the step must lie inside. */
function checkState(op: string, state: Tensor, batch: Batch, a: number, b: number, c?: number): void {
  needF32(op, 'state', state);
  const { shape } = state;
  const fits = shape.length === (c === undefined ? 3 : 4) && shape[1] === a && shape[2] === b && shape[3] === c;
  if (!fits) refuse(op, `state [slots, ${a}, ${b}${c === undefined ? '' : `, ${c}`}]`, state);
  const slots = shape[0] as number;
  const { stateSlots } = batch.host;
  for (let s = 0; s < batch.sequences; s++) {
    if (!((stateSlots[s] as number) >= 0 && (stateSlots[s] as number) < slots)) {
      refuse(op, `state slots below ${slots}`, `${stateSlots[s]}`);
    }
  }
}
