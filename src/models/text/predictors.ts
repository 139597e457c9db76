import type { ExtraParts, Mixer } from '../../core/model.ts';
import type { Weights } from '../../core/weights.ts';

/** A head for the token behind the next: a layer like the others, and what leads into it and out of it. */
export interface PredictorSpec extends OwnParts {
  /** Where the layer is. */
  readonly layer: Weights;
  readonly embedNorm: Weights;
  readonly hiddenNorm: Weights;
  /** Its `weight` takes embedding and hidden row, side by side. */
  readonly join: Weights;
  /** Absent where rows go to the output matrix as they are. */
  readonly norm?: Weights | undefined;
  /** Output matrix of its own, where it is stored; else that of the model. */
  readonly head?: Weights | undefined;
  /** That of the model is read a second time. */
  readonly copiesHead?: boolean | undefined;
}

/** What the layer has in place of attention and of the gated `mlp`; the cursor stands at the layer. */
interface OwnParts {
  readonly mixer?: ((l: Weights) => Mixer) | undefined;
  readonly mlp?: ((l: Weights) => Mixer | undefined) | undefined;
}

interface Counts {
  readonly num_hidden_layers: number;
  /** Layers behind the last one that only draft tokens. */
  readonly num_nextn_predict_layers?: number | undefined;
}

/**
 * The head for multi-token prediction, when one is asked for and the checkpoint has it, in whichever of the published
 * layouts; the tensors of all of them are no part of the model itself. Of several heads the first serves for every token
 * ahead. Sources of names and order: vLLM, `qwen3_next_mtp.py`, `deepseek_mtp.py`, `ernie_mtp.py`.
 */
export function predictorOf(w: Weights, c: Counts, extras: ExtraParts, parts: OwnParts): PredictorSpec | undefined {
  const { num_hidden_layers: layers, num_nextn_predict_layers: drafts = 0 } = c;
  w.ignore(/^(mtp\.|model\.mtp_)/);
  for (let i = 0; i < drafts; i++) w.ignore(new RegExp(`^model\\.layers\\.${layers + i}\\.`));
  if (!extras.predictor) return undefined;
  const own = { ...parts, copiesHead: extras.draftHead };
  const [mtp, model] = [w.at('mtp'), w.at('model')];
  // Qwen.
  if (mtp.has('fc.weight')) {
    return {
      ...own,
      layer: mtp.at('layers', 0),
      embedNorm: mtp.at('pre_fc_norm_embedding'),
      hiddenNorm: mtp.at('pre_fc_norm_hidden'),
      join: mtp.at('fc'),
      norm: mtp.at('norm'),
    };
  }
  // DeepSeek, GLM, and GGUF files.
  const next = model.at('layers', layers);
  if (drafts > 0 && next.has('eh_proj.weight')) {
    return {
      ...own,
      layer: next,
      embedNorm: next.at('enorm'),
      hiddenNorm: next.at('hnorm'),
      join: next.at('eh_proj'),
      norm: next.has('shared_head.norm.weight') ? next.at('shared_head', 'norm') : model.at('norm'),
      head: next.at('shared_head', 'head'),
    };
  }
  // Ernie.
  if (model.has('mtp_linear_proj.0.weight')) {
    return {
      ...own,
      layer: model.at('mtp_block', 0),
      embedNorm: model.at('mtp_emb_norm', 0),
      hiddenNorm: model.at('mtp_hidden_norm', 0),
      join: model.at('mtp_linear_proj', 0),
    };
  }
  return undefined;
}
