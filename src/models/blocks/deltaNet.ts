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
}

/** Added to the squared length that queries and keys are divided by. */
const LENGTH_EPS = 1e-6;

/** Each row becomes queries, keys, values, an output gate, and the two gates of the recurrence. */
export function deltaNet(w: Weights, d: DeltaNetSpec): Mixer {
  const { hidden, keyHeads, valueHeads, keyDim, valueDim } = d;
  const channels = 2 * keyHeads * keyDim + valueHeads * valueDim;
  const inner = valueHeads * valueDim;
  const input = projection(w, w.has('in_proj_qkvz.weight') ? byKeyHead(d) : apart(d), hidden, false);
  const output = projection(w, [{ name: 'out_proj', rows: hidden }], inner, false);
  const conv = shortConv(w.at('conv1d'), { channels, kernel: d.kernel, bias: false, activation: d.activation });
  const delta: GatedDeltaOptions = {
    ...{ keyHeads, valueHeads, keyDim, valueDim, start: channels + inner, scale: keyDim ** -0.5, eps: LENGTH_EPS },
    ...{ decay: decayRates(w, valueHeads), bias: w.tensor('dt_bias', [valueHeads]) },
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

function apart({ keyHeads, valueHeads, keyDim, valueDim }: DeltaNetSpec): readonly ProjectionPart[] {
  const inner = valueHeads * valueDim;
  return [
    { name: 'in_proj_qkv', rows: 2 * keyHeads * keyDim + inner },
    { name: 'in_proj_z', rows: inner },
    { name: 'in_proj_b', rows: valueHeads },
    { name: 'in_proj_a', rows: valueHeads },
  ];
}

/** Stored by key head: the rows of its query, key, values and output gates, and those of its two gates. */
function byKeyHead({ keyHeads, valueHeads, keyDim, valueDim }: DeltaNetSpec): readonly ProjectionPart[] {
  const served = valueHeads / keyHeads;
  const values = served * valueDim;
  const wide = 2 * keyDim + 2 * values;
  const runs = (stride: number, at: number, count: number): Runs =>
    Array.from({ length: keyHeads }, (_, k) => [k * stride + at, count] as const);
  return [
    {
      ...{ name: 'in_proj_qkvz', rows: keyHeads * wide, stored: keyHeads * wide },
      runs: [
        ...runs(wide, 0, keyDim),
        ...runs(wide, keyDim, keyDim),
        ...runs(wide, 2 * keyDim, values),
        ...runs(wide, 2 * keyDim + values, values),
      ],
    },
    {
      ...{ name: 'in_proj_ba', rows: 2 * valueHeads, stored: 2 * valueHeads },
      runs: [...runs(2 * served, 0, served), ...runs(2 * served, served, served)],
    },
  ];
}
