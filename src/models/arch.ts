/** What the text architectures share: their configuration keys, and where a checkpoint keeps its parts. */
import type { Activation } from '../core/backend.ts';
import { WeightError } from '../core/errors.ts';
import type { Arch, Decoder, ExtraParts } from '../core/model.ts';
import * as s from '../core/schema.ts';
import type { Weight } from '../core/weight.ts';
import type { Weights } from '../core/weights.ts';
import { ropeFields } from './blocks/rope.ts';

/** An architecture without its names, which stand in the registry alone. */
export type TextArch<C> = Omit<Arch<C>, 'hf' | 'gguf'>;

/** `derive` resolves what the file leaves out, by the rules of the architecture. */
export function textArch<F extends s.Fields, C>(
  schema: s.ObjectSchema<F>,
  derive: (parsed: s.Parsed<F>) => C,
  build: (w: Weights, c: C, extras: ExtraParts) => Decoder,
): TextArch<C> {
  return { config: (raw) => derive(schema.parse(textOf(raw), '')), build: (w, c, extras = {}) => build(w, c, extras) };
}

/** Activation names of published configurations. */
export const activation = s.named<Activation>({
  silu: 'silu',
  swish: 'silu',
  gelu: 'gelu',
  gelu_python: 'gelu',
  gelu_new: 'geluTanh',
  gelu_fast: 'geluTanh',
  gelu_accurate: 'geluTanh',
  gelu_pytorch_tanh: 'geluTanh',
  gelu_python_tanh: 'geluTanh',
  quick_gelu: 'geluQuick',
  relu: 'relu',
  relu2: 'relu2',
});

export type LayerType = 'full_attention' | 'sliding_attention';

/** The deepest published models have 126. */
const MAX_LAYERS = 4096;

/** Keys nearly every text configuration has. Architectures extend or replace them. */
export const textFields = {
  ...ropeFields,
  vocab_size: s.count,
  hidden_size: s.count,
  intermediate_size: s.count,
  num_hidden_layers: s.upTo(MAX_LAYERS),
  num_attention_heads: s.count,
  num_key_value_heads: s.optional(s.count),
  head_dim: s.optional(s.count),
  rms_norm_eps: s.or(s.positive, 1e-6),
  hidden_act: s.or(activation, 'silu'),
  tie_word_embeddings: s.or(s.boolean, false),
  attention_bias: s.optional(s.boolean),
  mlp_bias: s.optional(s.boolean),
  layer_types: s.optional(s.array(s.oneOf<LayerType>('full_attention', 'sliding_attention'))),
};
export const textConfig = s.object(textFields);
export type TextConfig = s.Infer<typeof textConfig>;

/** The text part of a configuration: `text_config` where one is nested, else the whole. */
export function textOf(raw: unknown): unknown {
  if (!s.isRecord(raw) || !s.isRecord(raw.text_config)) return raw;
  const tied = raw.tie_word_embeddings;
  return tied === undefined ? raw.text_config : { tie_word_embeddings: tied, ...raw.text_config };
}

