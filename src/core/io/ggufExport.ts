/** A checkpoint in Hugging Face layout in terms of GGUF: names, row orders and metadata. */
import { storageType } from '../dtype.ts';
import { UnsupportedError } from '../errors.ts';
import { isRecord } from '../schema.ts';
import { sizeOf } from '../tensor.ts';
import type { Codec, SourceTensor, WeightSource } from '../weights.ts';
import { readValues, storedRowBytes } from '../weights.ts';
import { GGUF_ARCHES, type GgufArch, ggufNames } from './ggufNames.ts';
import { type GgufBytes, ggufValue } from './ggufWrite.ts';

/** Architectures whose whole configuration the writer can express. */
const WRITABLE = ['llama', 'qwen2', 'qwen3', 'gemma', 'gemma2', 'phi3', 'smollm3'];

export interface GgufExport {
  readonly arch: string;
  readonly metadata: Map<string, GgufBytes>;
  /** Under their GGUF names; norms and biases as F32. */
  readonly tensors: readonly { readonly hf: string; readonly tensor: SourceTensor }[];
}

type Config = Readonly<Record<string, unknown>>;

/**
 * Translates names, the order of query and key rows, and the configuration.
 * @throws UnsupportedError for architectures, rotary scalings and tensors without a place in such files.
 */
export async function exportGguf(source: WeightSource, config: unknown, codec: Codec): Promise<GgufExport> {
  const c = isRecord(config) ? config : {};
  const name = archName(c);
  const arch = GGUF_ARCHES[name] as GgufArch;
  const n = numbersOf(c, name);
  checkExpressible(c, name, arch, n);
  const names = ggufNames(arch, n.layers);
  const tensors: { hf: string; tensor: SourceTensor }[] = [];
  for (const hf of source.names()) {
    if (/(^|\.)rotary_emb\.inv_freq$/.test(hf)) continue;
    if (hf === 'lm_head.weight' && n.tied) continue;
    const gguf = names.get(hf);
    const stored = source.get(hf);
    if (gguf === undefined || !stored) {
      throw new UnsupportedError(`tensor "${hf}": expected a name with a place in GGUF files of ${name}`, {
        feature: `${name} in GGUF files`,
      });
    }
    tensors.push({ hf, tensor: { ...changed(stored, gguf, arch, n, codec), name: gguf } });
  }
  const rope = await ropeOf(c, name, n);
  const order = tensors.length;
  rope.tensors.forEach(([ropeName, values], i) => {
    tensors.push({ hf: ropeName, tensor: floats(ropeName, values, order + i) });
  });
  return { arch: name, metadata: new Map([...metadataOf(c, name, n), ...rope.metadata]), tensors };
}

interface Numbers {
  readonly layers: number;
  readonly hidden: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly tied: boolean;
}

function archName(c: Config): string {
  const classes = Array.isArray(c['architectures']) ? c['architectures'] : [];
  const name = WRITABLE.find((a) => {
    const arch = GGUF_ARCHES[a] as GgufArch;
    return classes[0] === arch.hf || classes[0] === arch.windowed;
  });
  if (name !== undefined) return name;
  throw new UnsupportedError(
    `architecture: expected one that can be written as GGUF (${WRITABLE.join(', ')}), got ${String(classes[0])}`,
    { feature: `GGUF of ${String(classes[0])}` },
  );
}

function numbersOf(c: Config, name: string): Numbers {
  const hidden = count(c, 'hidden_size');
  const heads = count(c, 'num_attention_heads');
  return {
    layers: count(c, 'num_hidden_layers'),
    hidden,
    heads,
    kvHeads: typeof c['num_key_value_heads'] === 'number' ? c['num_key_value_heads'] : heads,
    headDim: typeof c['head_dim'] === 'number' ? c['head_dim'] : hidden / heads,
    tied: typeof c['tie_word_embeddings'] === 'boolean' ? c['tie_word_embeddings'] : name.startsWith('gemma'),
  };
}

function count(c: Config, key: string): number {
  const value = c[key];
  if (Number.isSafeInteger(value) && (value as number) > 0 && (value as number) < 2 ** 31) return value as number;
  throw new UnsupportedError(`config.json: ${key}: expected a positive whole number, got ${JSON.stringify(value)}`, {
    feature: key,
  });
}

function number(c: Config, key: string): number | undefined {
  return typeof c[key] === 'number' ? c[key] : undefined;
}

/** Layers that SmolLM 3 does not rotate, as readers of its files have them. */
const UNROTATED = 4;

