/** The mixer of Mamba 2 (Dao & Gu 2024): convolution, selective scan, gated norm. */
import type { Activation, NormOptions, SsmScanOptions } from '../../core/backend.ts';
import type { Mixer } from '../../core/model.ts';
import { linear, linearAdd, mulInto, norm, slice, ssmScan, unaryInto } from '../../core/ops.ts';
import type { Weights } from '../../core/weights.ts';
import { projection } from './linear.ts';
import { decayRates, shortConv } from './recurrent.ts';

export interface MambaSpec {
  readonly hidden: number;
  readonly heads: number;
  readonly headDim: number;
  readonly groups: number;
  readonly stateDim: number;
  readonly kernel: number;
  readonly activation: Activation;
  readonly convBias: boolean;
  readonly bias: boolean;
  readonly eps: number;
  /** Bounds of the time step. */
  readonly steps: readonly [least: number, most: number];
  /** Parts of the inner channels that are normalised on their own. */
  readonly normGroups: number;
}

/** `in_proj` makes gate, values, `B`, `C` and time steps of each row; `out_proj` leads back. */
export function mamba(w: Weights, m: MambaSpec): Mixer {
  const { hidden, heads, headDim, groups, stateDim } = m;
  const inner = heads * headDim;
  const channels = inner + 2 * groups * stateDim;
  const input = projection(w, [{ name: 'in_proj', rows: inner + channels + heads }], hidden, m.bias);
  const output = projection(w, [{ name: 'out_proj', rows: hidden }], inner, m.bias);
  const conv = shortConv(w.at('conv1d'), {
    ...{ channels, kernel: m.kernel, start: inner, bias: m.convBias, activation: m.activation },
  });
  const scan: SsmScanOptions = {
    ...{ heads, headDim, groups, stateDim, start: inner + channels, minStep: m.steps[0], maxStep: m.steps[1] },
    ...{ decay: decayRates(w, heads), bias: w.tensor('dt_bias', [heads]), skip: w.tensor('D', [heads]) },
  };
  const gatedNorm: NormOptions = {
    ...{ kind: 'rms', eps: m.eps, weight: w.tensor('norm.weight', [inner]), groups: m.normGroups },
  };
  const state = w.declareState({ shape: [heads, stateDim, headDim] });
  return (x, s, residual) => {
    const p = linear(x, input.weight, input.plain);
    const y = ssmScan(conv(p, s), p, s.states[state]!, s.batch, scan);
    mulInto(y, unaryInto('silu', slice(p, 1, 0, inner)));
    const z = norm(y, gatedNorm);
    return residual ? linearAdd(residual, z, output.weight, output.adding) : linear(z, output.weight, output.plain);
  };
}
