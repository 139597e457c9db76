/** Which experts each row takes, and with what weight. Everything stays on the device. */
import { fill, iota, LOWEST } from '../../core/composed/basics.ts';
import {
  addInto,
  binary,
  binaryInto,
  cast,
  concat,
  div,
  expand,
  gatherRows,
  linear,
  mulInto,
  reduce,
  scaleInto,
  scatterRows,
  slice,
  softmax,
  sub,
  topk,
  unary,
  unaryInto,
} from '../../core/ops.ts';
import * as s from '../../core/schema.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Projection } from './linear.ts';

export interface Routing {
  readonly experts: number;
  readonly topK: number;
  /**
   * How logits become weights: `softmax` over all experts, `sigmoid` of each, or softmax over those `chosen` by logit.
   * `sparsemixer` (arXiv 2409.12136) chooses two, each weighted among the experts nearly as likely as it.
   */
  readonly scores: 'softmax' | 'sigmoid' | 'chosen' | 'sparsemixer';
  /** `[experts]`, added to the scores for choosing only. */
  readonly correction?: Tensor | undefined;
  /** Only experts of the `kept` best of `count` equal groups are chosen; a group is as good as its best one or two. */
  readonly groups?: { readonly count: number; readonly kept: number; readonly best: 1 | 2 } | undefined;
  /** Divides the weights by their sum, plus `added` and at least `least`. */
  readonly renormalize?: boolean | { readonly added?: number; readonly least?: number } | undefined;
  /** Multiplies the weights. */
  readonly scale?: number | undefined;
  /** `[experts]`, multiplies the weight of each expert. */
  readonly expertScale?: Tensor | undefined;
  /** Of the sparse mixer: experts whose logit lies further behind than twice this share are not weighed. */
  readonly jitter?: number | undefined;
}

export interface Routes {
  /** `[rows, topK]` */
  readonly weights: Tensor;
  /** i32 `[rows, topK]` */
  readonly experts: Tensor;
}

export type Router = (x: Tensor) => Routes;

/** Demands a choice that can be made. Architectures call it while they read their configuration. */
export function checkRouting(r: Pick<Routing, 'experts' | 'topK' | 'groups'>, path = 'num_experts_per_tok'): void {
  const { experts, topK, groups } = r;
  if (topK > experts) throw s.configError(path, `at most ${experts} experts`, topK);
  if (!groups) return;
  const { count, kept, best } = groups;
  if (experts % count !== 0) throw s.configError('n_group', `a divisor of ${experts} experts`, count);
  if (experts / count < best) throw s.configError('n_group', `groups of at least ${best} experts`, count);
  if (kept > count) throw s.configError('topk_group', `at most n_group (${count})`, kept);
  const open = (kept * experts) / count;
  if (topK > open) throw s.configError(path, `at most the ${open} experts of topk_group groups`, topK);
}

/** A router over the logits of `gate`. */
export function router(gate: Projection, r: Routing): Router {
  checkRouting(r);
  const choose = chooser(r);
  const { scale = 1, expertScale } = r;
  return (x) => {
    const { weights, experts } = choose(linear(x, gate.weight, gate.plain));
    if (scale !== 1) scaleInto(weights, scale);
    if (expertScale) mulInto(weights, gatherRows(expertScale.reshape([r.experts, 1]), experts).reshape(weights.shape));
    return { weights, experts };
  };
}

function chooser(r: Routing): (logits: Tensor) => Routes {
  const { topK, scores: kind, correction, groups, renormalize } = r;
  if (kind === 'sparsemixer') return sparseMixer(r.jitter ?? 0);
  // A group kept whole changes nothing.
  const limited = groups && groups.kept < groups.count ? groups : undefined;
  const plain = !correction && !limited;
  // A softmax over all, renormalised over the chosen, is one over the chosen.
  if (kind === 'chosen' || (kind === 'softmax' && plain && renormalize === true)) {
    return (logits) => {
      const { values, indices } = plain ? topk(logits, topK) : pickBest(logits, r, limited);
      return { weights: softmax(values), experts: indices };
    };
  }
  const { added = 0, least = 0 } = typeof renormalize === 'object' ? renormalize : {};
  return (logits) => {
    const all = kind === 'sigmoid' ? unaryInto('sigmoid', logits) : softmax(logits);
    const { values, indices } = plain ? topk(all, topK) : pickBest(all, r, limited);
    if (renormalize) {
      const total = reduce('sum', values, 1);
      if (added) scaleInto(total, 1, added);
      if (least) unaryInto('clamp', total, least, -LOWEST);
      binaryInto('div', values, total);
    }
    return { weights: values, experts: indices };
  };
}

/** Chooses by corrected scores within the best groups; the values are the scores as they were. */
function pickBest(scores: Tensor, r: Routing, groups: Routing['groups']): { values: Tensor; indices: Tensor } {
  const ranked = r.correction ? binary('add', scores, r.correction) : scores;
  const { indices } = topk(groups ? withinGroups(ranked, groups) : ranked, r.topK);
  const values = gatherRows(scores.reshape([scores.size, 1]), flat(indices, r.experts));
  return { values: values.reshape(indices.shape), indices };
}

/** Scores of experts outside of the best groups become the lowest number. */
function withinGroups(scores: Tensor, { count, kept, best }: NonNullable<Routing['groups']>): Tensor {
  const { backend } = scores;
  const rows = scores.shape[0]!;
  const size = scores.width / count;
  const grouped = scores.reshape([rows, count, size]);
  const merits = best === 1 ? reduce('max', grouped, 2) : reduce('sum', topk(grouped, best).values, 2);
  const { indices } = topk(merits.reshape([rows, count]), kept);
  const mask = fill(backend, [rows * count, 1], LOWEST);
  scatterRows(mask, fill(backend, [rows * kept, 1], 0), flat(indices, count));
  const whole = expand(mask.reshape([rows, count, 1]), [rows, count, size]);
  return addInto(whole.reshape([rows, scores.width]), scores);
}

/** Column numbers `[rows, k]` as numbers of elements of a matrix of `width` columns. */
function flat(indices: Tensor, width: number): Tensor {
  const rows = indices.shape[0]!;
  if (rows <= 1) return indices;
  const firsts = scaleInto(iota(indices.backend, rows), width).reshape([rows, 1]);
  return cast(addInto(cast(indices, 'f32'), firsts), 'i32');
}

/**
 * The likeliest two. The weight of each is its softmax among the experts that are not beaten clearly: the distance to its
 * logit, over the larger of that logit and the own magnitude, is at most twice `jitter`. The first does not count for the
 * second.
 */
function sparseMixer(jitter: number): (logits: Tensor) => Routes {
  return (logits) => {
    const { values: tops, indices: experts } = topk(logits, 2);
    const magnitudes = unary('abs', logits);
    const limit = fill(logits.backend, [1], -2 * jitter);
    const totalFor = (i: number): Tensor => {
      const top = slice(tops, 1, i, i + 1);
      const distance = sub(logits, top);
      const beaten = binaryInto('less', div(distance, binary('max', magnitudes, top)), limit);
      const shares = unaryInto('exp', unaryInto('clamp', distance, LOWEST, 0));
      return reduce('sum', mulInto(shares, scaleInto(beaten, -1, 1)), 1);
    };
    // Clamped, the first one counts as exactly one among the shares of the second.
    const totals = concat([totalFor(0), scaleInto(totalFor(1), 1, -1)], 1);
    return { weights: unaryInto('reciprocal', totals), experts };
  };
}
