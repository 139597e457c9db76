import type { Layer, Mixer } from '../../core/model.ts';
import { addInto, linear, mulInto, norm, scaleInto, unaryInto } from '../../core/ops.ts';
import * as s from '../../core/schema.ts';
import type { Weights } from '../../core/weights.ts';
import { heads, layers, tableAndHead, textArch, textConfig, trunk } from '../arch.ts';
import { attention } from '../blocks/attention.ts';
import { decoder } from '../blocks/decoder.ts';
import { projection } from '../blocks/linear.ts';
import { mamba, scaled } from '../blocks/mamba.ts';
import { rmsNorm } from '../blocks/norm.ts';
import { createRope, wholeRopeSpec } from '../blocks/rope.ts';
import { mambaFields, mambaSizes } from './mambaConfig.ts';

const config = textConfig.extend({
  ...mambaFields,
  intermediate_size: s.or(s.count, 14336),
  num_key_value_heads: s.absent(s.count, 8),
  rms_norm_eps: s.or(s.positive, 1e-5),
  max_position_embeddings: s.or(s.count, 8192),
  attention_bias: s.or(s.boolean, false),
  mlp_bias: s.or(s.boolean, false),
  projectors_bias: s.or(s.boolean, false),
  mamba_d_ssm: s.absent(s.count, 1024),
  mamba_rms_norm: s.or(s.boolean, false),
  mamba_norm_before_gate: s.or(s.boolean, true),
  lm_head_multiplier: s.or(s.number, 1),
  embedding_multiplier: s.or(s.number, 1),
  key_multiplier: s.or(s.number, 1),
  attention_in_multiplier: s.or(s.number, 1),
  attention_out_multiplier: s.or(s.number, 1),
  ssm_in_multiplier: s.or(s.number, 1),
  ssm_out_multiplier: s.or(s.number, 1),
  mlp_multipliers: s.or(s.array(s.number), [1, 1]),
  ssm_multipliers: s.or(s.array(s.number), [1, 1, 1, 1, 1]),
});
type Config = s.Infer<typeof config>;

function derive(c: Config) {
  const [gate, value, key, query, step] = c.ssm_multipliers;
  const [mlpGate, mlpOut] = c.mlp_multipliers;
  if (gate === undefined || value === undefined || key === undefined || query === undefined || step === undefined) {
    throw s.configError('ssm_multipliers', '5 numbers', c.ssm_multipliers);
  }
  if (mlpGate === undefined || mlpOut === undefined)
    throw s.configError('mlp_multipliers', '2 numbers', c.mlp_multipliers);
  return {
    ...c,
    sizes: mambaSizes(c, c.mamba_d_ssm),
    scales: { gate, value, key, query, step, input: c.ssm_in_multiplier, output: c.ssm_out_multiplier },
    mlp: { gate: mlpGate, out: mlpOut },
    rope: createRope(wholeRopeSpec(c), heads(c).headDim),
  };
}
type Derived = ReturnType<typeof derive>;

/** A gated MLP whose gate and result are scaled. */
function scaledMlp(w: Weights, c: Derived): Mixer {
  const { hidden_size: hidden, intermediate_size: inner, hidden_act: activation, mlp_bias: bias } = c;
  const gate = projection(w, [{ name: 'gate_proj', rows: inner }], hidden, bias);
  const up = projection(w, [{ name: 'up_proj', rows: inner }], hidden, bias);
  const down = projection(w, [{ name: 'down_proj', rows: hidden }], inner, bias);
  return (x, _s, residual) => {
    const y = unaryInto(activation, scaleInto(linear(x, gate.weight, gate.plain), c.mlp.gate));
    const z = scaleInto(linear(mulInto(y, linear(x, up.weight, up.plain)), down.weight, down.plain), c.mlp.out);
    return residual ? addInto(residual, z) : z;
  };
}

/** Attention and Mamba 2 side by side on one norm, then the MLP. */
function layerOf(l: Weights, c: Derived): Layer {
  const h = heads(c);
  const { hidden_size: hidden, hidden_act: activation, rms_norm_eps: eps } = c;
  const before = rmsNorm(l.at('input_layernorm'), { width: hidden, eps });
  const between = rmsNorm(l.at('pre_ff_layernorm'), { width: hidden, eps });
  const recur = mamba(l.at('mamba'), {
    ...{ ...c.sizes, hidden, activation, eps, scales: c.scales, outBias: c.projectors_bias },
    normGroups: c.mamba_rms_norm ? c.sizes.groups : undefined,
    normFirst: c.mamba_norm_before_gate,
  });
  const attend = attention(l.at('self_attn'), {
    // Keys are scaled, or, which is the same, their products with queries.
    ...{ ...h, hidden, scale: h.headDim ** -0.5 * c.key_multiplier, rope: c.rope },
    ...{ bias: c.attention_bias, outBias: c.attention_bias },
  });
  const feed = scaledMlp(l.at('feed_forward'), c);
  return {
    mix: (x, step) => {
      const y = norm(x, before);
      const seen = attend(scaled(y, c.attention_in_multiplier), step);
      addInto(x, addInto(recur(y, step), scaleInto(seen, c.attention_out_multiplier)));
    },
    feed: (x, step) => {
      feed(norm(x, between), step, x);
    },
  };
}

/** Falcon-H1: every layer has attention and Mamba 2 in parallel, with a factor for each part. */
export const falconH1 = textArch(config, derive, (w, c) => {
  const m = trunk(w);
  return decoder(w, {
    ...tableAndHead(w, m, c),
    maxPositions: c.max_position_embeddings,
    norm: rmsNorm(m.at('final_layernorm'), { width: c.hidden_size, eps: c.rms_norm_eps }),
    embedScale: c.embedding_multiplier,
    logitScale: c.lm_head_multiplier,
    layers: layers(c.num_hidden_layers, (layer) => layerOf(m.at('layers', layer), c)),
  });
});