export interface Heads {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

/** Head counts, with the usual rules for what is not written down. */
export function heads(
  c: Pick<TextConfig, 'hidden_size' | 'num_attention_heads' | 'num_key_value_heads' | 'head_dim'>,
): Heads {
  const { num_attention_heads: all } = c;
  const kvHeads = c.num_key_value_heads ?? all;
  if (all % kvHeads !== 0) throw s.configError('num_key_value_heads', `a divisor of ${all} attention heads`, kvHeads);
  const headDim = c.head_dim ?? Math.floor(c.hidden_size / all);
  if (headDim < 1) throw s.configError('num_attention_heads', `at most hidden_size (${c.hidden_size})`, all);
  return { heads: all, kvHeads, headDim };
}

/** `layer_types`, one for each layer, from the file or by `rule`. */
export function layerTypes(
  c: Pick<TextConfig, 'layer_types' | 'num_hidden_layers'>,
  rule: (layer: number) => LayerType,
): readonly LayerType[] {
  const { layer_types: stated, num_hidden_layers: layers } = c;
  if (stated === undefined) return Array.from({ length: layers }, (_, i) => rule(i));
  if (stated.length < layers) throw s.configError('layer_types', `${layers} entries`, stated.length);
  return stated.slice(0, layers);
}

/** `layer_types` of hybrid models: what stands in the place of attention, by layer. */
export function hybridTypes<T>(
  stated: readonly T[] | undefined,
  layers: number,
  rule: ((layer: number) => T) | undefined,
): readonly T[] {
  if (stated !== undefined && stated.length >= layers) return stated.slice(0, layers);
  if (stated !== undefined || rule === undefined)
    throw s.configError('layer_types', `${layers} entries`, stated?.length);
  return Array.from({ length: layers }, (_, i) => rule(i));
}

/** The window of a layer: `sliding_window` on sliding layers, none on the others. */
export function windowOf(
  c: { readonly layer_types: readonly LayerType[]; readonly sliding_window: number | undefined },
  layer: number,
): number | undefined {
  if (c.layer_types[layer] !== 'sliding_attention') return undefined;
  if (c.sliding_window === undefined) {
    throw s.configError('sliding_window', `a positive integer, as layer_types[${layer}] asks for one`, null);
  }
  return c.sliding_window;
}

/** Numbers up to `n`, mapped: `layers(c.num_hidden_layers, (i) => …)`. */
export function layers<T>(n: number, make: (layer: number) => T): T[] {
  return Array.from({ length: n }, (_, i) => make(i));
}

/** The cursor at the transformer itself, under whichever prefix the checkpoint was saved. */
export function trunk(w: Weights): Weights {
  const prefixes = [['model'], ['language_model', 'model'], ['model', 'language_model']];
  const found = prefixes.map((p) => w.at(...p)).find((at) => at.has('embed_tokens.weight'));
  return found ?? (w.has('embed_tokens.weight') ? w : w.at('model'));
}

/** What the table of tokens and the output matrix are called, without `.weight`. */
export interface EndNames {
  readonly table: string;
  readonly head: string;
}

const ENDS: EndNames = { table: 'embed_tokens', head: 'lm_head' };

/** Token table and output matrix. A stored output matrix is used even where the configuration ties it to the table. */
export function tableAndHead(
  w: Weights,
  model: Weights,
  c: Pick<TextConfig, 'vocab_size' | 'hidden_size' | 'tie_word_embeddings'>,
  names: EndNames = ENDS,
): { readonly table: Weight; readonly head: Weight } {
  const shape = [c.vocab_size, c.hidden_size] as const;
  const tableName = `${names.table}.weight`;
  const headName = `${names.head}.weight`;
  const at = [w, w.at('language_model')].find((x) => x.has(headName)) ?? w;
  const stored = at.has(headName);
  if (c.tie_word_embeddings && stored && !model.has(tableName)) {
    const both = at.matrix(headName, shape);
    return { table: both, head: both };
  }
  const table = model.matrix(tableName, shape);
  return { table, head: c.tie_word_embeddings && !stored ? table : at.matrix(headName, shape) };
}

/** Tensors that older checkpoints store and nobody needs. */
const IGNORED = /(^|\.)(rotary_emb\.inv_freq|rope\.freqs|attn_rot_embd|masked_bias)(\.weight)?$/;
/** Names that a message lists. */
const LISTED = 5;

/** Builds the decoder and demands that every tensor of the checkpoint was asked for. */
export function buildDecoder<C>(arch: Pick<Arch<C>, 'build'>, w: Weights, config: C, extras: ExtraParts = {}): Decoder {
  const built = arch.build(w, config, extras);
  w.ignore(IGNORED);
  const unused = w.unused();
  if (unused.length) {
    const more = unused.length > LISTED ? ` and ${unused.length - LISTED} more` : '';
    throw new WeightError(
      `checkpoint: expected only tensors that the model reads, got also ${unused.slice(0, LISTED).join(', ')}${more}; the configuration and the weights belong to different models`,
    );
  }
  return built;
}
