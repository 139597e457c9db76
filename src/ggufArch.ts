/** Models in terms of GGUF files: what they are called there, and whether a file would say the same of one. */
import { UnsupportedError } from './core/errors.ts';
import type { Checkpoint, TensorInfo } from './core/io/checkpoint.ts';
import type { GgufExport, GgufFamily } from './core/io/ggufExport.ts';
import { isRope } from './core/io/ggufExportRope.ts';
import { ggufModel } from './core/io/ggufModel.ts';
import { GGUF_ARCHES } from './core/io/ggufNames.ts';
import { bytesSource } from './core/io/memory.ts';
import type { Rope } from './core/model.ts';
import { isRecord } from './core/schema.ts';
import { sizeOf } from './core/tensor.ts';
import { archOf } from './models/registry.ts';

/** The architecture in GGUF files that a configuration belongs to. */
export async function ggufFamily(config: unknown): Promise<GgufFamily | undefined> {
  const { hf, gguf } = await archOf(config);
  const known = Object.entries(GGUF_ARCHES);
  const name = gguf[0] ?? known.find(([, arch]) => hf.includes(arch.windowed ?? ''))?.[0];
  const family = name === undefined ? undefined : GGUF_ARCHES[name];
  if (name === undefined || !family) return undefined;
  const { withExperts } = family;
  return { name, arch: withExperts && hf.includes(withExperts.hf) ? withExperts : family };
}

type Config = Readonly<Record<string, unknown>>;

/** What `architectures` of a configuration and the way it is written say; all of it follows from other keys. */
const FORM = /^(rope_parameters|rope_scaling|rope_theta|rope_local_base_freq|partial_rotary_factor|architectures)$/;
/** Sequence lengths at which rotations are compared, and positions in them. */
const LENGTHS = [8, 2 ** 24];
const POSITIONS = [1, 7];
const TOLERANCE = 1e-5;

/**
 * Reads the keys back as a reader of the file would, and compares what models are built from.
 * @throws UnsupportedError naming a value that the file cannot express.
 */
export async function checkExport(parsed: Config, { keys, tensors }: GgufExport): Promise<void> {
  const infos = await Promise.all(tensors.map(async ({ tensor }) => [tensor.name, await infoOf(tensor)] as const));
  const file: Checkpoint = { metadata: keys, tensors: new Map(infos), close: async () => {} };
  const { config: back } = await ggufModel(file);
  const again = (await archOf(back)).config(back) as Config;
  const [ours, theirs] = [essence(parsed), essence(again)];
  for (const key of new Set([...Object.keys(ours), ...Object.keys(theirs)])) {
    const [own, their] = [ours[key], theirs[key]];
    // Where one leaves biases open, the checkpoint tells.
    const open = /bias$/.test(key) && (own === undefined || their === undefined);
    if (open || FORM.test(key) || same(own, their)) continue;
    const shown = (v: unknown) => (isRope(v) ? 'a rotation' : (JSON.stringify(v) ?? 'nothing')).slice(0, 80);
    throw new UnsupportedError(
      `config.json: ${key}: expected ${shown(their)}, as GGUF files of ${keys.get('general.architecture')} have it; got ${isRope(own) ? 'another one' : shown(own)}`,
      { feature: `${key} in GGUF files` },
    );
  }
}

/** The tensor as an entry of a file; only the small ones that say how to rotate are read. */
async function infoOf({ name, type, shape, readRows }: GgufExport['tensors'][number]['tensor']): Promise<TensorInfo> {
  const bytes = name.startsWith('rope_f') ? new Uint8Array(sizeOf(shape) * type.blockBytes) : new Uint8Array(0);
  if (bytes.length > 0) await readRows(0, 1, bytes);
  return { name, type, shape, offset: 0, bytes: bytes.length, source: bytesSource(bytes) };
}

/**
 * Keys that other ones of the parsed configuration are made into, or whose absence only means that the checkpoint tells
 * (biases, the output matrix).
 */
