import type { Batch, LinearOptions, NormOptions } from '../../core/backend.ts';
import type { Decoder, Layer, Predictor, Step } from '../../core/model.ts';
import { addInto, gatherRows, linear, norm, scaleInto, scatterRows, unaryInto } from '../../core/ops.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Weight } from '../../core/weight.ts';
import type { Weights } from '../../core/weights.ts';

export interface DecoderParts {
  readonly table: Weight;
  readonly layers: readonly Layer[];
  readonly norm: NormOptions;
  /** The table again in models with tied embeddings. */
  readonly head: Weight;
  readonly headBias?: Tensor | undefined;
  readonly maxPositions: number;
  /** Learned embeddings of positions, one row each. */
  readonly positions?: Weight | undefined;
  /** Multiplies the embeddings. */
  readonly embedScale?: number | undefined;
  /** What layers feed on besides the stream, made from the embeddings. */
  readonly side?: ((embeddings: Tensor, s: Step) => Tensor) | undefined;
  /** Multiplies the logits. */
  readonly logitScale?: number | undefined;
  /** `cap * tanh(logit / cap)`. */
  readonly logitCap?: number | undefined;
  readonly predictor?: Predictor | undefined;
}

/** The loop every decoder-only model shares. Only the residual stream outlives a layer. */
export function decoder(w: Weights, p: DecoderParts): Decoder {
  const { table, head, headBias: bias, positions, embedScale = 1, logitScale = 1, logitCap } = p;
  const output: LinearOptions = { bias };
  // Prepared once, so that a step makes no closures: they look at the step and the stream of the moment.
  let step: Step;
  let stream: Tensor;
  let side: Tensor | undefined;
  let before: Tensor | undefined;
  let every = false;
  const last = p.layers.length - 1;
  const mixes = p.layers.map((layer) => () => layer.mix(stream, step, before));
  const feeds = p.layers.map((layer) => () => layer.feed(stream, step, side, before));
  const passes = p.layers.map((layer, i) => () => {
    before = layer.before?.(stream);
    step.backend.scope(mixes[i]!);
    // Behind the last mix rows no longer see each other: only the wanted ones go on, unless all of them choose an MLP.
    const narrows = i === last && !every && !wantsAll(step.batch);
    const late = w.mixtures?.needsAllRows === true;
    if (narrows && !late) narrow(step.batch);
    step.backend.scope(feeds[i]!);
    if (narrows && late) narrow(step.batch);
  });
  const narrow = ({ logitRows, logitCount }: Batch) => {
    stream = gatherRows(stream, logitRows, logitCount);
    side = side && gatherRows(side, logitRows, logitCount);
    before = before && gatherRows(before, logitRows, logitCount);
  };
  const names = p.layers.map((_, i) => `layers.${i}`);
  /** The normed stream: of the wanted rows, or of all. */
  const run = (s: Step, all: boolean): Tensor => {
    step = s;
    every = all;
    const { batch, backend } = s;
    stream = gatherRows(table, batch.tokens, batch.rows);
    if (embedScale !== 1) scaleInto(stream, embedScale);
    if (positions) addInto(stream, gatherRows(positions, batch.positions, batch.rows));
    side = p.side?.(stream, s);
    s.trace?.('embed', stream);
    for (let i = 0; i <= last; i++) {
      // What the last one makes of the stream outlives it.
      if (i < last) backend.scope(passes[i]!);
      else passes[i]!();
      s.trace?.(names[i]!, stream);
    }
    const normed = norm(stream, p.norm);
    s.trace?.('norm', normed);
    return normed;
  };
  /** The normed rows that are wanted; all of them where they are kept. */
  const finalRows = (s: Step): Tensor => {
    if (!s.kept) return run(s, false);
    const all = run(s, true);
    scatterRows(s.kept.rows, all, s.kept.order);
    return wantsAll(s.batch) ? all : gatherRows(all, s.batch.logitRows, s.batch.logitCount);
  };
  return {
    vocab: head.shape[0],
    hidden: table.shape[1],
    maxPositions: w.ropes.reduce((n, rope) => Math.max(n, rope.maxPositions ?? 0), p.maxPositions),
    caches: w.caches,
    states: w.states,
    ropes: w.ropes,
    features: (s) => run(s, true),
    predictor: p.predictor,
    forward(s) {
      const logits = linear(finalRows(s), head, output);
      if (logitScale !== 1) scaleInto(logits, logitScale);
      return logitCap === undefined ? logits : unaryInto('softcap', logits, logitCap);
    },
  };
}

/** Every row in order, as in a decode step: nothing to gather. */
export function wantsAll({ rows, logitCount, host }: Batch): boolean {
  if (logitCount !== rows) return false;
  for (let i = 0; i < rows; i++) if (host.logitRows[i] !== i) return false;
  return true;
}
