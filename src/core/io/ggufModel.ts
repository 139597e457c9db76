/** A GGUF file as a Hugging Face model: its metadata as config.json, its tensors under the names and in the order of there. */
import { FormatError, UnsupportedError } from '../errors.ts';
import type { SourceTensor, WeightSource } from '../weights.ts';
import type { Checkpoint } from './checkpoint.ts';
import { GgufKeys } from './ggufKeys.ts';
import type { GgufArch } from './ggufNames.ts';
import { GGUF_ARCHES, hfName } from './ggufNames.ts';
import { ROPE_TENSORS, ropeParameters } from './ggufRope.ts';
import { lessOne, logOfDecay, unpairRows } from './ggufRows.ts';
import { sourceOf, sourceTensors } from './weightSource.ts';

export interface GgufModel {
  /** What config.json of the same model says. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly source: WeightSource;
}

/** The deepest published models have 126. */
const MAX_LAYERS = 4096;

/** Keys that change the result, and the values at which they do not. */
const RESULT_KEYS: Readonly<Record<string, readonly unknown[]>> = {
  'attention.scale': [0],
  'attention.clamp_kqv': [0],
  'attention.max_alibi_bias': [0],
  'attention.temperature_scale': [0],
  'attention.shared_kv_layers': [0],
  embedding_length_per_layer_input: [0],
  'attention.causal': [true],
  attn_logit_softcapping: [0],
  final_logit_softcapping: [0],
  logit_scale: [0, 1],
  residual_scale: [0, 1],
  embedding_scale: [0, 1],
  expert_count: [0],
  expert_weights_scale: [0, 1],
  expert_gating_func: [0, 1],
  expert_group_count: [0, 1],
  expert_group_used_count: [0, 1],
};

/**
 * Translates an opened GGUF checkpoint. Reads the small tensors of rotary factors, nothing else.
 * @throws UnsupportedError for an architecture without a mapping, or a key that the mapped class cannot express.
 */
export async function ggufModel(gguf: Checkpoint): Promise<GgufModel> {
  const name = gguf.metadata.get('general.architecture');
  if (typeof name !== 'string') throw new FormatError('general.architecture: expected a string; is this a model file?');
  const family = Object.hasOwn(GGUF_ARCHES, name) ? GGUF_ARCHES[name] : undefined;
  if (family === undefined) {
    const known = Object.keys(GGUF_ARCHES).join(', ');
    throw new UnsupportedError(`GGUF architecture: expected one of ${known}; got "${name}"`, { feature: name });
  }
  const keys = new GgufKeys(gguf.metadata, name);
  const arch: GgufArch = (keys.optionalCount('expert_count') && family.withExperts) || family;
  const read = new Set(arch.reads);
  for (const [key, neutral] of Object.entries(RESULT_KEYS)) {
    const value = keys.get(key);
    if (value === undefined || neutral.includes(value) || read.has(key)) continue;
    throw new UnsupportedError(`${name}.${key}: expected ${neutral[0]}, as ${arch.hf} has it; got ${value}`, {
      feature: key,
    });
  }
  const tensors = sourceTensors(gguf);
  const config = await configOf(keys, arch, tensors);
  return { config, source: sourceOf(translated(arch, config, tensors)) };
}

async function configOf(keys: GgufKeys, arch: GgufArch, tensors: ReadonlyMap<string, SourceTensor>) {
  const table = tensors.get('token_embd.weight');
  if (!table) throw new FormatError('token_embd.weight: expected this tensor, got none; the file is incomplete');
  const hidden = keys.count('embedding_length');
  // Blocks that draft tokens count as well.
  const drafts = keys.optionalCount('nextn_predict_layers') ?? 0;
  const layers = keys.count('block_count', MAX_LAYERS) - drafts;
  if (layers < 1) throw new FormatError(`block_count: expected more than the blocks that draft tokens, got ${layers}`);
  const heads = keys.count('attention.head_count');
  const headDim = arch.latent
    ? keys.count('rope.dimension_count')
    : (keys.optionalCount('attention.key_length') ?? Math.floor(hidden / heads));
  const valueDim = keys.optionalCount('attention.value_length') ?? headDim;
  if (!arch.latent && valueDim !== headDim) {
    throw new UnsupportedError(`attention.value_length: expected the key length ${headDim}, got ${valueDim}`, {
      feature: 'value heads of another size',
    });
  }
  const window = keys.optionalCount('attention.sliding_window') || undefined;
  const rope = await ropeParameters(keys, arch, headDim, tensors);
  const types = layerTypes(keys, layers);
  const size = (key: string) => (arch.layered ? (keys.perLayer(key, layers)[0] as number) : keys.count(key));
  const epsilon = arch.epsilon
    ? { [arch.epsilon]: keys.number('attention.layer_norm_epsilon') }
    : { rms_norm_eps: keys.number('attention.layer_norm_rms_epsilon') };
  return {
    architectures: [(window && arch.windowed) || arch.hf],
    model_type: arch.modelType,
    vocab_size: table.shape[0],
    hidden_size: hidden,
    intermediate_size: arch.mixedLayers
      ? keys.optionalCount('feed_forward_length') || undefined
      : size('feed_forward_length'),
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: arch.latent || !keys.has(KEY_HEADS) ? heads : (keyHeads(keys, arch) ?? size(KEY_HEADS)),
    head_dim: headDim,
    max_position_embeddings: keys.count('context_length'),
    original_max_position_embeddings: keys.optionalCount('rope.scaling.original_context_length'),
    ...epsilon,
    tie_word_embeddings: !tensors.has('output.weight'),
    sliding_window: window,
    layer_types: types,
    query_pre_attn_scalar: arch.wideScaleLayers === layers ? Math.floor(hidden / heads) : headDim,
    attn_logit_softcapping: keys.optionalNumber('attn_logit_softcapping'),
    final_logit_softcapping: keys.optionalNumber('final_logit_softcapping'),
    rope_parameters: rope,
    num_nextn_predict_layers: arch.drafts ? drafts : 0,
    ...arch.config?.({ keys, tensors, layers, rope, headDim, window, types }),
    bos_token_id: keys.tokenId('bos'),
    eos_token_id: keys.tokenId('eos'),
  };
}

const KEY_HEADS = 'attention.head_count_kv';

/** Key heads of the layers that have attention, where some have none. */
function keyHeads(keys: GgufKeys, arch: GgufArch): number | undefined {
  const some = arch.mixedLayers ? keys.list(KEY_HEADS)?.filter((n) => n !== 0) : undefined;
  if (some?.some((n) => n !== some[0])) {
    throw new UnsupportedError(`${KEY_HEADS}: expected one number where there is attention, got different ones`, {
      feature: `${KEY_HEADS} per layer`,
    });
  }
  return some?.[0] as number | undefined;
}

/** Which layers are windowed, where the file says so: every nth is not, or one flag a layer. */
function layerTypes(keys: GgufKeys, layers: number): readonly string[] | undefined {
  const key = 'attention.sliding_window_pattern';
  const flags = keys.list(key);
  if (flags !== undefined && flags.length < layers) {
    throw new FormatError(`${key}: expected ${layers} entries, got ${flags.length}`);
  }
  const period = flags === undefined ? keys.optionalCount(key) : undefined;
  if (flags === undefined && period === undefined) return undefined;
  const windowed = (i: number) => (flags ? flags[i] === true : period === 0 || (i + 1) % (period as number) !== 0);
  return Array.from({ length: layers }, (_, i) => (windowed(i) ? 'sliding_attention' : 'full_attention'));
}

type Config = Awaited<ReturnType<typeof configOf>>;

function translated(arch: GgufArch, c: Config, tensors: ReadonlyMap<string, SourceTensor>): Map<string, SourceTensor> {
  const out = new Map<string, SourceTensor>();
  for (const [ggufName, stored] of tensors) {
    if (ROPE_TENSORS.includes(ggufName) || blockOf(ggufName) >= c.num_hidden_layers + c.num_nextn_predict_layers)
      continue;
    const name = hfName(arch, ggufName);
    // A name without translation stays, so that the load reports it.
    let t: SourceTensor = name === undefined ? stored : { ...stored, name };
    if (arch.pairedRows && /\.attn_q\./.test(ggufName)) t = unpairRows(t, c.num_attention_heads, c.head_dim);
    if (arch.pairedRows && /\.attn_k\./.test(ggufName)) t = unpairRows(t, c.num_key_value_heads, c.head_dim);
    if (arch.normsAddOne && /norm\.weight$/.test(ggufName) && !/ssm_norm/.test(ggufName)) t = lessOne(t);
    if (arch.mixedLayers && /\.ssm_a$/.test(ggufName)) t = logOfDecay(t);
    out.set(t.name, t);
  }
  return out;
}

/** Number of the block a tensor belongs to, -1 for the others. */
function blockOf(name: string): number {
  const match = /^blk\.(\d+)\./.exec(name);
  return match ? Number(match[1]) : -1;
}
