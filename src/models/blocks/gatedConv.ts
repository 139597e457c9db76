import type { Mixer } from '../../core/model.ts';
import { linear, linearAdd, mul, mulInto, slice } from '../../core/ops.ts';
import type { Weights } from '../../core/weights.ts';
import { projection } from './linear.ts';
import { shortConv } from './recurrent.ts';

export interface GatedConvSpec {
  readonly hidden: number;
  readonly kernel: number;
  readonly bias: boolean;
}

/** LFM2's mixer: `out_proj(c · conv(b · x))`, with `b`, `c` and `x` from `in_proj`. */
export function gatedConv(w: Weights, g: GatedConvSpec): Mixer {
  const { hidden, kernel, bias } = g;
  const input = projection(w, [{ name: 'in_proj', rows: 3 * hidden }], hidden, bias);
  const output = projection(w, [{ name: 'out_proj', rows: hidden }], hidden, bias);
  const conv = shortConv(w.at('conv'), { channels: hidden, kernel, bias });
  return (x, s, residual) => {
    const p = linear(x, input.weight, input.plain);
    const y = conv(mul(slice(p, 1, 0, hidden), slice(p, 1, 2 * hidden, 3 * hidden)), s);
    mulInto(y, slice(p, 1, hidden, 2 * hidden));
    return residual ? linearAdd(residual, y, output.weight, output.adding) : linear(y, output.weight, output.plain);
  };
}
