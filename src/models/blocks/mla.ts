/** Multi-head latent attention (DeepSeek V2, arXiv 2405.04434). */
import type { AttentionOptions, QkvOptions, RopeOptions } from '../../core/backend.ts';
import type { Mixer, Rope } from '../../core/model.ts';
import {
  attention as attend,
  concat,
  expand,
  linear,
  linearAdd,
  linearExperts,
  norm,
  qkvStore,
  rope as rotate,
  slice,
} from '../../core/ops.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Weight } from '../../core/weight.ts';
import type { Weights } from '../../core/weights.ts';
import { rowRange, transposed } from '../../core/weightViews.ts';
import { checkShape, projection } from './linear.ts';
import { rmsNorm } from './norm.ts';

export interface MlaSpec {
  readonly hidden: number;
  readonly heads: number;
  /** Size of the compressed queries; absent, they are not compressed. */
  readonly qRank: number | undefined;
  /** Size of the latent that keys and values are made from. */
  readonly kvRank: number;
  /** Entries of a query and key head that do not rotate, and that do. */
  readonly nopeDim: number;
  readonly ropeDim: number;
  readonly valueDim: number;
  readonly scale: number;
  readonly rope: Rope;
  /** Rotates neighbouring pairs instead of the two halves. */
  readonly interleaved: boolean;
  /** Of the compressing projections and the output. */
  readonly bias: boolean;
  /** Of the norms of the latents. */
  readonly eps: number;
}

/**
 * The cache holds the latent and the rotated part of a key, which all heads share, and nothing for each head: the
 * projections from the latent to keys and values are applied to queries and results instead.
 */
export function latentAttention(w: Weights, a: MlaSpec): Mixer {
  const { hidden, heads, kvRank, nopeDim, ropeDim, valueDim, scale, eps } = a;
  const queryDim = nopeDim + ropeDim;
  const keyDim = kvRank + ropeDim;
  const query = queries(w, a);
  const compress = projection(w, [{ name: 'kv_a_proj_with_mqa', rows: keyDim }], hidden, a.bias);
  const latentNorm = rmsNorm(w.at('kv_a_layernorm'), { width: kvRank, eps });
  const { keys, values } = expansions(w, a);
  const output = projection(w, [{ name: 'o_proj', rows: hidden }], heads * valueDim, a.bias);
  const everyHead = w.constant(
    `0..${heads}`,
    Int32Array.from({ length: heads }, (_, h) => h),
    [1, heads],
  );
  const table = w.declareRope(a.rope);
  const cache = w.declareCache({ kvHeads: 1, keyDim, valueDim: kvRank, valuesInKeys: true, dtype: 'f32' });
  const turn: RopeOptions = { headDim: ropeDim, rotaryDim: ropeDim, interleaved: a.interleaved };
  const sizes = { kvHeads: 1, headDim: keyDim, valueDim: kvRank };
  const store: QkvOptions = { ...sizes, heads: 0 };
  const look: AttentionOptions = { ...sizes, heads, scale };
  return (x, s, residual) => {
    const rows = x.shape[0]!;
    const kv = s.caches[cache]!;
    const cosSin = s.cosSin[table]!;
    const head = expand(everyHead, [rows, heads]);

    const compressed = linear(x, compress.weight, compress.plain);
    const latent = norm(slice(compressed, 1, 0, kvRank), latentNorm);
    const shared = rotate(slice(compressed, 1, kvRank, keyDim), cosSin, turn);
    qkvStore(concat([latent, shared], 1), undefined, kv, s.batch, store);

    const q = query(x).reshape([rows * heads, queryDim]);
    const turned = rotate(slice(q, 1, nopeDim, queryDim).reshape([rows, heads * ropeDim]), cosSin, turn);
    const absorbed = linearExperts(slice(q, 1, 0, nopeDim), keys, head, heads);
    const whole = concat([absorbed, turned.reshape([rows * heads, ropeDim])], 1).reshape([rows, heads * keyDim]);

    const mixed = attend(whole, kv, s.batch, look).reshape([rows * heads, kvRank]);
    const y = linearExperts(mixed, values, head, heads).reshape([rows, heads * valueDim]);
    return residual ? linearAdd(residual, y, output.weight, output.adding) : linear(y, output.weight, output.plain);
  };
}

/** `[rows, heads * (nopeDim + ropeDim)]`, by way of a latent where queries are compressed. */
function queries(w: Weights, a: MlaSpec): (x: Tensor) => Tensor {
  const { hidden, qRank } = a;
  const rows = a.heads * (a.nopeDim + a.ropeDim);
  if (qRank === undefined) {
    const whole = projection(w, [{ name: 'q_proj', rows }], hidden, false);
    return (x) => linear(x, whole.weight);
  }
  const down = projection(w, [{ name: 'q_a_proj', rows: qRank }], hidden, a.bias);
  const between = rmsNorm(w.at('q_a_layernorm'), { width: qRank, eps: a.eps });
  const up = projection(w, [{ name: 'q_b_proj', rows }], qRank, false);
  return (x) => linear(norm(linear(x, down.weight, down.plain), between), up.weight);
}

/**
 * From the latent to the keys of each head, turned around (`[heads * kvRank, nopeDim]`), and to their values
 * (`[heads * valueDim, kvRank]`): stored so as `k_b_proj` and `v_b_proj`, or cut out of `kv_b_proj`.
 */
function expansions(w: Weights, a: MlaSpec): { readonly keys: Weight; readonly values: Weight } {
  const { heads, kvRank, nopeDim, valueDim } = a;
  if (w.has('k_b_proj.weight')) {
    return {
      keys: w.matrix('k_b_proj.weight', [heads * kvRank, nopeDim]),
      values: w.matrix('v_b_proj.weight', [heads * valueDim, kvRank]),
    };
  }
  const perHead = nopeDim + valueDim;
  checkShape(w, 'kv_b_proj.weight', heads * perHead, kvRank);
  const both = w.source('kv_b_proj.weight');
  const movable = both.type.blockSize === 1 ? both : w.expanded(both);
  const each = Array.from({ length: heads }, (_, h) => h * perHead);
  const keys = each.map((first) => transposed(rowRange(movable, first, nopeDim, kvRank), 1, nopeDim, kvRank));
  const values = each.map((first) => rowRange(both, first + nopeDim, valueDim, kvRank));
  return {
    keys: w.matrixOf(keys, [heads * kvRank, nopeDim], `${w.path}k_b_proj.weight`),
    values: w.matrixOf(values, [heads * valueDim, kvRank], `${w.path}v_b_proj.weight`),
  };
}
