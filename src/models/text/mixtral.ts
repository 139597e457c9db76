import * as s from '../../core/schema.ts';
import type { Weights } from '../../core/weights.ts';
import { heads, textArch, textConfig } from '../arch.ts';
import { moe } from '../blocks/moe.ts';
import { layerNorm } from '../blocks/norm.ts';
import { createRope, ropeSpec, wholeRopeSpec } from '../blocks/rope.ts';
import type { Routing } from '../blocks/router.ts';
import { checkRouting } from '../blocks/router.ts';
import { preNormModel } from './preNorm.ts';

const config = textConfig.extend({
  rms_norm_eps: s.or(s.positive, 1e-5),
  num_key_value_heads: s.absent(s.count, 8),
  max_position_embeddings: s.or(s.count, 131072),
  sliding_window: s.optional(s.count),
  num_local_experts: s.alias(s.or(s.count, 8), 'num_experts'),
  num_experts_per_tok: s.or(s.count, 2),
});

type Config = s.Infer<typeof config>;

function experts(l: Weights, c: Config, routing: Pick<Routing, 'scores' | 'jitter'>) {
  return moe(l.at('block_sparse_moe'), {
    ...routing,
    hidden: c.hidden_size,
    intermediate: c.intermediate_size,
    experts: c.num_local_experts,
    topK: c.num_experts_per_tok,
    activation: c.hidden_act,
  });
}

/** Mixtral: Mistral with experts on every layer. */
export const mixtral = textArch(
  config,
  (c) => {
    checkRouting({ experts: c.num_local_experts, topK: c.num_experts_per_tok });
    return { ...c, rope: createRope(wholeRopeSpec(c, 1e6), heads(c).headDim) };
  },
  (w, c) =>
    preNormModel(w, c, {
      rope: () => c.rope,
      window: () => c.sliding_window,
      qkvBias: false,
      outBias: false,
      mlp: (l) => experts(l, c, { scores: 'chosen' }),
    }),
);

const phiConfig = config.extend({
  architectures: s.or(s.array(s.string), []),
  num_local_experts: s.alias(s.or(s.count, 16), 'num_experts'),
  attention_bias: s.or(s.boolean, false),
  lm_head_bias: s.or(s.boolean, false),
  router_jitter_noise: s.or(s.number, 0.01),
  original_max_position_embeddings: s.optional(s.count),
});

/** Phi 3.5 MoE: layer norms, two experts by the sparse mixer, a long rotation with magnitudes of its own. */
export const phiMoe = textArch(
  phiConfig,
  (c) => {
    const { num_experts_per_tok: topK, num_local_experts: all } = c;
    if (topK !== 2 || all < 2) throw s.configError('num_experts_per_tok', '2 of at least 2 experts', topK);
    const spec = ropeSpec(c, 1e6);
    const { short_mscale: short, long_mscale: long } = spec.parameters;
    if (spec.kind === 'default') return { ...c, rope: createRope({ ...spec, partial: 1 }, heads(c).headDim) };
    if (short === undefined || long === undefined) {
      throw s.configError(`${spec.path}.${short === undefined ? 'short' : 'long'}_mscale`, 'a number', undefined);
    }
    // The class of the reference never takes the long factors; the one that published models name does.
    const keepsShort = c.architectures.includes('PhimoeForCausalLM');
    const parameters = keepsShort ? { ...spec.parameters, long_factor: spec.parameters.short_factor } : spec.parameters;
    return { ...c, rope: createRope({ ...spec, parameters, magnitudes: { short, long } }, heads(c).headDim) };
  },
  (w, c) =>
    preNormModel(w, c, {
      rope: () => c.rope,
      window: () => c.sliding_window,
      qkvBias: c.attention_bias,
      outBias: c.attention_bias,
      headBias: c.lm_head_bias,
      norm: (at) => layerNorm(at, { width: c.hidden_size, eps: c.rms_norm_eps }),
      mlp: (l) => experts(l, c, { scores: 'sparsemixer', jitter: c.router_jitter_noise }),
    }),
);
