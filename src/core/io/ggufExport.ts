/** A checkpoint in Hugging Face layout in terms of GGUF: names, row orders and metadata. */
import { UnsupportedError } from '../errors.ts';
import { isRecord } from '../schema.ts';
import type { Codec, SourceTensor, WeightSource } from '../weights.ts';
import { EXPORT_KEYS, type ExportFacts, type GgufKeyValue, type GgufKeyValues } from './ggufExportKeys.ts';
import { ropeKeys } from './ggufExportRope.ts';
import { floats, floatTensor, ggufLayout, inRows, type LayoutSizes, pairRows } from './ggufLayout.ts';
import { type GgufArch, ggufNames } from './ggufNames.ts';

type Config = Readonly<Record<string, unknown>>;

export interface GgufExport {
  /** With the prefix of the architecture; without the tokenizer. */
  readonly keys: ReadonlyMap<string, GgufKeyValue>;
  /** Under their GGUF names; norms, biases and small matrices that decide as F32. */
  readonly tensors: readonly { readonly hf: string; readonly tensor: SourceTensor }[];
}

/** What a model is called in such files. */
export interface GgufFamily {
  /** `general.architecture`. */
  readonly name: string;
  readonly arch: GgufArch;
}

/** Tensors that no reader needs: rotary tables, causal masks, layers that draft tokens, encoders of other inputs. */
const LEFT_OUT =
  /(^|\.)rotary_emb\.inv_freq$|\.attn\.(masked_)?bias$|^mtp\.|^(model\.)?(visual|vision_tower|audio_tower|multi_modal_projector)\./;

/** Files of these hold weights multiplied by factors of the configuration. */
const FOLDED: readonly string[] = ['falcon-h1'];

/** Matrices that are written as floats whatever the others become. */
const FLOATS =
  /\.bias$|(norm|sinks|ffn_gate_inp|ffn_gate_inp_shexp|conv1d|shortconv\.conv|position_embd)\.weight$|ssm_[ad]$/;

/**
 * Translates names, orders and the configuration. `parsed` is the configuration as the model is built from it.
 * @throws UnsupportedError for rotations and tensors without a place in such files.
 */
export function exportGguf(
  source: WeightSource,
  { name, arch }: GgufFamily,
  raw: unknown,
  parsed: Config,
  codec: Codec,
): GgufExport {
  if (FOLDED.includes(name)) {
    throw new UnsupportedError(`architecture: expected one whose weights are written as they are, got ${name}`, {
      feature: `GGUF of ${name}`,
    });
  }
  const config = textConfig(raw);
  const f = factsOf(parsed);
  const sizes = sizesOf(name, arch, f, parsed);
  const prefix = prefixOf(source);
  const wanted = [...source.names()].filter((hf) => !LEFT_OUT.test(hf) && !isDraft(hf, f.layers));
  const names = ggufNames(arch, f.layers);
  const hasExperts = wanted.some((hf) => /experts|block_sparse_moe/.test(hf));
  const tensors: { hf: string; tensor: SourceTensor }[] = [];
  for (const [stored, t] of ggufLayout(source, wanted, sizes, codec)) {
    const hf = prefix(stored);
    const places = names.get(hf) ?? [];
    // Shared experts are the only MLP of files without routed ones.
    const place = (hasExperts && places.find((n) => n.includes('_shexp'))) || places[0];
    // Readers of latent attention know no biases of its MLPs.
    if (place === undefined || (arch.latent && /ffn_.*\.bias$/.test(place))) {
      throw new UnsupportedError(`tensor "${stored}": expected a name with a place in GGUF files of ${name}`, {
        feature: `${name} in GGUF files`,
      });
    }
    tensors.push({ hf, tensor: { ...changed(t, place, arch, f, codec), name: place } });
  }
  const rope = ropeKeys(config, arch, {
    ...{ headDim: sizes.headDim, rotated: number(parsed, 'qk_rope_head_dim') },
    ...{ table: parsed['rope'] ?? parsed['full'], localTable: parsed['local'] },
  });
  rope.tensors.forEach(([at, values]) => {
    tensors.push({ hf: at, tensor: floatTensor(at, values, tensors.length) });
  });
  const own = { ...commonKeys(parsed, arch, f), ...EXPORT_KEYS[name]?.(f), ...rope.keys };
  return { keys: keysOf(name, own), tensors };
}

function textConfig(raw: unknown): Config {
  if (!isRecord(raw)) return {};
  return isRecord(raw['text_config']) ? { ...raw['text_config'], architectures: raw['architectures'] } : raw;
}

const number = (c: Config, key: string): number | undefined => (typeof c[key] === 'number' ? c[key] : undefined);

function need(c: Config, key: string): number {
  const value = c[key];
  if (Number.isSafeInteger(value) && (value as number) > 0 && (value as number) < 2 ** 31) return value as number;
  throw new UnsupportedError(`config.json: ${key}: expected a positive whole number, got ${JSON.stringify(value)}`, {
    feature: key,
  });
}

