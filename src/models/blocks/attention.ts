import type { AttentionOptions, NormOptions, QkvOptions } from '../../core/backend.ts';
import type { Mixer, Rope, RowTable, Step } from '../../core/model.ts';
import {
  attention as attend,
  linear,
  linearAdd,
  mulInto,
  norm,
  qkvStore,
  rope as rotate,
  unaryInto,
} from '../../core/ops.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Weights } from '../../core/weights.ts';
import type { Projection, ProjectionPart } from './linear.ts';
import { projection } from './linear.ts';

export interface AttentionSpec {
  readonly hidden: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly scale: number;
  /** A query sees itself and the `window - 1` positions before it; absent, all of them. */
  readonly window?: number | undefined;
  readonly softcap?: number | undefined;
  /** Absent on layers without position encoding. */
  readonly rope?: Rope | undefined;
  /** Rotates neighbouring pairs instead of the two halves of a head. */
  readonly interleaved?: boolean | undefined;
  /** Norms of each query and key head, before the rotation or after it. */
  readonly qNorm?: NormOptions | undefined;
  readonly kNorm?: NormOptions | undefined;
  readonly normAfterRope?: boolean | undefined;
  /** A logit for each head that takes part in the softmax and stands for no position. */
  readonly sinks?: Tensor | undefined;
  /** A factor of the queries of each row. */
  readonly queryScale?: RowTable | undefined;
  /** Whether the projections have biases; absent, as the checkpoint has them. */
  readonly bias?: boolean | undefined;
  readonly outBias?: boolean | undefined;
  /** Rows of `q_proj` hold each head's query and, behind it, a gate whose sigmoid multiplies the head's result. */
  readonly gated?: boolean | undefined;
  /** Name of the output projection; `o_proj` when absent. */
  readonly outName?: string | undefined;
  /** What gives queries, keys and values, where that is not one product; see `projections.ts`. */
  readonly project?: Project | undefined;
  /** The output projection, where it is stored in another way. */
  readonly output?: Projection | undefined;
  /** A cache declared by the caller, which other layers look at too. */
  readonly cache?: number | undefined;
}

/** Rows of queries, keys and values one behind the other. */
export type Project = (x: Tensor) => Tensor;

/** `q_proj`, `k_proj`, `v_proj`, or a fused `qkv_proj`. */
export function qkvParts(w: Weights, { heads, kvHeads, headDim, gated }: AttentionSpec): readonly ProjectionPart[] {
  const qRows = heads * headDim;
  const kvRows = kvHeads * headDim;
  if (w.has('qkv_proj.weight')) return [{ name: 'qkv_proj', rows: qRows + 2 * kvRows }];
  return [
    { name: 'q_proj', rows: qRows, ...(gated ? halves(heads, headDim, 0) : {}) },
    { name: 'k_proj', rows: kvRows },
    { name: 'v_proj', rows: kvRows },
  ];
}

/** Of rows of query and gate per head: the queries (`at` 0) or the gates (`at` the size of a head). */
function halves(heads: number, headDim: number, at: number): Pick<ProjectionPart, 'runs' | 'stored'> {
  const runs = Array.from({ length: heads }, (_, h) => [2 * h * headDim + at, headDim] as const);
  return { stored: 2 * heads * headDim, runs };
}

/** Grouped-query attention over the step's cache: one product for queries, keys and values, and `o_proj`. */
export function attention(w: Weights, a: AttentionSpec): Mixer {
  const { heads, kvHeads, headDim, qNorm, kNorm, normAfterRope } = a;
  const project = a.project ?? fused(w, a);
  const table = a.rope ? w.declareRope(a.rope) : 0;
  const store: QkvOptions = {
    heads,
    kvHeads,
    headDim,
    valueDim: headDim,
    rope: ropeOptions(a),
    qNorm,
    kNorm,
    normAfterRope,
  };
  const cache = a.cache ?? w.declareCache({ kvHeads, keyDim: headDim, valueDim: headDim, dtype: 'f32' });
  const look = over(w, a, cache);
  const gate = a.gated
    ? projection(w, [{ name: 'q_proj', rows: heads * headDim, ...halves(heads, headDim, headDim) }], a.hidden, a.bias)
    : undefined;
  return (x, s, residual) => {
    const cosSin = store.rope ? s.cosSin[table] : undefined;
    const q = qkvStore(project(x), cosSin, s.caches[cache]!, s.batch, store);
    const factors = gate && unaryInto('sigmoid', linear(x, gate.weight, gate.plain));
    return look(q, s, residual, factors);
  };
}

/** Attention over the keys and values that an earlier layer has stored: of its own it has queries only. */
export function queryAttention(w: Weights, a: AttentionSpec & { readonly cache: number }): Mixer {
  const { heads, headDim, qNorm } = a;
  const input = projection(w, [{ name: 'q_proj', rows: heads * headDim }], a.hidden, a.bias);
  const table = a.rope ? w.declareRope(a.rope) : 0;
  const options = ropeOptions(a);
  const look = over(w, a, a.cache);
  return (x, s, residual) => {
    const q = linear(x, input.weight, input.plain);
    const normed = qNorm ? norm(q.reshape([-1, headDim]), qNorm).reshape(q.shape) : q;
    if (options) rotate(normed, s.cosSin[table]!, options);
    return look(normed, s, residual);
  };
}

function fused(w: Weights, a: AttentionSpec): Project {
  const input = projection(w, qkvParts(w, a), a.hidden, a.bias);
  return (x) => linear(x, input.weight, input.plain);
}

function ropeOptions({ rope, headDim, interleaved = false }: AttentionSpec) {
  return rope && { headDim, rotaryDim: rope.rotaryDim, interleaved };
}

/** From queries to what is added to the stream; `factors` multiply what attention gives. */
type Look = (q: Tensor, s: Step, residual?: Tensor, factors?: Tensor) => Tensor;

function over(w: Weights, a: AttentionSpec, cache: number): Look {
  const { heads, kvHeads, headDim, scale, window, softcap, sinks } = a;
  const output =
    a.output ?? projection(w, [{ name: a.outName ?? 'o_proj', rows: a.hidden }], heads * headDim, a.outBias);
  const factor = a.queryScale && w.declareRope(a.queryScale);
  const look: AttentionOptions = { heads, kvHeads, headDim, valueDim: headDim, scale, window, softcap, sinks };
  return (q, s, residual, factors) => {
    if (factor !== undefined) mulInto(q, s.cosSin[factor]!.rows(0, s.batch.rows));
    const y = attend(q, s.caches[cache]!, s.batch, look);
    if (factors) mulInto(y, factors);
    return residual ? linearAdd(residual, y, output.weight, output.adding) : linear(y, output.weight, output.plain);
  };
}
