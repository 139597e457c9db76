import type { Mixer } from '../../core/model.ts';
import * as s from '../../core/schema.ts';
import { heads, hybridTypes, layers, tableAndHead, textArch, textConfig, trunk } from '../arch.ts';
import { attention } from '../blocks/attention.ts';
import { decoder } from '../blocks/decoder.ts';
import { preNorm } from '../blocks/layer.ts';
import { mamba } from '../blocks/mamba.ts';
import { gatedMlp } from '../blocks/mlp.ts';
import { moe } from '../blocks/moe.ts';
import { rmsNorm } from '../blocks/norm.ts';
import { createRope, wholeRopeSpec } from '../blocks/rope.ts';
import { checkRouting } from '../blocks/router.ts';
import { mambaFields, mambaSizes } from './mambaConfig.ts';

const layerType = s.named({
  mamba: 'mamba',
  linear_attention: 'mamba',
  attention: 'attention',
  full_attention: 'attention',
} as const);

const config = textConfig.extend({
  ...mambaFields,
  intermediate_size: s.or(s.count, 11008),
  attention_bias: s.or(s.boolean, false),
  embedding_multiplier: s.or(s.number, 1),
  logits_scaling: s.or(s.positive, 1),
  residual_multiplier: s.or(s.number, 1),
  attention_multiplier: s.or(s.number, 1),
  num_local_experts: s.or(s.index, 8),
  num_experts_per_tok: s.or(s.index, 2),
  shared_intermediate_size: s.or(s.count, 1024),
  position_embedding_type: s.or(s.oneOf('rope', 'nope'), 'nope'),
  layer_types: s.alias(s.optional(s.array(layerType)), 'layers_block_type'),
});

/** Granite 4 hybrid: Mamba 2 and attention layers with four multipliers, a shared MLP and, often, experts beside it. */
export const graniteHybrid = textArch(
  config,
  (c) => {
    const routed = {
      ...{ hidden: c.hidden_size, intermediate: c.intermediate_size, activation: c.hidden_act },
      ...{ experts: c.num_local_experts, topK: c.num_experts_per_tok, scores: 'chosen' as const },
    };
    if (c.num_local_experts > 0) checkRouting(routed);
    return {
      ...c,
      routed,
      sizes: mambaSizes(c),
      types: hybridTypes(c.layer_types, c.num_hidden_layers, () => 'mamba' as const),
      rope: c.position_embedding_type === 'rope' ? createRope(wholeRopeSpec(c), heads(c).headDim) : undefined,
    };
  },
  (w, c) => {
    const m = trunk(w);
    const h = heads(c);
    const { hidden_size: hidden, hidden_act: activation, rms_norm_eps: eps } = c;
    return decoder(w, {
      ...tableAndHead(w, m, c),
      maxPositions: c.max_position_embeddings,
      norm: rmsNorm(m.at('norm'), { width: hidden, eps }),
      embedScale: c.embedding_multiplier,
      logitScale: 1 / c.logits_scaling,
      layers: layers(c.num_hidden_layers, (layer) => {
        const l = m.at('layers', layer);
        const shared = gatedMlp(l.at('shared_mlp'), {
          ...{ hidden, intermediate: c.shared_intermediate_size, activation, bias: false },
          ...{ fused: 'input_linear', names: ['gate_proj', 'up_proj', 'output_linear'] },
        });
        const sparse = l.at('block_sparse_moe');
        const routed = c.num_local_experts > 0 ? moe(sparse, { ...c.routed, gate: 'router.layer', at: '' }) : undefined;
        const both: Mixer = (x, step, residual) => shared(x, step, routed!(x, step, residual));
        return preNorm({
          residualScale: c.residual_multiplier,
          attnNorm: rmsNorm(l.at('input_layernorm'), { width: hidden, eps }),
          attn:
            c.types[layer] === 'mamba'
              ? mamba(l.at('mamba'), { ...c.sizes, hidden, activation, eps, normGroups: c.sizes.groups })
              : attention(l.at('self_attn'), {
                  ...{ ...h, hidden, scale: c.attention_multiplier, rope: c.rope },
                  ...{ bias: c.attention_bias, outBias: c.attention_bias },
                }),
          mlpNorm: rmsNorm(l.at('post_attention_layernorm'), { width: hidden, eps }),
          mlp: routed ? both : shared,
        });
      }),
    });
  },
);
