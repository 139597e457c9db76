/** The matrices of routed experts, from whichever layout a checkpoint has. */
import type { GluOptions } from '../../core/backend.ts';
import { mxfp4Rows } from '../../core/io/mxfp4.ts';
import { addInto, concat, gatherRows, glu, linearExperts, matmul } from '../../core/ops.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Weight } from '../../core/weight.ts';
import type { SourceTensor, Weights } from '../../core/weights.ts';
import { slab, transposed } from '../../core/weightViews.ts';
import { checkShape } from './linear.ts';
import type { Routes } from './router.ts';

export interface ExpertsSpec {
  readonly hidden: number;
  /** Of one expert. */
  readonly intermediate: number;
  readonly experts: number;
  readonly topK: number;
  /** Of gate and up; `interleaved` says how a fused matrix has them. */
  readonly glu: GluOptions;
  /** Whether the projections have biases; absent, as the checkpoint has them. */
  readonly bias?: boolean | undefined;
  /** Fused matrices are stored `[experts, in, out]`. */
  readonly transposed?: boolean | undefined;
}

/** The sum of what the chosen experts make of each row, `[rows, hidden]`: `down(activation(gate(x)) * up(x))`. */
export type Experts = (x: Tensor, routes: Routes) => Tensor;

export function routedExperts(w: Weights, e: ExpertsSpec): Experts {
  const { experts, topK, hidden } = e;
  const { input, output, inputBias, outputBias, gate } = matrices(w, e);
  return (x, routes) => {
    const rows = x.shape[0]!;
    const inner = linearExperts(x, input, routes.experts, experts);
    if (inputBias.length) {
      const parts = inputBias.map((b) => gatherRows(b, routes.experts));
      addInto(inner, parts.length > 1 ? concat(parts, 1) : parts[0]!);
    }
    const y = linearExperts(glu(inner, gate), output, routes.experts, experts);
    if (outputBias) addInto(y, gatherRows(outputBias, routes.experts));
    const weights = routes.weights.reshape([rows, 1, topK]);
    return matmul(weights, y.reshape([rows, topK, hidden])).reshape([rows, hidden]);
  };
}

/** Names of the matrices of experts that are stored one by one, or one kind below the other: gate, up, down. */
const NAMES = [
  ['gate_proj', 'up_proj', 'down_proj'],
  ['w1', 'w3', 'w2'],
] as const;
/** Names of fused ones: gate and up, down. */
const FUSED = [
  ['gate_up_proj', 'down_proj'],
  ['gate_up_proj.weight', 'down_proj.weight'],
  ['input_linear.weight', 'output_linear.weight'],
] as const;

interface Matrices {
  /** Gate above up for each expert (or row by row in turn), one expert below the other. */
  readonly input: Weight;
  readonly output: Weight;
  /** `[experts, columns]`, one behind the other. */
  readonly inputBias: readonly Tensor[];
  readonly outputBias: Tensor | undefined;
  readonly gate: GluOptions;
}

function matrices(w: Weights, e: ExpertsSpec): Matrices {
  const { hidden, intermediate, experts } = e;
  const inRows = 2 * experts * intermediate;
  const outRows = experts * hidden;
  const stack = { count: experts, path: w.path };
  const each = <T>(make: (expert: number) => T) => Array.from({ length: experts }, (_, i) => make(i));
  const part = (name: string, rows: number, width: number): SourceTensor => {
    checkShape(w, name, rows, width);
    return w.source(name);
  };
  const both = (
    input: readonly SourceTensor[],
    output: readonly SourceTensor[],
    more?: Partial<Matrices>,
  ): Matrices => ({
    input: w.matrixOf(input, [inRows, hidden], `${w.path}gate_up_proj`, {
      ...stack,
      role: 'input',
      interleaved: more?.gate?.interleaved === true,
    }),
    output: w.matrixOf(output, [outRows, intermediate], `${w.path}down_proj`, {
      ...stack,
      role: 'output',
      interleaved: false,
    }),
    inputBias: [],
    outputBias: undefined,
    gate: { ...e.glu, interleaved: false },
    ...more,
  });

  const packed = w.has('gate_up_proj_blocks');
  const fused = packed ? FUSED[0] : FUSED.find(([name]) => w.has(name));
  if (fused) {
    const read = (name: string, out: number, width: number): SourceTensor => {
      if (packed) return mxfp4Rows(w.source(`${name}_blocks`), w.source(`${name}_scales`), [experts * out, width]);
      if (!e.transposed) return part(name, experts * out, width);
      return transposed(part(name, experts * width, out), experts, width, out);
    };
    const biased = e.bias ?? w.has(`${fused[1]}_bias`);
    return both([read(fused[0], 2 * intermediate, hidden)], [read(fused[1], hidden, intermediate)], {
      inputBias: biased ? [w.tensor(`${fused[0]}_bias`, [experts, 2 * intermediate])] : [],
      outputBias: biased ? w.tensor(`${fused[1]}_bias`, [experts, hidden]) : undefined,
      gate: e.glu,
    });
  }

  // Biases of experts that are stored one by one lie in one tensor for all of them too.
  const biases = ([gate, up, down]: (typeof NAMES)[number]): Partial<Matrices> => {
    if (!(e.bias ?? w.has(`${down}.bias`))) return {};
    return {
      inputBias: [gate, up].map((n) => w.tensor(`${n}.bias`, [experts, intermediate])),
      outputBias: w.tensor(`${down}.bias`, [experts, hidden]),
    };
  };
  const stacked = NAMES.find(([name]) => w.has(`${name}.weight`));
  if (stacked) {
    const [gateName, upName, downName] = stacked;
    const gate = part(`${gateName}.weight`, experts * intermediate, hidden);
    const up = part(`${upName}.weight`, experts * intermediate, hidden);
    const pairs = each((i) => [gate, up].map((t) => slab(t, i, intermediate, hidden)));
    return both(pairs.flat(), [part(`${downName}.weight`, outRows, intermediate)], biases(stacked));
  }

  const names = NAMES.find(([name]) => w.has(`0.${name}.weight`)) ?? NAMES[0];
  const [gateName, upName, downName] = names;
  const pairs = each((i) => [gateName, upName].map((n) => part(`${i}.${n}.weight`, intermediate, hidden)));
  return both(
    pairs.flat(),
    each((i) => part(`${i}.${downName}.weight`, hidden, intermediate)),
    biases(names),
  );
}
