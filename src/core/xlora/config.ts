/** `xlora_config.json`, as the `xlora` package writes it, and the ordering of a model's adapters. */
import * as s from '../schema.ts';

/** Both files have a few kilobytes; an ordering names every module of a model. */
export const MAX_XLORA_JSON_BYTES = 2 ** 24;
const MAX_ADAPTERS = 256;
const MAX_DEPTH = 64;
const MAX_LAYERS = 2 ** 20;
const MAX_MODULES = 2 ** 20;

const FILE = s.object({
  hidden_size: s.count,
  base_model_id: s.optional(s.string),
  adapters: s.unknown,
  xlora_depth: s.or(s.upTo(MAX_DEPTH), 1),
  xlora_size: s.optional(s.count),
  enable_relu_and_dropout: s.or(s.boolean, false),
  use_bias: s.or(s.boolean, true),
  enable_softmax: s.or(s.boolean, true),
  softmax_temperature: s.or(s.positive, 1),
  enable_softmax_topk: s.or(s.boolean, false),
  top_k_lora: s.optional(s.upTo(MAX_ADAPTERS)),
  layerwise_scalings: s.or(s.boolean, false),
  scaling_pass_value: s.or(s.number, 0),
  global_scaling_weight: s.or(s.number, 1),
  // Two that matter in training only.
  xlora_dropout_p: s.or(s.number, 0),
  use_trainable_adapters: s.or(s.boolean, false),
});

export interface XLoraConfig {
  readonly hiddenSize: number;
  readonly baseModelId: string | undefined;
  /** Names in order, if the file has any. */
  readonly adapters: readonly string[];
  /** Matrices of the classifier, one behind the other. */
  readonly depth: number;
  /** Width between them, where the file says. */
  readonly size: number | undefined;
  readonly relu: boolean;
  readonly bias: boolean;
  readonly softmax: boolean;
  readonly temperature: number;
  readonly topK: number | undefined;
  /** A softmax over what is left behind `topK`. */
  readonly softmaxTopK: boolean;
  /** Every module has scalings of its own. */
  readonly layerwise: boolean;
  readonly passValue: number;
  readonly globalWeight: number;
}

/** Throws `ConfigError` naming the path of a bad value. */
export function parseXLoraConfig(raw: unknown, name: string): XLoraConfig {
  const c = FILE.parse(raw, name);
  const names = s.isRecord(c.adapters)
    ? Object.keys(c.adapters)
    : s.or(s.array(s.string), []).parse(c.adapters, `${name}.adapters`);
  return {
    hiddenSize: c.hidden_size,
    baseModelId: c.base_model_id,
    adapters: namesOf(names, `${name}.adapters`),
    depth: c.xlora_depth,
    size: c.xlora_size,
    relu: c.enable_relu_and_dropout,
    bias: c.use_bias,
    softmax: c.enable_softmax,
    temperature: c.softmax_temperature,
    topK: c.top_k_lora,
    softmaxTopK: c.enable_softmax_topk,
    layerwise: c.layerwise_scalings,
    passValue: c.scaling_pass_value,
    globalWeight: c.global_scaling_weight,
  };
}

/** In what order adapters count, and which scalings each module takes. */
export interface AdapterOrdering {
  /** Names of the adapters' folders; as the configuration lists them when absent. */
  readonly order?: readonly string[] | undefined;
  /** Number of the scalings of each module, by its path in the model. */
  readonly layers?: Readonly<Record<string, number>> | undefined;
  readonly baseModelId?: string | undefined;
}

/** Reads an ordering in the spelling of its published files, or in that of options. Throws `ConfigError`. */
export function parseOrdering(raw: unknown, name: string): AdapterOrdering {
  const ordering = ORDERING.parse(raw, name);
  const { order, layers, base_model_id: baseModelId, preload_adapters: preload } = ordering;
  if (preload !== undefined && !(Array.isArray(preload) && preload.length === 0)) {
    throw s.configError(`${name}.preloadAdapters`, 'none: load such adapters with the option loraAdapters', preload);
  }
  return {
    order: order && namesOf(order, `${name}.order`),
    layers: layers == null ? undefined : layersOf(layers, `${name}.layers`),
    baseModelId,
  };
}

const ORDERING = s.object({
  order: s.optional(s.array(s.string)),
  layers: s.unknown,
  base_model_id: s.alias(s.optional(s.string), 'baseModelId'),
  preload_adapters: s.alias(s.optional(s.unknown), 'preloadAdapters'),
});

function layersOf(raw: unknown, path: string): Record<string, number> {
  const entries = s.isRecord(raw) ? Object.entries(raw) : undefined;
  if (entries === undefined || entries.length > MAX_MODULES)
    throw s.configError(path, `an object of at most ${MAX_MODULES}`, raw);
  for (const [module, layer] of entries) {
    if (!Number.isInteger(layer) || (layer as number) < 0 || (layer as number) >= MAX_LAYERS) {
      throw s.configError(`${path}.${module}`, `a number from 0 to ${MAX_LAYERS - 1}`, layer);
    }
  }
  return raw as Record<string, number>;
}

function namesOf(names: readonly string[], path: string): readonly string[] {
  if (names.length > MAX_ADAPTERS) throw s.configError(path, `at most ${MAX_ADAPTERS} names`, names.length);
  const twice = names.find((n, i) => n === '' || names.indexOf(n) !== i);
  if (twice !== undefined) throw s.configError(path, 'names, each once', twice);
  return names;
}
