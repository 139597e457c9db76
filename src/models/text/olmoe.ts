import { unaryInto } from '../../core/ops.ts';
import * as s from '../../core/schema.ts';
import { heads, textArch, textConfig } from '../arch.ts';
import { moe } from '../blocks/moe.ts';
import { rmsNorm } from '../blocks/norm.ts';
import { normedParts } from '../blocks/projections.ts';
import { createRope, wholeRopeSpec } from '../blocks/rope.ts';
import { checkRouting } from '../blocks/router.ts';
import { preNormModel } from './preNorm.ts';

const config = textConfig.extend({
  rms_norm_eps: s.or(s.positive, 1e-5),
  max_position_embeddings: s.or(s.count, 4096),
  attention_bias: s.or(s.boolean, false),
  clip_qkv: s.optional(s.positive),
  num_experts: s.alias(s.or(s.count, 64), 'num_local_experts'),
  num_experts_per_tok: s.or(s.count, 8),
  norm_topk_prob: s.or(s.boolean, false),
});

/** OLMoE: experts on every layer, norms over all queries and all keys of a row, which may be clipped behind them. */
export const olmoe = textArch(
  config,
  (c) => {
    checkRouting({ experts: c.num_experts, topK: c.num_experts_per_tok });
    return { ...c, rope: createRope(wholeRopeSpec(c), heads(c).headDim) };
  },
  (w, c) =>
    preNormModel(w, c, {
      rope: () => c.rope,
      outBias: c.attention_bias,
      qkvBias: c.attention_bias,
      project: (at, spec) => {
        const norm = (name: string, n: number) =>
          rmsNorm(at.at(name), { width: n * spec.headDim, eps: c.rms_norm_eps });
        const parts = normedParts(at, spec, { q: norm('q_norm', spec.heads), k: norm('k_norm', spec.kvHeads) });
        const { clip_qkv: limit } = c;
        return limit === undefined ? parts : (x) => unaryInto('clamp', parts(x), -limit, limit);
      },
      mlp: (l) =>
        moe(l.at('mlp'), {
          hidden: c.hidden_size,
          intermediate: c.intermediate_size,
          experts: c.num_experts,
          topK: c.num_experts_per_tok,
          scores: 'softmax',
          renormalize: c.norm_topk_prob,
          activation: c.hidden_act,
        }),
    }),
);
