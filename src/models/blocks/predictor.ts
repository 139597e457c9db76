import type { LinearOptions, NormOptions } from '../../core/backend.ts';
import type { Layer, Predictor, Step } from '../../core/model.ts';
import { concat, gatherRows, linear, norm, scaleInto, scatterRows } from '../../core/ops.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { Weight } from '../../core/weight.ts';
import { wantsAll } from './decoder.ts';

export interface PredictorParts {
  readonly table: Weight;
  readonly embedScale?: number | undefined;
  readonly embedNorm: NormOptions;
  readonly hiddenNorm: NormOptions;
  /** `[hidden, 2 * hidden]`: from the embedding of a token, and behind it what the decoder made of the one before. */
  readonly join: Weight;
  readonly joinBias?: Tensor | undefined;
  readonly layer: Layer;
  readonly norm?: NormOptions | undefined;
  readonly head: Weight;
  readonly headBias?: Tensor | undefined;
  /** Number of the first cache that the layer declared. */
  readonly firstCache: number;
}

/**
 * A head for multi-token prediction (DeepSeek V3, arXiv 2412.19437, section 2.2): one layer of the model's own kind over
 * `join([norm(embedding of t(i + 1)), norm(final row i)])` at position i guesses t(i + 2). Final rows are taken behind the
 * decoder's last norm, and behind the head's own where it goes on from itself, as vLLM (`qwen3_next_mtp.py`), SGLang
 * (`deepseek_nextn.py`) and llama.cpp (`graph_mtp`) do.
 */
export function predictor(p: PredictorParts): Predictor {
  const { table, embedScale = 1, embedNorm, hiddenNorm, join, layer, head } = p;
  const joining: LinearOptions = { bias: p.joinBias };
  const output: LinearOptions = { bias: p.headBias };
  let step: Step;
  let stream: Tensor;
  const mix = () => layer.mix(stream, step);
  const feed = () => layer.feed(stream, step);
  return {
    firstCache: p.firstCache,
    forward(s, previous) {
      step = s;
      const { batch, backend } = s;
      const embedded = gatherRows(table, batch.tokens, batch.rows);
      if (embedScale !== 1) scaleInto(embedded, embedScale);
      stream = linear(concat([norm(embedded, embedNorm), norm(previous, hiddenNorm)], 1), join, joining);
      backend.scope(mix);
      if (!wantsAll(batch)) stream = gatherRows(stream, batch.logitRows, batch.logitCount);
      backend.scope(feed);
      const final = p.norm ? norm(stream, p.norm) : stream;
      if (s.kept) scatterRows(s.kept.rows, final, s.kept.order);
      return linear(final, head, output);
    },
  };
}
