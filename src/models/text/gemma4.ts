import type { Layer, Mixer } from '../../core/model.ts';
import { addInto, mulInto, norm as normOf } from '../../core/ops.ts';
import type { Weights } from '../../core/weights.ts';
import { layers, tableAndHead, textArch, trunk, windowOf } from '../arch.ts';
import type { AttentionSpec } from '../blocks/attention.ts';
import { attention, queryAttention } from '../blocks/attention.ts';
import { decoder } from '../blocks/decoder.ts';
import type { ExpertsSpec } from '../blocks/experts.ts';
import { routedExperts } from '../blocks/experts.ts';
import { sandwich } from '../blocks/layer.ts';
import { projection } from '../blocks/linear.ts';
import { gatedMlp } from '../blocks/mlp.ts';
import { rmsNorm } from '../blocks/norm.ts';
import { normedParts } from '../blocks/projections.ts';
import { router } from '../blocks/router.ts';
import { sideFeed, sideInputs } from '../blocks/sideInput.ts';
import type { Gemma4 } from './gemma4Config.ts';
import { deriveGemma4, gemma4Config } from './gemma4Config.ts';

/** Gemma 4 text: Gemma 3 with inputs of each layer's own, keys shared between layers, experts beside the MLP. */
export const gemma4 = textArch(gemma4Config, deriveGemma4, (w, c) => {
  const m = trunk(w);
  const hidden = c.hidden_size;
  const width = c.hidden_size_per_layer_input;
  const caches: (number | undefined)[] = [];
  const sideNorm = () => rmsNorm(m.at('per_layer_projection_norm'), { width, eps: c.rms_norm_eps });
  const side = { vocab: c.vocab_size_per_layer_input, hidden, layers: c.num_hidden_layers, width };
  // Files of models with shared keys and values store those of every layer all the same.
  const sharing = c.plans.flatMap((p, i) => (p.source === undefined ? [] : i)).join('|');
  if (sharing) w.ignore(new RegExp(`(^|\\.)layers\\.(${sharing})\\.self_attn\\.(k_proj|v_proj|k_norm|v_norm)\\.`));
  return decoder(w, {
    ...tableAndHead(w, m, c),
    maxPositions: c.max_position_embeddings,
    norm: rmsNorm(m.at('norm'), { width: hidden, eps: c.rms_norm_eps }),
    embedScale: Math.fround(Math.sqrt(hidden)),
    side: width > 0 ? sideInputs(m, { ...side, norm: sideNorm() }) : undefined,
    logitCap: c.final_logit_softcapping,
    layers: layers(c.num_hidden_layers, (i) => layerOf(m.at('layers', i), c, i, caches)),
  });
});

function layerOf(l: Weights, c: Gemma4, index: number, caches: (number | undefined)[]): Layer {
  const hidden = c.hidden_size;
  const width = c.hidden_size_per_layer_input;
  const norm = (name: string) => rmsNorm(l.at(name), { width: hidden, eps: c.rms_norm_eps });
  const mlp = gatedMlp(l.at('mlp'), {
    hidden,
    intermediate: (c.plans[index] as Gemma4['plans'][number]).intermediate,
    activation: c.hidden_activation,
    bias: false,
  });
  const mlpNorm = norm('pre_feedforward_layernorm');
  const mlpPost = norm('post_feedforward_layernorm');
  const { mix, feed } = sandwich({
    attnNorm: norm('input_layernorm'),
    attn: attentionOf(l.at('self_attn'), c, index, caches),
    attnPost: norm('post_attention_layernorm'),
    mlpNorm,
    mlp,
    mlpPost,
  });
  const experts = c.experts && expertsOf(l, c, c.experts);
  const dense = experts && norm('post_feedforward_layernorm_1');
  const extra =
    width > 0
      ? sideFeed(l, { hidden, width, norm: norm('post_per_layer_input_norm') }, index, c.hidden_activation)
      : undefined;
  const scalar = l.tensor('layer_scalar', [1]);
  return {
    mix,
    feed(x, s, side) {
      if (!experts) feed(x, s);
      else addInto(x, normOf(addInto(normOf(mlp(normOf(x, mlpNorm), s), dense!), experts(x, s)), mlpPost));
      if (extra) addInto(x, extra(x, side!));
      mulInto(x, scalar);
    },
  };
}

/** Experts beside the dense MLP; they and their router each norm the stream on their own. */
function expertsOf(l: Weights, c: Gemma4, e: Pick<ExpertsSpec, 'experts' | 'topK' | 'intermediate'>): Mixer {
  const hidden = c.hidden_size;
  const eps = c.rms_norm_eps;
  const r = l.at('router');
  const pre = rmsNorm(l.at('pre_feedforward_layernorm_2'), { width: hidden, eps });
  const post = rmsNorm(l.at('post_feedforward_layernorm_2'), { width: hidden, eps });
  const weight = r.tensor('scale', [hidden], (values) => {
    for (let i = 0; i < hidden; i++) values[i]! *= hidden ** -0.5;
  });
  const route = router(projection(r, [{ name: 'proj', rows: e.experts }], hidden, false), {
    ...e,
    scores: 'softmax',
    renormalize: true,
    expertScale: r.tensor('per_expert_scale', [e.experts]),
  });
  const run = routedExperts(l.at('experts'), { ...e, hidden, glu: { activation: c.hidden_activation }, bias: false });
  return (x) => normOf(run(normOf(x, pre), route(normOf(x, { kind: 'rms', eps, weight }))), post);
}

function attentionOf(a: Weights, c: Gemma4, index: number, caches: (number | undefined)[]): Mixer {
  const { full, source, heads, kvHeads, headDim } = c.plans[index] as Gemma4['plans'][number];
  const eps = c.rms_norm_eps;
  const spec: AttentionSpec = {
    hidden: c.hidden_size,
    heads,
    kvHeads,
    headDim,
    scale: 1,
    rope: full ? c.full : c.local,
    window: windowOf(c, index),
    qNorm: rmsNorm(a.at('q_norm'), { width: headDim, eps }),
    bias: c.attention_bias,
    outBias: c.attention_bias,
  };
  if (source !== undefined) return queryAttention(a, { ...spec, cache: caches[source]! });
  const cache = a.declareCache({ kvHeads, keyDim: headDim, valueDim: headDim, dtype: 'f32' });
  caches[index] = cache;
  const v = { kind: 'rms', eps, groups: kvHeads } as const;
  const project = normedParts(a, spec, { v, valuesAreKeys: full && c.attention_k_eq_v });
  const kNorm = rmsNorm(a.at('k_norm'), { width: headDim, eps });
  return attention(a, { ...spec, cache, kNorm, project });
}
