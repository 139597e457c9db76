/** The mixer of gated delta networks (Yang, Kautz & Hatamizadeh 2024), as in Qwen3-Next and Qwen 3.5. */
import type { Activation, GatedDeltaOptions, NormOptions } from '../../core/backend.ts';
import type { Mixer } from '../../core/model.ts';
import { gatedDelta, linear, linearAdd, mulInto, norm, slice, unaryInto } from '../../core/ops.ts';
import type { Weights } from '../../core/weights.ts';
import type { ProjectionPart, Runs } from './linear.ts';
import { projection } from './linear.ts';
import { decayRates, repeated, shortConv } from './recurrent.ts';

export interface DeltaNetSpec {
  readonly hidden: number;
  readonly keyHeads: number;
  readonly valueHeads: number;
  readonly keyDim: number;
  readonly valueDim: number;
  readonly kernel: number;
  readonly activation: Activation;
  readonly eps: number;
  /** Key heads serve value heads in turn instead of runs of them. */
  readonly cyclic?: boolean | undefined;
}

/** Added to the squared length that queries and keys are divided by. */
const LENGTH_EPS = 1e-6;

/** Each row becomes queries, keys, values, an output gate, and the two gates of the recurrence. */
export function deltaNet(w: Weights, d: DeltaNetSpec): Mixer {
  const { hidden, keyHeads, valueHeads, keyDim, valueDim } = d;
  const channels = 2 * keyHeads * keyDim + valueHeads * valueDim;
  const inner = valueHeads * valueDim;
  const input = projection(w, [...inputs(w, d), ...gates(w, d)], hidden, false);
  const output = projection(w, [{ name: 'out_proj', rows: hidden }], inner, false);
  const conv = shortConv(w.at('conv1d'), { channels, kernel: d.kernel, bias: false, activation: d.activation });
  const delta: GatedDeltaOptions = {
    ...{ keyHeads, valueHeads, keyDim, valueDim, start: channels + inner, scale: keyDim ** -0.5, eps: LENGTH_EPS },
    ...{ decay: decayRates(w, valueHeads), bias: w.tensor('dt_bias', [valueHeads]), cyclic: d.cyclic },
  };
  const headNorm: NormOptions = {
    ...{ kind: 'rms', eps: d.eps, groups: valueHeads, weight: repeated(w, 'norm.weight', valueDim, valueHeads) },
  };
  const state = w.declareState({ shape: [valueHeads, keyDim, valueDim] });
  return (x, s, residual) => {
    const p = linear(x, input.weight, input.plain);
    const y = norm(gatedDelta(conv(p, s), p, s.states[state]!, s.batch, delta), headNorm);
    mulInto(y, unaryInto('silu', slice(p, 1, channels, channels + inner)));
    return residual ? linearAdd(residual, y, output.weight, output.adding) : linear(y, output.weight, output.plain);
  };
}

/** Rows `[at, at + count)` of each of `heads` parts of `stride` rows. */
function ofEach(heads: number, stride: number, at: number, count: number): Runs {
  return Array.from({ length: heads }, (_, k) => [k * stride + at, count] as const);
}

/** Queries, keys, values and output gates: apart, or one part for each key head with the rows of all four. */
function inputs(w: Weights, { keyHeads, valueHeads, keyDim, valueDim }: DeltaNetSpec): readonly ProjectionPart[] {
  const inner = valueHeads * valueDim;
  if (!w.has('in_proj_qkvz.weight')) {
    return [
      { name: 'in_proj_qkv', rows: 2 * keyHeads * keyDim + inner },
      { name: 'in_proj_z', rows: inner },
    ];
  }
  const values = inner / keyHeads;
  const stride = 2 * keyDim + 2 * values;
  const rows = keyHeads * stride;
  const runs = [
    ...ofEach(keyHeads, stride, 0, keyDim),
    ...ofEach(keyHeads, stride, keyDim, keyDim),
    ...ofEach(keyHeads, stride, 2 * keyDim, values),
    ...ofEach(keyHeads, stride, 2 * keyDim + values, values),
  ];
  return [{ name: 'in_proj_qkvz', rows, stored: rows, runs }];
}

/** The two gates of the recurrence, likewise. */
function gates(w: Weights, { keyHeads, valueHeads }: DeltaNetSpec): readonly ProjectionPart[] {
  if (!w.has('in_proj_ba.weight')) {
    return [
      { name: 'in_proj_b', rows: valueHeads },
      { name: 'in_proj_a', rows: valueHeads },
    ];
  }
  const served = valueHeads / keyHeads;
  const rows = 2 * valueHeads;
  const runs = [...ofEach(keyHeads, 2 * served, 0, served), ...ofEach(keyHeads, 2 * served, served, served)];
  return [{ name: 'in_proj_ba', rows, stored: rows, runs }];
}