function factsOf(c: Config): ExportFacts {
  const hidden = need(c, 'hidden_size');
  const heads = need(c, 'num_attention_heads');
  return {
    ...{ c, hidden, heads, layers: need(c, 'num_hidden_layers') },
    kvHeads: number(c, 'num_key_value_heads') ?? heads,
    headDim: number(c, 'head_dim') ?? Math.floor(hidden / heads),
  };
}

function sizesOf(name: string, arch: GgufArch, f: ExportFacts, c: Config): LayoutSizes {
  const [rank, nope, value] = ['kv_lora_rank', 'qk_nope_head_dim', 'v_head_dim'].map((key) => number(c, key) ?? 0);
  const full = name === 'gemma4' ? (c['plans'] as { headDim: number; full: boolean }[]).find((p) => p.full) : undefined;
  return {
    heads: f.heads,
    headDim: full?.headDim ?? f.headDim,
    latent: arch.latent ? { rank: rank!, nope: nope!, value: value! } : undefined,
    turnedExperts: name === 'gpt-oss',
    turns: /^qwen35/.test(name)
      ? {
          keyHeads: need(c, 'linear_num_key_heads'),
          valueHeads: need(c, 'linear_num_value_heads'),
          keyDim: need(c, 'linear_key_head_dim'),
        }
      : undefined,
  };
}

/** Checkpoints are saved with and without the names of what is around the transformer. */
function prefixOf(source: WeightSource): (name: string) => string {
  if (source.get('wte.weight')) return (name) => `transformer.${name}`;
  if (source.get('language_model.model.embed_tokens.weight')) return (name) => name.replace(/^language_model\./, '');
  if (source.get('model.language_model.embed_tokens.weight')) {
    return (name) => name.replace(/^model\.language_model\./, 'model.');
  }
  return source.get('embed_tokens.weight') ? (name) => `model.${name}` : (name) => name;
}

function isDraft(name: string, layers: number): boolean {
  const layer = /\.layers\.(\d+)\./.exec(name)?.[1];
  return layer !== undefined && Number(layer) >= layers;
}

function commonKeys(c: Config, arch: GgufArch, f: ExportFacts): GgufKeyValues {
  const epsilon = arch.epsilon
    ? { 'attention.layer_norm_epsilon': number(c, arch.epsilon) }
    : { 'attention.layer_norm_rms_epsilon': number(c, 'rms_norm_eps') };
  return {
    context_length: need(c, 'max_position_embeddings'),
    embedding_length: f.hidden,
    block_count: f.layers,
    feed_forward_length: number(c, 'intermediate_size'),
    'attention.head_count': f.heads,
    'attention.head_count_kv': f.kvHeads,
    'attention.key_length': f.headDim,
    'attention.value_length': f.headDim,
    vocab_size: need(c, 'vocab_size'),
    ...epsilon,
  };
}

function keysOf(name: string, own: GgufKeyValues): Map<string, GgufKeyValue> {
  const out = new Map<string, GgufKeyValue>([['general.architecture', name]]);
  for (const [key, value] of Object.entries(own)) if (value !== undefined) out.set(`${name}.${key}`, value);
  return out;
}

/** What writers change in the values: pairs of rows, norms with the one added, decay rates, small tensors as F32. */
function changed(t: SourceTensor, gguf: string, arch: GgufArch, f: ExportFacts, codec: Codec): SourceTensor {
  if (arch.bare?.['ssm_d'] && /\.ssm_([ad]|norm\.weight)$/.test(gguf)) {
    // Vectors as columns, norms as a row a group.
    const rows = /ssm_norm/.test(gguf) ? need(f.c, 'mamba_n_groups') : (t.shape[0] as number);
    const shaped = inRows(floats(t, codec), rows);
    return /\.ssm_a$/.test(gguf) ? floats(shaped, codec, negativeRates) : shaped;
  }
  const flat = /(ffn_gate_inp_shexp\.weight|exp_probs_b\.bias)$/.test(gguf) ? { ...t, shape: t.shape.slice(-1) } : t;
  if (/\.attn_[qk]\.(weight|bias)$/.test(gguf) && arch.pairedRows) {
    const paired = pairRows(flat, /\.attn_q\./.test(gguf) ? f.heads : f.kvHeads, f.headDim, codec);
    return flat.shape.length === 1 ? floats(paired, codec) : paired;
  }
  if (arch.normsAddOne && /norm\.weight$/.test(gguf) && !/ssm_norm/.test(gguf)) {
    return floats(flat, codec, (values) => {
      for (let i = 0; i < values.length; i++) values[i]! += 1;
    });
  }
  if (/\.ssm_a$/.test(gguf)) {
    return floats(flat, codec, negativeRates);
  }
  return flat.shape.length === 1 || FLOATS.test(gguf) ? floats(flat, codec) : flat;
}

/** Logarithms of decay rates as the rates themselves, negative. */
function negativeRates(values: Float32Array): void {
  for (let i = 0; i < values.length; i++) values[i] = -Math.exp(values[i]!);
}
