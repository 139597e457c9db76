import type { AttentionOptions, NormOptions, QkvOptions } from '../../core/backend.ts';
import type { Mixer, Rope } from '../../core/model.ts';
import { attention as attend, linear, linearAdd, mulInto, qkvStore, unaryInto } from '../../core/ops.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Weights } from '../../core/weights.ts';
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
  /** Whether the projections have biases; absent, as the checkpoint has them. */
  readonly bias?: boolean | undefined;
  readonly outBias?: boolean | undefined;
  /** Rows of `q_proj` hold each head's query and, behind it, a gate whose sigmoid multiplies the head's result. */
  readonly gated?: boolean | undefined;
  /** Name of the output projection; `o_proj` when absent. */
  readonly outName?: string | undefined;
}

/** Grouped-query attention over the step's cache: `q_proj`, `k_proj`, `v_proj` (or a fused `qkv_proj`) and `o_proj`. */
export function attention(w: Weights, a: AttentionSpec): Mixer {
  const { hidden, heads, kvHeads, headDim, scale, window, softcap, sinks, qNorm, kNorm, normAfterRope } = a;
  const sizes = { heads, kvHeads, headDim, valueDim: headDim };
  const qRows = heads * headDim;
  const kvRows = kvHeads * headDim;
  const halves = (at: number) => ({
    stored: 2 * qRows,
    runs: Array.from({ length: heads }, (_, h) => [2 * h * headDim + at, headDim] as const),
  });
  const parts = w.has('qkv_proj.weight')
    ? [{ name: 'qkv_proj', rows: qRows + 2 * kvRows }]
    : [
        { name: 'q_proj', rows: qRows, ...(a.gated ? halves(0) : {}) },
        { name: 'k_proj', rows: kvRows },
        { name: 'v_proj', rows: kvRows },
      ];
  const input = projection(w, parts, hidden, a.bias);
  const output = projection(w, [{ name: a.outName ?? 'o_proj', rows: hidden }], qRows, a.outBias);
  const gate = a.gated
    ? projection(w, [{ name: 'q_proj', rows: qRows, ...halves(headDim) }], hidden, a.bias)
    : undefined;
  const table = a.rope ? w.declareRope(a.rope) : 0;
  const rope = a.rope ? { headDim, rotaryDim: a.rope.rotaryDim, interleaved: a.interleaved ?? false } : undefined;
  const store: QkvOptions = { ...sizes, rope, qNorm, kNorm, normAfterRope };
  const look: AttentionOptions = { ...sizes, scale, window, softcap, sinks };
  const cache = w.declareCache({ kvHeads, keyDim: headDim, valueDim: headDim, dtype: 'f32' });
  return (x, s, residual) => {
    const kv = s.caches[cache]!;
    const q = qkvStore(linear(x, input.weight, input.plain), rope ? s.cosSin[table] : undefined, kv, s.batch, store);
    const y = attend(q, kv, s.batch, look);
    if (gate) mulInto(y, unaryInto('sigmoid', linear(x, gate.weight, gate.plain)));
    return residual ? linearAdd(residual, y, output.weight, output.adding) : linear(y, output.weight, output.plain);
  };
}