/** Refuses values that no key states, unless they are those that readers take. */
function checkExpressible(c: Config, name: string, arch: GgufArch, n: Numbers): void {
  const must = (key: string, wanted: unknown, got: unknown) => {
    if (got === undefined || got === null || JSON.stringify(got) === JSON.stringify(wanted)) return;
    throw new UnsupportedError(
      `config.json: ${key}: expected ${JSON.stringify(wanted)}, as GGUF files of ${name} have it; got ${JSON.stringify(got)}`,
      { feature: `${key} in GGUF files` },
    );
  };
  const each = <T>(make: (layer: number) => T) => Array.from({ length: n.layers }, (_, i) => make(i));
  const gemma = name.startsWith('gemma');
  must('hidden_act', gemma ? 'gelu_pytorch_tanh' : 'silu', gemma ? c['hidden_activation'] : c['hidden_act']);
  const window = number(c, 'sliding_window') !== undefined && c['use_sliding_window'] !== false;
  if (name === 'gemma2') {
    const wide = arch.wideScaleLayers === n.layers;
    must('query_pre_attn_scalar', wide ? Math.floor(n.hidden / n.heads) : n.headDim, c['query_pre_attn_scalar'] ?? 256);
    must(
      'layer_types',
      each((i) => (i % 2 === 0 ? 'sliding_attention' : 'full_attention')),
      c['layer_types'],
    );
  } else if (window && (name === 'qwen2' || name === 'qwen3' || name === 'smollm3')) {
    must('use_sliding_window', false, c['use_sliding_window']);
  }
  if (name === 'smollm3') {
    const rotates = each((i) => ((i + 1) % UNROTATED === 0 ? 0 : 1));
    must('no_rope_layers', rotates, c['no_rope_layers']);
    if (!c['no_rope_layers']) must('no_rope_layer_interval', UNROTATED, c['no_rope_layer_interval']);
  }
}

/** Base of the rotation where the configuration does not state it. */
const thetaOf = (name: string): number => (name === 'smollm3' ? 2e6 : 10000);

function metadataOf(c: Config, name: string, n: Numbers): Map<string, GgufBytes> {
  const { u32, f32, string } = ggufValue;
  const out = new Map<string, GgufBytes>([['general.architecture', string(name)]]);
  const put = (key: string, value: GgufBytes | undefined) => value && out.set(`${name}.${key}`, value);
  put('context_length', u32(count(c, 'max_position_embeddings')));
  put('embedding_length', u32(n.hidden));
  put('block_count', u32(n.layers));
  put('feed_forward_length', u32(count(c, 'intermediate_size')));
  put('attention.head_count', u32(n.heads));
  put('attention.head_count_kv', u32(n.kvHeads));
  put('attention.layer_norm_rms_epsilon', f32(number(c, 'rms_norm_eps') ?? 1e-6));
  put('attention.key_length', u32(n.headDim));
  put('attention.value_length', u32(n.headDim));
  put('vocab_size', u32(count(c, 'vocab_size')));
  const window = number(c, 'sliding_window');
  const windowed = window !== undefined && c['use_sliding_window'] !== false;
  if (windowed && (name === 'gemma2' || name === 'phi3' || name === 'llama'))
    put('attention.sliding_window', u32(window));
  const softcaps = ['attn_logit_softcapping', 'final_logit_softcapping'] as const;
  for (const key of softcaps) {
    const value = number(c, key);
    if (value !== undefined) put(key, f32(value));
  }
  return out;
}

interface Rope {
  readonly metadata: Map<string, GgufBytes>;
  readonly tensors: readonly (readonly [name: string, values: Float32Array])[];
}

async function ropeOf(c: Config, name: string, n: Numbers): Promise<Rope> {
  const { u32, f32, string } = ggufValue;
  const own = c['rope_parameters'] ?? c['rope_scaling'];
  const rope: Config = isRecord(own) ? own : {};
  const theta = number(rope, 'rope_theta') ?? number(c, 'rope_theta') ?? thetaOf(name);
  const partial = number(rope, 'partial_rotary_factor') ?? number(c, 'partial_rotary_factor') ?? 1;
  const rotated = Math.trunc(n.headDim * partial);
  const metadata = new Map<string, GgufBytes>();
  const put = (key: string, value: GgufBytes) => metadata.set(`${name}.rope.${key}`, value);
  put('freq_base', f32(theta));
  put('dimension_count', u32(rotated));
  const type = rope['rope_type'] ?? rope['type'] ?? 'default';
  const factor = number(rope, 'factor') ?? 1;
  const original =
    number(rope, 'original_max_position_embeddings') ??
    number(c, 'original_max_position_embeddings') ??
    number(c, 'max_position_embeddings') ??
    0;
  switch (type) {
    case 'default':
      return { metadata, tensors: [] };
    case 'linear':
      put('scaling.type', string('linear'));
      put('scaling.factor', f32(factor));
      return { metadata, tensors: [] };
    case 'yarn':
      for (const key of ['attention_factor', 'mscale', 'mscale_all_dim', 'beta_fast', 'beta_slow', 'truncate']) {
        if (rope[key] === undefined || rope[key] === null) continue;
        throw new UnsupportedError(`config.json: rope scaling: expected no ${key}, got ${JSON.stringify(rope[key])}`, {
          feature: `${key} in GGUF files`,
        });
      }
      put('scaling.type', string('yarn'));
      put('scaling.factor', f32(factor));
      put('scaling.original_context_length', u32(original));
      return { metadata, tensors: [] };
    case 'llama3':
      return { metadata, tensors: [['rope_freqs.weight', llama3Factors(rope, theta, rotated, original)]] };
    case 'longrope':
    case 'su': {
      put('scaling.original_context_length', u32(original));
      const ratio = count(c, 'max_position_embeddings') / original;
      const scale = ratio <= 1 ? 1 : Math.sqrt(1 + Math.log(ratio) / Math.log(original));
      put('scaling.attn_factor', f32(number(rope, 'attention_factor') ?? scale));
      const factors = (key: string) => Float32Array.from(Array.isArray(rope[key]) ? (rope[key] as number[]) : []);
      return {
        metadata,
        tensors: [
          ['rope_factors_long.weight', factors('long_factor')],
          ['rope_factors_short.weight', factors('short_factor')],
        ],
      };
    }
    default:
      throw new UnsupportedError(`rope_type: expected default, linear, yarn, llama3 or longrope, got ${String(type)}`, {
        feature: `rope_type ${String(type)}`,
      });
  }
}

