import type { Decoder, Mixer, Rope } from '../../core/model.ts';
import type { Weights } from '../../core/weights.ts';
import type { TextConfig } from '../arch.ts';
import { heads, layers, tableAndHead, trunk } from '../arch.ts';
import { attention } from '../blocks/attention.ts';
import { decoder } from '../blocks/decoder.ts';
import { preNorm } from '../blocks/layer.ts';
import { gatedMlp } from '../blocks/mlp.ts';
import { rmsNorm } from '../blocks/norm.ts';

/** What distinguishes the architectures of the Llama shape. */
export interface Variation {
  readonly rope: (layer: number) => Rope | undefined;
  readonly window?: (layer: number) => number | undefined;
  /** RMS norm on each query and key head. */
  readonly headNorms?: boolean;
  /** Biases; absent, as the checkpoint has them. */
  readonly qkvBias?: boolean | undefined;
  readonly outBias?: boolean | undefined;
  readonly mlpBias?: boolean | undefined;
  /** Norm weights are stored as their distance from one. */
  readonly plusOne?: boolean;
  /** Attention has an output gate. */
  readonly gated?: boolean;
  /** Layers that have something else in place of attention. */
  readonly mixer?: (w: Weights, layer: number) => Mixer | undefined;
  /** Layers whose MLP is something else than the gated one. */
  readonly mlp?: (w: Weights, layer: number) => Mixer | undefined;
}

/** The Llama shape: RMS norm before each of attention and gated MLP, both added to the stream. */
export function preNormModel(w: Weights, c: Omit<TextConfig, 'layer_types'>, v: Variation): Decoder {
  const m = trunk(w);
  const h = heads(c);
  const hidden = c.hidden_size;
  const norm = (at: Weights, width: number) => rmsNorm(at, { width, eps: c.rms_norm_eps, plusOne: v.plusOne });
  const { table, head } = tableAndHead(w, m, c);
  return decoder(w, {
    table,
    head,
    maxPositions: c.max_position_embeddings,
    norm: norm(m.at('norm'), hidden),
    layers: layers(c.num_hidden_layers, (layer) => {
      const l = m.at('layers', layer);
      const a = l.at('self_attn');
      return preNorm({
        attnNorm: norm(l.at('input_layernorm'), hidden),
        attn:
          v.mixer?.(l, layer) ??
          attention(a, {
            ...h,
            hidden,
            scale: h.headDim ** -0.5,
            rope: v.rope(layer),
            window: v.window?.(layer),
            qNorm: v.headNorms ? norm(a.at('q_norm'), h.headDim) : undefined,
            kNorm: v.headNorms ? norm(a.at('k_norm'), h.headDim) : undefined,
            bias: v.qkvBias,
            outBias: v.outBias,
            gated: v.gated,
          }),
        mlpNorm: norm(l.at('post_attention_layernorm'), hidden),
        mlp:
          v.mlp?.(l.at('mlp'), layer) ??
          gatedMlp(l.at('mlp'), {
            hidden,
            intermediate: c.intermediate_size,
            activation: c.hidden_act,
            bias: v.mlpBias,
          }),
      });
    }),
  });
}
