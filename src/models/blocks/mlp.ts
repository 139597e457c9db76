import type { Activation, GluOptions } from '../../core/backend.ts';
import type { Mixer } from '../../core/model.ts';
import { glu, linear, linearAdd, unaryInto } from '../../core/ops.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Weights } from '../../core/weights.ts';
import type { Projection } from './linear.ts';
import { projection } from './linear.ts';
import { mixedMlp } from './mixedMlp.ts';

export interface GatedMlpSpec {
  readonly hidden: number;
  readonly intermediate: number;
  readonly activation: Activation;
  /** Whether the projections have biases; absent, as the checkpoint has them. */
  readonly bias?: boolean | undefined;
  /** Gate, up and down where they are not called `gate_proj`, `up_proj`, `down_proj`. */
  readonly names?: readonly [gate: string, up: string, down: string] | undefined;
  /** The matrix of gate above up; `gate_up_proj` when absent. */
  readonly fused?: string | undefined;
}

/** `down(activation(gate(x)) * up(x))`, with `gate_proj` and `up_proj` apart or fused as `gate_up_proj`. */
export function gatedMlp(w: Weights, m: GatedMlpSpec): Mixer {
  const { hidden, intermediate, activation, bias, fused = 'gate_up_proj' } = m;
  const [gateName, upName, downName] = m.names ?? ['gate_proj', 'up_proj', 'down_proj'];
  const parts = w.has(`${fused}.weight`)
    ? [{ name: fused, rows: 2 * intermediate }]
    : [
        { name: gateName, rows: intermediate },
        { name: upName, rows: intermediate },
      ];
  const down = { name: downName, rows: hidden };
  const gate: GluOptions = { activation };
  const { mixture } = w;
  if (mixture) {
    const activate = (inner: Tensor) => glu(inner, gate);
    return mixedMlp(w, mixture, { hidden, intermediate, bias, input: parts, output: down, activate });
  }
  const input = projection(w, parts, hidden, bias);
  const output = projection(w, [down], intermediate, bias);
  return (x, _s, residual) => {
    const y = glu(linear(x, input.weight, input.plain), gate);
    return residual ? linearAdd(residual, y, output.weight, output.adding) : linear(y, output.weight, output.plain);
  };
}

export interface PlainMlpSpec extends Omit<GatedMlpSpec, 'names' | 'fused'> {
  /** The two matrices, without `.weight`. */
  readonly names: readonly [input: string, output: string];
}

/** `output(activation(input(x)))`. */
export function plainMlp(w: Weights, m: PlainMlpSpec): Mixer {
  const { hidden, intermediate, bias, names } = m;
  const up = [{ name: names[0], rows: intermediate }];
  const down = { name: names[1], rows: hidden };
  const { mixture } = w;
  if (mixture) {
    const activate = (inner: Tensor) => unaryInto(m.activation, inner);
    return mixedMlp(w, mixture, { hidden, intermediate, bias, input: up, output: down, activate });
  }
  return plainMlpOf(projection(w, up, hidden, bias), projection(w, [down], intermediate, bias), m.activation);
}

/** The same of projections that were read before. */
export function plainMlpOf(input: Projection, output: Projection, activation: Activation): Mixer {
  return (x, _s, residual) => {
    const y = unaryInto(activation, linear(x, input.weight, input.plain));
    return residual ? linearAdd(residual, y, output.weight, output.adding) : linear(y, output.weight, output.plain);
  };
}
