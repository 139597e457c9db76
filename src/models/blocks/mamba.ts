/** The mixer of Mamba 2 (Dao & Gu 2024): convolution, selective scan, gated norm. */
import type { Activation, NormOptions, SsmScanOptions } from '../../core/backend.ts';
import type { Mixer } from '../../core/model.ts';
import {
  addInto,
  linear,
  linearAdd,
  mulInto,
  norm,
  scale,
  scaleInto,
  slice,
  ssmScan,
  unaryInto,
} from '../../core/ops.ts';
import type { Tensor } from '../../core/tensor.ts';
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
  /** Of `out_proj`; as of `in_proj` when absent. */
  readonly outBias?: boolean | undefined;
  readonly eps: number;
  /** Bounds of the time step. */
  readonly steps: readonly [least: number, most: number];
  /** Parts of the inner channels that are normalised on their own; absent, nothing is. */
  readonly normGroups: number | undefined;
  /** Normalises before the gate is applied. */
  readonly normFirst?: boolean | undefined;
  readonly scales?: MambaScales | undefined;
}

/** Factors of the input, of the five parts it is projected to, and of the result. */
export interface MambaScales {
  readonly input: number;
  readonly gate: number;
  readonly value: number;
  readonly key: number;
  readonly query: number;
  readonly step: number;
  readonly output: number;
}

const PLAIN: MambaScales = { input: 1, gate: 1, value: 1, key: 1, query: 1, step: 1, output: 1 };

/** A copy times a factor, or the tensor itself. */
export function scaled(x: Tensor, factor: number): Tensor {
  return factor === 1 ? x : scale(x, factor);
}

/** `in_proj` makes gate, values, `B`, `C` and time steps of each row; `out_proj` leads back. */
export function mamba(w: Weights, m: MambaSpec): Mixer {
  const { hidden, heads, headDim, groups, stateDim } = m;
  const inner = heads * headDim;
  const channels = inner + 2 * groups * stateDim;
  const input = projection(w, [{ name: 'in_proj', rows: inner + channels + heads }], hidden, m.bias);
  const output = projection(w, [{ name: 'out_proj', rows: hidden }], inner, m.outBias ?? m.bias);
  const by = m.scales ?? PLAIN;
  const keys = inner + groups * stateDim;
  const conv = shortConv(w.at('conv1d'), {
    ...{ channels, kernel: m.kernel, start: inner, bias: m.convBias, activation: m.activation },
    scaleOf: (channel) => (channel < inner ? by.value : channel < keys ? by.key : by.query),
  });
  const steps = inner + channels;
  const scan: SsmScanOptions = {
    ...{ heads, headDim, groups, stateDim, minStep: m.steps[0], maxStep: m.steps[1] },
    start: by.step === 1 ? steps : 0,
    ...{ decay: decayRates(w, heads), bias: w.tensor('dt_bias', [heads]), skip: w.tensor('D', [heads]) },
  };
  const innerNorm: NormOptions | undefined = m.normGroups
    ? { kind: 'rms', eps: m.eps, weight: w.tensor('norm.weight', [inner]), groups: m.normGroups }
    : undefined;
  const state = w.declareState({ shape: [heads, stateDim, headDim] });
  return (x, s, residual) => {
    const p = linear(scaled(x, by.input), input.weight, input.plain);
    const dt = by.step === 1 ? p : scaleInto(slice(p, 1, steps, steps + heads), by.step);
    const y = ssmScan(conv(p, s), dt, s.states[state]!, s.batch, scan);
    const gate = slice(p, 1, 0, inner);
    if (by.gate !== 1) scaleInto(gate, by.gate);
    unaryInto('silu', gate);
    const z = innerNorm
      ? m.normFirst
        ? mulInto(norm(y, innerNorm), gate)
        : norm(mulInto(y, gate), innerNorm)
      : mulInto(y, gate);
    if (residual && by.output === 1) return linearAdd(residual, z, output.weight, output.adding);
    const result = linear(z, output.weight, output.plain);
    if (by.output !== 1) scaleInto(result, by.output);
    return residual ? addInto(residual, result) : result;
  };
}
