import type { Activation, GluOptions } from '../../core/backend.ts';
import type { Mixer } from '../../core/model.ts';
import { addInto, binaryInto, glu, linear, linearExperts, matmul, reduce, softmax, topk } from '../../core/ops.ts';
import type { Weight } from '../../core/weight.ts';
import type { SourceTensor, Weights } from '../../core/weights.ts';
import { checkShape, projection } from './linear.ts';

export interface MoeSpec {
  readonly hidden: number;
  /** Of one expert. */
  readonly intermediate: number;
  readonly experts: number;
  readonly topK: number;
  /** Scales the weights of the chosen experts to a sum of one. */
  readonly renormalize: boolean;
  readonly activation: Activation;
}

/** Gated MLPs of which each row takes the `topK` likeliest, by a softmax over all. Routing stays on the device. */
export function moe(w: Weights, m: MoeSpec): Mixer {
  const { experts, topK, renormalize } = m;
  const router = projection(w, [{ name: 'gate', rows: experts }], m.hidden, false);
  const { input, output } = expertWeights(w.at('experts'), m);
  const gate: GluOptions = { activation: m.activation };
  return (x, _s, residual) => {
    const rows = x.shape[0]!;
    const { values, indices } = topk(softmax(linear(x, router.weight)), topK);
    if (renormalize) binaryInto('div', values, reduce('sum', values, 1));
    const inner = glu(linearExperts(x, input, indices, experts), gate);
    const y = linearExperts(inner, output, indices, experts);
    const mixed = matmul(values.reshape([rows, 1, topK]), y.reshape([rows, topK, m.hidden])).reshape([rows, m.hidden]);
    return residual ? addInto(residual, mixed) : mixed;
  };
}

/** Gate above up for each expert, one expert below the other, from whichever of three layouts the checkpoint has. */
function expertWeights(w: Weights, m: MoeSpec): { readonly input: Weight; readonly output: Weight } {
  const { hidden, intermediate, experts } = m;
  const each = <T>(make: (e: number) => T) => Array.from({ length: experts }, (_, e) => make(e));
  const part = (name: string, rows: number, width: number): SourceTensor => {
    checkShape(w, name, rows, width);
    return w.source(name);
  };
  const whole = (input: readonly SourceTensor[], output: readonly SourceTensor[]) => ({
    input: w.matrixOf(input, [2 * experts * intermediate, hidden], `${w.path}gate_up_proj`),
    output: w.matrixOf(output, [experts * hidden, intermediate], `${w.path}down_proj`),
  });
  const outRows = experts * hidden;
  if (w.has('gate_up_proj')) {
    return whole(
      [part('gate_up_proj', 2 * experts * intermediate, hidden)],
      [part('down_proj', outRows, intermediate)],
    );
  }
  if (w.has('gate_proj.weight')) {
    const gate = part('gate_proj.weight', experts * intermediate, hidden);
    const up = part('up_proj.weight', experts * intermediate, hidden);
    const pairs = each((e) => [slab(gate, e, intermediate, hidden), slab(up, e, intermediate, hidden)]);
    return whole(pairs.flat(), [part('down_proj.weight', outRows, intermediate)]);
  }
  const pairs = each((e) => ['gate_proj', 'up_proj'].map((n) => part(`${e}.${n}.weight`, intermediate, hidden)));
  return whole(
    pairs.flat(),
    each((e) => part(`${e}.down_proj.weight`, hidden, intermediate)),
  );
}

/** One of equally large matrices that a tensor holds below one another. */
function slab(t: SourceTensor, index: number, rows: number, width: number): SourceTensor {
  return {
    ...t,
    name: `${t.name}[${index}]`,
    shape: [rows, width],
    readRows: (first, n, target) => t.readRows(index * rows + first, n, target),
  };
}
