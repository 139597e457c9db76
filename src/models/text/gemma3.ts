import * as s from '../../core/schema.ts';
import { layerTypes, textArch, textFields, windowOf } from '../arch.ts';
import { layerRopes } from '../blocks/rope.ts';
import { causalOnly, gemmaModel, laterConfig } from './gemma.ts';

/** Gemma 3 text: head norms, five windowed layers to each full one, and a rotation for each kind. */
export const gemma3 = textArch(
  laterConfig.extend({
    // Released files leave out what equals these.
    vocab_size: s.or(s.count, 262208),
    hidden_size: s.or(s.count, 2304),
    intermediate_size: s.or(s.count, 9216),
    num_hidden_layers: s.or(textFields.num_hidden_layers, 26),
    max_position_embeddings: s.or(s.count, 131072),
    final_logit_softcapping: s.optional(s.positive),
    sliding_window_pattern: s.or(s.count, 6),
    rope_local_base_freq: s.optional(s.positive),
  }),
  (c) => {
    const pattern = c.sliding_window_pattern;
    const layer_types = layerTypes(c, (i) => ((i + 1) % pattern === 0 ? 'full_attention' : 'sliding_attention'));
    const ropes = layerRopes(
      c,
      { headDim: c.head_dim, theta: 1e6, stated: c.rope_theta },
      { headDim: c.head_dim, theta: 1e4, stated: c.rope_local_base_freq },
    );
    return { ...causalOnly(c), hidden_act: c.hidden_activation, layer_types, ...ropes };
  },
  (w, c) =>
    gemmaModel(w, c, {
      scale: c.query_pre_attn_scalar ** -0.5,
      rope: (layer) => (c.layer_types[layer] === 'sliding_attention' ? c.local : c.full),
      window: (layer) => windowOf(c, layer),
      logitCap: c.final_logit_softcapping,
      headNorms: true,
      sandwich: true,
    }),
);
