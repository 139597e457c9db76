/** What recurrent layers share: short convolutions, and parameters in the form the ops take. */
import type { Activation, CausalConvOptions } from '../../core/backend.ts';
import type { Step } from '../../core/model.ts';
import { causalConv, unaryInto } from '../../core/ops.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Weights } from '../../core/weights.ts';

export interface ShortConvSpec {
  readonly channels: number;
  readonly kernel: number;
  /** First column of the input. */
  readonly start?: number | undefined;
  readonly bias: boolean;
  readonly activation?: Activation | undefined;
  /** Multiplies the inputs of a channel. */
  readonly scaleOf?: ((channel: number) => number) | undefined;
}

/** A depthwise causal convolution with `weight` `[channels, 1, kernel]`, over a tail that every sequence keeps. */
export function shortConv(w: Weights, c: ShortConvSpec): (x: Tensor, s: Step) => Tensor {
  const { channels, kernel, activation, scaleOf } = c;
  const taps = w.tensor('weight', [kernel, channels], (values) => {
    const stored = values.slice();
    for (let i = 0; i < channels; i++) {
      const scale = scaleOf?.(i) ?? 1;
      for (let j = 0; j < kernel; j++) values[j * channels + i] = stored[i * kernel + j]! * scale;
    }
  });
  const bias = c.bias ? w.tensor('bias', [channels]) : undefined;
  const options: CausalConvOptions = { start: c.start ?? 0, bias, silu: activation === 'silu' };
  const tail = w.declareState({ shape: [kernel - 1, channels] });
  return (x, s) => {
    const y = causalConv(x, taps, s.states[tail]!, s.batch, options);
    return activation === undefined || activation === 'silu' ? y : unaryInto(activation, y);
  };
}

/** Decay rates, stored as logarithms of their size. */
export function decayRates(w: Weights, heads: number): Tensor {
  return w.tensor('A_log', [heads], (values) => {
    for (let i = 0; i < values.length; i++) values[i] = -Math.exp(values[i]!);
  });
}

/** The vector of one head, for all of them. */
export function repeated(w: Weights, name: string, size: number, heads: number): Tensor {
  return w.vector(Array.from({ length: heads }, () => ({ name, size })));
}