const DERIVED: ReadonlySet<string> = new Set([
  ...['layer_types', 'sliding_window', 'use_sliding_window', 'max_window_layers', 'sliding_window_pattern'],
  ...['decoder_sparse_step', 'mlp_only_layers', 'moe_layer_freq', 'full_attention_interval', 'full_attn_idxs'],
  ...['original_max_position_embeddings', 'tie_word_embeddings', 'tie_embedding', 'num_nextn_predict_layers'],
  ...['n_group', 'topk_group', 'topk_method', 'scoring_func', 'linear_cyclic_heads', 'time_step_limit'],
  ...['no_rope_layers', 'no_rope_layer_interval'],
  ...['global_head_dim', 'num_global_key_value_heads', 'per_layer_config', 'use_double_wide_mlp', 'block_ff_dim'],
  ...['block_multiple_of', 'block_ffn_dim_multiplier', 'block_auto_adjust_ff_dim', 'mamba_expand'],
]);
/** Epsilons of layer norms, in place of which a default stands elsewhere. */
const EPSILONS = ['layer_norm_eps', 'layer_norm_epsilon', 'norm_eps', 'norm_epsilon'];

/** A parsed configuration without different ways to say the same. */
function essence(c: Config): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(c)) if (!DERIVED.has(key)) out[key] = value;
  const { num_attention_heads: heads, hidden_size: hidden, num_hidden_layers: layers } = c as Record<string, number>;
  out['num_key_value_heads'] ??= heads;
  out['head_dim'] ??= Math.floor(hidden! / heads!);
  if (EPSILONS.some((key) => c[key] !== undefined)) delete out['rms_norm_eps'];
  const types = Array.isArray(c['layer_types']) ? (c['layer_types'] as readonly string[]) : undefined;
  const window = c['use_sliding_window'] === false ? undefined : c['sliding_window'];
  const skipped = Array.isArray(c['mlp_only_layers']) ? (c['mlp_only_layers'] as readonly number[]) : [];
  const step = Number(c['decoder_sparse_step'] ?? c['moe_layer_freq'] ?? 1);
  const each = <T>(make: (layer: number) => T) => Array.from({ length: layers! }, (_, i) => make(i));
  // Only the per-layer input has a table of its own, only experts their own width.
  if (c['hidden_size_per_layer_input'] === 0) delete out['vocab_size_per_layer_input'];
  if (c['num_local_experts'] === 0) for (const key of ['intermediate_size', 'routed']) delete out[key];
  if (Array.isArray(c['layers'])) for (const key of ['moe_intermediate_size', 'moe_topk']) delete out[key];
  if (c['moe_layer_end_index'] === -1) out['moe_layer_end_index'] = layers! - 1;
  if ('n_inner' in c) out['n_inner'] ??= 4 * hidden!;
  out['windows'] =
    c['windows'] ?? each((i) => ((types?.[i] ?? 'sliding_attention') === 'sliding_attention' ? (window ?? 0) : 0));
  out['sparse'] = each((i) => !skipped.includes(i) && (i + 1) % step === 0);
  return out;
}

function same(a: unknown, b: unknown): boolean {
  if (typeof a === 'number' && typeof b === 'number') {
    return a === b || Math.abs(a - b) <= TOLERANCE * Math.max(Math.abs(a), Math.abs(b));
  }
  if (isRope(a) && isRope(b)) return a.width === b.width && LENGTHS.every((n) => sameTurn(a, b, n));
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((v, i) => same(v, b[i]));
  if (isRecord(a) && isRecord(b)) {
    return [...new Set([...Object.keys(a), ...Object.keys(b)])].every((key) => same(a[key], b[key]));
  }
  return a === b || (a ?? undefined) === (b ?? undefined);
}

function sameTurn(a: Rope, b: Rope, length: number): boolean {
  return POSITIONS.every((position) => {
    const [x, y] = [a, b].map((rope) => {
      const out = new Float32Array(rope.width);
      rope.fill(out, 0, position, length);
      return out;
    });
    return x!.every((v, i) => Math.abs(v - y![i]!) <= TOLERANCE);
  });
}
