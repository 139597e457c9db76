/** Queries, keys and values that are more than one product of the input. */
import type { NormOptions } from '../../core/backend.ts';
import { concat, linear, norm, unaryInto } from '../../core/ops.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Weights } from '../../core/weights.ts';
import type { AttentionSpec, Project } from './attention.ts';
import { qkvParts } from './attention.ts';
import { projection } from './linear.ts';

/** Norms of whole rows, `groups` of them a row where each head is normed on its own. */
export interface RowNorms {
  readonly q?: NormOptions | undefined;
  readonly k?: NormOptions | undefined;
  readonly v?: NormOptions | undefined;
  /** Values are the keys before their norm and rotation. */
  readonly valuesAreKeys?: boolean | undefined;
}

/** `q_proj`, `k_proj` and `v_proj`, each with a norm behind it. */
export function normedParts(w: Weights, a: AttentionSpec, n: RowNorms): Project {
  const part = (name: string, heads: number) => projection(w, [{ name, rows: heads * a.headDim }], a.hidden, a.bias);
  const q = part('q_proj', a.heads);
  const k = part('k_proj', a.kvHeads);
  const v = n.valuesAreKeys ? undefined : part('v_proj', a.kvHeads);
  const normed = (x: Tensor, options: NormOptions | undefined) => (options ? norm(x, options) : x);
  return (x) => {
    const keys = linear(x, k.weight, k.plain);
    const values = v ? linear(x, v.weight, v.plain) : keys;
    const queries = linear(x, q.weight, q.plain);
    return concat([normed(queries, n.q), normed(keys, n.k), normed(values, n.v)], 1);
  };
}

/** Projections whose elements are kept within `±limit`. */
export function clippedParts(w: Weights, a: AttentionSpec, limit: number): Project {
  const input = projection(w, qkvParts(w, a), a.hidden, a.bias);
  return (x) => unaryInto('clamp', linear(x, input.weight, input.plain), -limit, limit);
}