/** Divisors of the frequencies: long waves are stretched, short ones stay, those between are mixed. */
function llama3Factors(rope: Config, theta: number, dims: number, original: number): Float32Array {
  const factor = number(rope, 'factor') ?? 8;
  const low = number(rope, 'low_freq_factor') ?? 1;
  const high = number(rope, 'high_freq_factor') ?? 4;
  return Float32Array.from({ length: dims / 2 }, (_, i) => {
    const wave = 2 * Math.PI * theta ** ((2 * i) / dims);
    if (wave < original / high) return 1;
    if (wave > original / low) return factor;
    const smooth = (original / wave - low) / (high - low);
    return 1 / ((1 - smooth) / factor + smooth);
  });
}

/** What writers change in the values: pairs of rows, norms with the one added, vectors as F32. */
function changed(t: SourceTensor, gguf: string, arch: GgufArch, n: Numbers, codec: Codec): SourceTensor {
  const plusOne = arch.normsAddOne === true && /norm\.weight$/.test(gguf);
  let out = t;
  if (t.shape.length === 1) {
    out = mapped(t, codec, (values) => {
      if (plusOne) for (let i = 0; i < values.length; i++) values[i]! += 1;
    });
  }
  if (!arch.pairedRows || !/\.attn_[qk]\.(weight|bias)$/.test(gguf)) return out;
  const heads = /\.attn_q\./.test(gguf) ? n.heads : n.kvHeads;
  return pairRows(out, heads, n.headDim);
}

/** A vector as F32, changed as a whole. */
function mapped(t: SourceTensor, codec: Codec, change: (values: Float32Array) => void): SourceTensor {
  return {
    ...t,
    type: storageType('F32'),
    async readRows(_first, _rows, target) {
      const values = await readValues(t, codec);
      change(values);
      target.set(new Uint8Array(values.buffer));
    },
  };
}

function floats(name: string, values: Float32Array, order: number): SourceTensor {
  return {
    name,
    type: storageType('F32'),
    shape: [values.length],
    order,
    async readRows(_first, _rows, target) {
      target.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    },
  };
}

/** Rows of each head so that neighbours rotate together: row `2j + h` is row `j` of half `h`. */
function pairRows(t: SourceTensor, heads: number, headDim: number): SourceTensor {
  const vector = t.shape.length === 1;
  const stride = vector ? t.type.blockBytes : storedRowBytes(t);
  const total = vector ? sizeOf(t.shape) : (t.shape[0] as number);
  if (total !== heads * headDim || headDim % 2 !== 0) {
    throw new UnsupportedError(`tensor "${t.name}": expected ${heads} heads of ${headDim}, got [${t.shape}]`, {
      feature: 'paired rows',
    });
  }
  const from = (row: number) => {
    const j = row % headDim;
    return row - j + (j % 2) * (headDim / 2) + Math.floor(j / 2);
  };
  return {
    ...t,
    async readRows(first, rows, target) {
      if (vector) {
        const all = new Uint8Array(total * stride);
        await t.readRows(0, 1, all);
        for (let r = 0; r < total; r++) target.set(all.subarray(from(r) * stride, (from(r) + 1) * stride), r * stride);
        return;
      }
      const head = new Uint8Array(headDim * stride);
      for (let at = first; at < first + rows; ) {
        const start = at - (at % headDim);
        await t.readRows(start, headDim, head);
        for (; at < Math.min(first + rows, start + headDim); at++) {
          const row = from(at) - start;
          target.set(head.subarray(row * stride, (row + 1) * stride), (at - first) * stride);
        }
      }
    },
  };
}
