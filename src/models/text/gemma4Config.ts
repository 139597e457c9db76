/** What configurations of Gemma 4 say, layer by layer. */
import { UnsupportedError } from '../../core/errors.ts';
import * as s from '../../core/schema.ts';
import type { LayerType } from '../arch.ts';
import { activation, layers, layerTypes, textConfig, textFields } from '../arch.ts';
import { layerRopes } from '../blocks/rope.ts';
import { checkRouting } from '../blocks/router.ts';

/** Sizes that may differ from layer to layer. */
const layerSizes = s.object({ head_dim: s.optional(s.count), num_key_value_heads: s.optional(s.count) });
const OVERRIDES: readonly string[] = ['head_dim', 'num_key_value_heads'];

export const gemma4Config = textConfig.extend({
  // Released files leave out what equals these.
  vocab_size: s.or(s.count, 262144),
  hidden_size: s.or(s.count, 2304),
  intermediate_size: s.or(s.count, 9216),
  num_hidden_layers: s.or(textFields.num_hidden_layers, 30),
  num_attention_heads: s.or(s.count, 8),
  num_key_value_heads: s.or(s.count, 4),
  head_dim: s.or(s.count, 256),
  hidden_activation: s.or(activation, 'geluTanh'),
  max_position_embeddings: s.or(s.count, 131072),
  tie_word_embeddings: s.or(s.boolean, true),
  sliding_window: s.or(s.count, 512),
  final_logit_softcapping: s.optional(s.positive),
  use_bidirectional_attention: s.optional(s.oneOf('all', 'vision')),
  /** Of full layers. `per_layer_config` says the same for any layer, by its number. */
  global_head_dim: s.or(s.count, 512),
  num_global_key_value_heads: s.optional(s.count),
  per_layer_config: s.unknown,
  attention_k_eq_v: s.or(s.boolean, false),
  /** Layers at the end that look at the keys and values of earlier ones. */
  num_kv_shared_layers: s.or(s.index, 0),
  use_double_wide_mlp: s.or(s.boolean, false),
  vocab_size_per_layer_input: s.or(s.count, 262144),
  hidden_size_per_layer_input: s.or(s.index, 256),
  enable_moe_block: s.or(s.boolean, false),
  num_experts: s.optional(s.count),
  top_k_experts: s.optional(s.count),
  moe_intermediate_size: s.optional(s.count),
});
type Parsed = s.Infer<typeof gemma4Config>;

export interface LayerPlan {
  readonly full: boolean;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** The layer whose keys and values this one looks at, if not its own. */
  readonly source: number | undefined;
  readonly intermediate: number;
}

export function deriveGemma4(c: Parsed) {
  if (c.use_bidirectional_attention === 'all') {
    throw new UnsupportedError(
      'use_bidirectional_attention: expected a causal model, got one that reads in both directions; such models embed text and do not generate',
      { feature: 'bidirectional attention' },
    );
  }
  if (c.hidden_size_per_layer_input > 0 && c.vocab_size_per_layer_input < c.vocab_size) {
    throw s.configError('vocab_size_per_layer_input', `at least ${c.vocab_size}`, c.vocab_size_per_layer_input);
  }
  const stated = layerTypes(c, (i) => ((i + 1) % 6 === 0 ? 'full_attention' : 'sliding_attention'));
  // The last layer is a full one whatever the file says.
  const types = stated.with(-1, 'full_attention');
  const plans = layers(c.num_hidden_layers, (i) => plan(c, types, i));
  for (const p of plans) checkSource(p, p.source === undefined ? p : (plans[p.source] as LayerPlan));
  const sizeOf = (full: boolean) => plans.find((p) => p.full === full)?.headDim ?? c.head_dim;
  for (const p of plans) {
    if (p.headDim !== sizeOf(p.full)) throw s.configError('per_layer_config', 'one head size a layer type', p.headDim);
  }
  const given = c.rope_parameters ?? {
    full_attention: { rope_type: 'proportional', partial_rotary_factor: 0.25, rope_theta: 1e6 },
  };
  const ropes = layerRopes(
    { ...c, rope_parameters: given },
    { headDim: sizeOf(true), theta: 1e6, stated: undefined },
    { headDim: sizeOf(false), theta: 1e4, stated: undefined },
  );
  return { ...c, layer_types: types, plans, ...ropes, experts: experts(c) };
}
export type Gemma4 = ReturnType<typeof deriveGemma4>;

function plan(c: Parsed, types: readonly LayerType[], layer: number): LayerPlan {
  const full = types[layer] === 'full_attention';
  const own = overrides(c, full, layer);
  const heads = c.num_attention_heads;
  const kvHeads = own.num_key_value_heads ?? c.num_key_value_heads;
  if (heads % kvHeads !== 0) throw s.configError('num_key_value_heads', `a divisor of ${heads}`, kvHeads);
  const first = c.num_hidden_layers - c.num_kv_shared_layers;
  const shared = layer >= first;
  const source = shared ? types.lastIndexOf(types[layer] as LayerType, first - 1) : undefined;
  if (source === -1 || first < 1) {
    throw s.configError(
      'num_kv_shared_layers',
      `a ${types[layer]} layer before the shared ones`,
      c.num_kv_shared_layers,
    );
  }
  return {
    full,
    heads,
    kvHeads,
    headDim: own.head_dim ?? c.head_dim,
    source,
    intermediate: c.intermediate_size * (shared && c.use_double_wide_mlp ? 2 : 1),
  };
}

/** What the file says of one layer. */
function overrides(c: Parsed, full: boolean, layer: number): s.Infer<typeof layerSizes> {
  if (c.per_layer_config == null) {
    const kvHeads = c.attention_k_eq_v ? c.num_global_key_value_heads : undefined;
    return full ? { head_dim: c.global_head_dim, num_key_value_heads: kvHeads } : layerSizes.parse({}, '');
  }
  if (!s.isRecord(c.per_layer_config)) throw s.configError('per_layer_config', 'an object', c.per_layer_config);
  const path = `per_layer_config.${layer}`;
  const own = c.per_layer_config[layer] ?? {};
  const other = s.isRecord(own) && Object.keys(own).find((key) => !OVERRIDES.includes(key));
  if (other) throw new UnsupportedError(`${path}.${other}: expected ${OVERRIDES.join(' or ')}`, { feature: other });
  return layerSizes.parse(own, path);
}

function checkSource(own: LayerPlan, source: LayerPlan): void {
  if (own.kvHeads === source.kvHeads && own.headDim === source.headDim) return;
  throw s.configError(
    'num_kv_shared_layers',
    `${source.kvHeads} heads of ${source.headDim}, as the layer has whose keys are shared`,
    `${own.kvHeads} of ${own.headDim}`,
  );
}

function experts(c: Parsed) {
  if (!c.enable_moe_block) return undefined;
  const need = (key: 'num_experts' | 'top_k_experts' | 'moe_intermediate_size'): number => {
    const value = c[key];
    if (value === undefined) throw s.configError(key, 'a count, as enable_moe_block asks for one', value);
    return value;
  };
  const spec = {
    experts: need('num_experts'),
    topK: need('top_k_experts'),
    intermediate: need('moe_intermediate_size'),
  };
  checkRouting(spec, 'top_k_experts');
  return spec;
}
