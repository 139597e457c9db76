import type { NormOptions } from '../../core/backend.ts';
import { DRAFT_HEAD } from '../../core/draftHead.ts';
import type { Decoder, Mixer, Rope, RowTable } from '../../core/model.ts';
import type { Weight } from '../../core/weight.ts';
import type { Weights } from '../../core/weights.ts';
import type { TextConfig } from '../arch.ts';
import { heads, layers, tableAndHead, trunk } from '../arch.ts';
import type { AttentionSpec, Project } from '../blocks/attention.ts';
import { attention } from '../blocks/attention.ts';
import { decoder } from '../blocks/decoder.ts';
import { preNorm } from '../blocks/layer.ts';
import { gatedMlp } from '../blocks/mlp.ts';
import { rmsNorm } from '../blocks/norm.ts';
import { predictor } from '../blocks/predictor.ts';
import type { PredictorSpec } from './predictors.ts';

/** What distinguishes the architectures of the Llama shape. */
export interface Variation {
  readonly rope: (layer: number) => Rope | undefined;
  /** Of attention scores; the usual one when absent. */
  readonly scale?: number | undefined;
  readonly queryScale?: RowTable | undefined;
  readonly embedScale?: number | undefined;
  readonly residualScale?: number | undefined;
  readonly logitScale?: number | undefined;
  readonly window?: (layer: number) => number | undefined;
  /** RMS norm on each query and key head, `q_norm` and `k_norm` before the rotation where nothing else is said. */
  readonly headNorms?: boolean | { readonly q: string; readonly k: string; readonly afterRope: boolean };
  /** Rotates neighbouring pairs. */
  readonly interleaved?: boolean;
  /** Each head has a logit of its own in the softmax: `sinks`. */
  readonly sinks?: boolean;
  /** Biases; absent, as the checkpoint has them. */
  readonly qkvBias?: boolean | undefined;
  readonly outBias?: boolean | undefined;
  readonly mlpBias?: boolean | undefined;
  /** Norm weights are stored as their distance from one. */
  readonly plusOne?: boolean;
  /** Attention has an output gate. */
  readonly gated?: boolean;
  /** What gives queries, keys and values where that is not one product; the cursor stands at `self_attn`. */
  readonly project?: (w: Weights, spec: AttentionSpec) => Project | undefined;
  /** Layers that have something else in place of attention. */
  readonly mixer?: (w: Weights, layer: number) => Mixer | undefined;
  readonly headBias?: boolean | undefined;
  /** Norms of the residual stream that are not RMS norms with a weight. */
  readonly norm?: (w: Weights) => NormOptions;
  /** Layers whose MLP is something else than the gated `mlp`; the cursor stands at the layer. */
  readonly mlp?: (w: Weights, layer: number) => Mixer | undefined;
  readonly predictor?: PredictorSpec | undefined;
}

/** What a layer has in place of attention and of the gated `mlp`. */
type Own = { readonly [K in 'mixer' | 'mlp']: Mixer | undefined };

/** The Llama shape: RMS norm before each of attention and gated MLP, both added to the stream. */
export function preNormModel(w: Weights, c: Omit<TextConfig, 'layer_types'>, v: Variation): Decoder {
  const m = trunk(w);
  const h = heads(c);
  const hidden = c.hidden_size;
  const eps = c.rms_norm_eps;
  const rms = (at: Weights, width: number) => rmsNorm(at, { width, eps, plusOne: v.plusOne });
  const norm = v.norm ?? ((at: Weights) => rms(at, hidden));
  const named = v.headNorms === true ? { q: 'q_norm', k: 'k_norm', afterRope: false } : v.headNorms || undefined;
  const { table, head } = tableAndHead(w, m, c);
  const headBias = v.headBias ? w.tensor('lm_head.bias', [c.vocab_size]) : undefined;
  const makeLayer = (l: Weights, layer: number, own: Own) => {
    const a = l.at('self_attn');
    const spec: AttentionSpec = {
      ...h,
      hidden,
      scale: v.scale ?? h.headDim ** -0.5,
      rope: v.rope(layer),
      interleaved: v.interleaved,
      queryScale: v.queryScale,
      window: v.window?.(layer),
      normAfterRope: named?.afterRope,
      bias: v.qkvBias,
      outBias: v.outBias,
      gated: v.gated,
    };
    const headNorm = (name: string) => rms(a.at(name), h.headDim);
    return preNorm({
      residualScale: v.residualScale,
      attnNorm: norm(l.at('input_layernorm')),
      attn:
        own.mixer ??
        attention(a, {
          ...spec,
          qNorm: named && headNorm(named.q),
          kNorm: named && headNorm(named.k),
          sinks: v.sinks ? a.tensor('sinks', [h.heads]) : undefined,
          project: v.project?.(a, spec),
        }),
      mlpNorm: norm(l.at('post_attention_layernorm')),
      mlp:
        own.mlp ??
        gatedMlp(l.at('mlp'), {
          hidden,
          intermediate: c.intermediate_size,
          activation: c.hidden_act,
          bias: v.mlpBias,
        }),
    });
  };
  const all = layers(c.num_hidden_layers, (layer) => {
    const l = m.at('layers', layer);
    return makeLayer(l, layer, { mixer: v.mixer?.(l, layer), mlp: v.mlp?.(l, layer) });
  });
  const makePredictor = (p: PredictorSpec) => {
    const firstCache = w.caches.length;
    const ownHead = p.head?.has('weight') ? p.head.matrix('weight', [c.vocab_size, hidden]) : undefined;
    return predictor({
      table,
      embedScale: v.embedScale,
      embedNorm: norm(p.embedNorm),
      hiddenNorm: norm(p.hiddenNorm),
      join: p.join.matrix('weight', [hidden, 2 * hidden]),
      joinBias: p.join.optional('bias', [hidden]),
      layer: makeLayer(p.layer, c.num_hidden_layers, { mixer: p.mixer?.(p.layer), mlp: p.mlp?.(p.layer) }),
      norm: p.norm && norm(p.norm),
      head: ownHead ?? (p.copiesHead ? draftHead(w, head) : head),
      headBias: ownHead ? undefined : headBias,
      firstCache,
    });
  };
  return decoder(w, {
    table,
    head,
    maxPositions: c.max_position_embeddings,
    headBias,
    norm: norm(m.at('norm')),
    embedScale: v.embedScale,
    logitScale: v.logitScale,
    layers: all,
    predictor: v.predictor && makePredictor(v.predictor),
  });
}

/** The output matrix once more, so that it can have another format where it only serves guesses. */
function draftHead(w: Weights, head: Weight): Weight {
  return w.matrixOf([{ ...w.source(head.name), name: DRAFT_HEAD }], head.shape, DRAFT_HEAD);
}
