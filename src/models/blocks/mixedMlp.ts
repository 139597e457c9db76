/** One MLP of several for every row: only the chosen ones are computed. */
import { WeightError } from '../../core/errors.ts';
import type { MlpMixture } from '../../core/mixture.ts';
import type { Mixer } from '../../core/model.ts';
import { addInto, gatherRows, linearExperts, matmul } from '../../core/ops.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Weight } from '../../core/weight.ts';
import type { SourceTensor, Weights } from '../../core/weights.ts';
import { checkShape, type ProjectionPart } from './linear.ts';

export interface MixedMlpSpec {
  readonly hidden: number;
  readonly intermediate: number;
  /** Whether the projections have biases; absent, as the checkpoint has them. */
  readonly bias?: boolean | undefined;
  readonly input: readonly ProjectionPart[];
  readonly output: ProjectionPart;
  readonly activate: (inner: Tensor) => Tensor;
}

export function mixedMlp(w: Weights, m: MlpMixture, p: MixedMlpSpec): Mixer {
  const input = stackOf(w, m, p.input, p.hidden, p.bias);
  const output = stackOf(w, m, [p.output], p.intermediate, p.bias);
  const product = (x: Tensor, { weight, bias }: Stack, experts: Tensor) => {
    const y = linearExperts(x, weight, experts, m.count);
    return bias ? addInto(y, gatherRows(bias, experts)) : y;
  };
  return (x, s, residual) => {
    const { experts, weights } = m.routes(x, s);
    const y = product(p.activate(product(x, input, experts)), output, experts);
    const sum = weights ? weighted(y, weights) : y;
    return residual ? addInto(residual, sum) : sum;
  };
}

function weighted(y: Tensor, weights: Tensor): Tensor {
  const [rows, k] = weights.shape as readonly [number, number];
  return matmul(weights.reshape([rows, 1, k]), y.reshape([rows, k, y.width])).reshape([rows, y.width]);
}

/** Matrices of all experts below one another, and their biases by row. */
interface Stack {
  readonly weight: Weight;
  readonly bias: Tensor | undefined;
}

function stackOf(
  w: Weights,
  m: MlpMixture,
  parts: readonly ProjectionPart[],
  width: number,
  biased: boolean | undefined,
): Stack {
  const rows = parts.reduce((n, p) => n + p.rows, 0);
  for (const p of parts) checkShape(w, `${p.name}.weight`, p.rows, width);
  const ofAll = (end: string) =>
    Array.from({ length: m.count }, (_, expert) => parts.map((p) => tensorOf(w, m, expert, p.name + end))).flat();
  const name = `${w.path}${parts.map((p) => p.name).join('+')} of ${m.count} experts`;
  const weight = w.matrixOf(ofAll('.weight'), [m.count * rows, width], name);
  const some = biased ?? parts.some((p) => w.has(`${p.name}.bias`));
  return { weight, bias: some ? w.table(`${name}: bias`, ofAll('.bias'), [m.count, rows]) : undefined };
}

function tensorOf(w: Weights, m: MlpMixture, expert: number, name: string): SourceTensor {
  const own = w.source(name);
  if (expert === 0) return own;
  const tensor = m.tensorOf(expert, own, name);
  if (tensor.shape.length === own.shape.length && tensor.shape.every((n, i) => n === own.shape[i])) {
    return { ...tensor, name: `${own.name}[${expert}]`, order: own.order };
  }
  throw new WeightError(`expert ${expert}: "${tensor.name}": expected shape [${own.shape}], got [${tensor.shape}]`);
}
