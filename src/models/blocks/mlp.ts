import type { Activation, GluOptions } from '../../core/backend.ts';
import type { Mixer } from '../../core/model.ts';
import { glu, linear, linearAdd } from '../../core/ops.ts';
import type { Weights } from '../../core/weights.ts';
import { projection } from './linear.ts';

export interface GatedMlpSpec {
  readonly hidden: number;
  readonly intermediate: number;
  readonly activation: Activation;
  /** Whether the projections have biases; absent, as the checkpoint has them. */
  readonly bias?: boolean | undefined;
}

/** `down(activation(gate(x)) * up(x))`, with `gate_proj` and `up_proj` apart or fused as `gate_up_proj`. */
export function gatedMlp(w: Weights, m: GatedMlpSpec): Mixer {
  const { hidden, intermediate, activation, bias } = m;
  const parts = w.has('gate_up_proj.weight')
    ? [{ name: 'gate_up_proj', rows: 2 * intermediate }]
    : [
        { name: 'gate_proj', rows: intermediate },
        { name: 'up_proj', rows: intermediate },
      ];
  const input = projection(w, parts, hidden, bias);
  const output = projection(w, [{ name: 'down_proj', rows: hidden }], intermediate, bias);
  const gate: GluOptions = { activation };
  return (x, _s, residual) => {
    const y = glu(linear(x, input.weight, input.plain), gate);
    return residual ? linearAdd(residual, y, output.weight, output.adding) : linear(y, output.weight, output.plain);
  };
}
