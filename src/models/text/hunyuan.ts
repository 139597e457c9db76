import * as s from '../../core/schema.ts';
import { heads, textArch, textConfig } from '../arch.ts';
import { moe } from '../blocks/moe.ts';
import type { RopeConfig } from '../blocks/rope.ts';
import { createRope, wholeRopeSpec } from '../blocks/rope.ts';
import { checkRouting } from '../blocks/router.ts';
import type { Variation } from './preNorm.ts';
import { preNormModel } from './preNorm.ts';

const config = textConfig.extend({
  rms_norm_eps: s.or(s.positive, 1e-5),
  head_dim: s.alias(s.optional(s.count), 'attention_head_dim'),
  attention_bias: s.or(s.boolean, false),
  use_qk_norm: s.or(s.boolean, true),
  use_cla: s.or(s.boolean, false),
});

type Config = s.Infer<typeof config>;

/** A dynamic rotation with `alpha` is a fixed one of a larger base. */
function rotation(c: RopeConfig, headDim: number) {
  const spec = wholeRopeSpec(c);
  const { alpha } = spec.parameters;
  if (spec.kind !== 'dynamic' || !alpha) return createRope(spec, headDim);
  return createRope(
    { ...spec, kind: 'default', partial: 1, theta: spec.theta * alpha ** (headDim / (headDim - 2)) },
    headDim,
  );
}

function derive<C extends Config>(c: C) {
  if (c.use_cla) throw s.configError('use_cla', 'false: keys and values of each layer are its own', true);
  return { ...c, rope: rotation(c, heads(c).headDim) };
}

function variation(c: ReturnType<typeof derive<Config>>): Variation {
  return {
    rope: () => c.rope,
    headNorms: c.use_qk_norm && { q: 'query_layernorm', k: 'key_layernorm', afterRope: true },
    qkvBias: c.attention_bias,
    outBias: c.attention_bias,
    mlpBias: false,
  };
}

/** HunYuan 1 dense: norms of heads behind the rotation. */
export const hunyuanDense = textArch(config, derive, (w, c) => preNormModel(w, c, variation(c)));

/** One number for all layers, or one for each. */
const perLayer: s.Schema<number | readonly number[]> = {
  parse: (value, path) => (Array.isArray(value) ? s.array(s.index).parse(value, path) : s.index.parse(value, path)),
};

const moeConfig = config.extend({
  num_experts: s.alias(s.or(perLayer, 1), 'num_local_experts'),
  moe_topk: s.alias(s.or(perLayer, 1), 'num_experts_per_tok'),
  moe_intermediate_size: s.optional(perLayer),
  num_shared_expert: s.or(perLayer, 1),
  use_mixed_mlp_moe: s.or(s.boolean, true),
  norm_topk_prob: s.or(s.boolean, true),
  moe_layer_num_skipped: s.or(s.index, 0),
});

/** HunYuan 1 with routed experts beside a shared MLP on every layer. */
export const hunyuanMoe = textArch(
  moeConfig,
  (c) => {
    const of = (key: string, value: number | readonly number[], layer: number) => {
      const n = typeof value === 'number' ? value : value[layer];
      if (n === undefined) throw s.configError(key, `${c.num_hidden_layers} entries`, value);
      return n;
    };
    const layers = Array.from({ length: c.num_hidden_layers }, (_, layer) => {
      const experts = of('num_experts', c.num_experts, layer);
      const topK = of('moe_topk', c.moe_topk, layer);
      if (experts < 1 || topK < 1) throw s.configError('moe_topk', 'at least one of at least one expert', topK);
      checkRouting({ experts, topK }, 'moe_topk');
      const intermediate = of('moe_intermediate_size', c.moe_intermediate_size ?? c.intermediate_size, layer);
      const shared = c.use_mixed_mlp_moe ? of('num_shared_expert', c.num_shared_expert, layer) : 0;
      return { experts, topK, intermediate, shared: shared * c.intermediate_size };
    });
    return { ...derive(c), layers };
  },
  (w, c) =>
    preNormModel(w, c, {
      ...variation(c),
      mlp: (l, layer) => {
        if (layer < c.moe_layer_num_skipped) return undefined;
        const { experts, topK, intermediate, shared } = c.layers[layer]!;
        return moe(l.at('mlp'), {
          gate: 'gate.wg',
          hidden: c.hidden_size,
          intermediate,
          experts,
          topK,
          scores: 'softmax',
          renormalize: c.norm_topk_prob,
          activation: c.hidden_act,
          shared: shared ? { name: 'shared_mlp', intermediate: shared } : undefined,
        });
      },
    }),
);
