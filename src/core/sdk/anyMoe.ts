/** AnyMoE as options name it. */
import { ConfigError } from '../errors.ts';
import * as s from '../schema.ts';
import type { AdapterInput } from './adapters.ts';

/** The experts beside the model's own MLP: those of fine-tuned checkpoints, or the own one with LoRA matrices added. */
export type AnyMoeExpertType =
  | 'fineTuned'
  | { readonly lora: { readonly rank: number; readonly alpha: number; readonly targetModules: readonly string[] } };

export interface AnyMoeConfig {
  /** Of the model. */
  readonly hiddenSize: number;
  /** Of AdamW; 1e-3 when absent. */
  readonly lr?: number;
  /** 100 when absent. */
  readonly epochs?: number;
  /** 4 when absent. */
  readonly batchSize?: number;
  readonly expertType: AnyMoeExpertType;
  /** Folder of trained gates: written after training, read without (then a hub repository will do, too). */
  readonly gateModelId?: string;
  /** Trains the gates at load; true when absent. */
  readonly training?: boolean;
  /** A `.csv` file for the losses of the training. */
  readonly lossCsvPath?: string;
  /**
   * Who chooses: a prompt as a whole and then every token of the answer one expert (`sequence`, when absent), or every token
   * its `topK`.
   */
  readonly routing?: 'sequence' | { readonly topK: number };
}

/** MLPs of other checkpoints beside the model's own, and gates that choose between them. */
export interface AnyMoeOptions {
  readonly config: AnyMoeConfig;
  /** What the gates are trained on: CSV with columns `prompt` and `expert`, or JSON `{ rows: [{ prompt, expert }] }`. */
  readonly datasetPath?: string | undefined;
  /** Path of the layers in the checkpoints: `model.layers`. */
  readonly prefix: string;
  /** Name of the MLP in a layer: `mlp`. */
  readonly mlp: string;
  /** Folders or hub repositories of the experts 1, 2, …; 0 is the model itself. */
  readonly modelIds: readonly AdapterInput[];
  /** Layers with experts; all when empty. */
  readonly layers: readonly number[];
}

/** The options with defaults filled in. */
export interface AnyMoeSettings extends Omit<AnyMoeOptions, 'config'> {
  readonly config: Required<Omit<AnyMoeConfig, 'gateModelId' | 'lossCsvPath' | 'routing'>> &
    Pick<AnyMoeConfig, 'gateModelId' | 'lossCsvPath'>;
  /** Experts of a token; `undefined` where sequences choose. */
  readonly topK: number | undefined;
}

/** Whether a prompt chooses its experts as a whole. */
export function choosesBySequence({ config }: AnyMoeOptions): boolean {
  return config.routing === undefined || config.routing === 'sequence';
}

const MAX_EXPERTS = 256;
const MAX_EPOCHS = 100_000;
const MAX_BATCH = 65_536;
const MAX_RANK = 4096;

const LORA = s.object({ rank: s.upTo(MAX_RANK), alpha: s.number, targetModules: s.array(s.string) });
const CONFIG = s.object({
  hiddenSize: s.count,
  lr: s.or(s.positive, 1e-3),
  epochs: s.or(s.upTo(MAX_EPOCHS), 100),
  batchSize: s.or(s.upTo(MAX_BATCH), 4),
  expertType: s.unknown,
  gateModelId: s.optional(s.string),
  training: s.or(s.boolean, true),
  lossCsvPath: s.optional(s.string),
  routing: s.unknown,
});
const OPTIONS = s.object({
  config: CONFIG,
  datasetPath: s.optional(s.string),
  prefix: s.string,
  mlp: s.string,
  modelIds: s.array(s.unknown),
  layers: s.or(s.array(s.index), []),
});

/** Reads the options. Throws `ConfigError` for what cannot be meant. */
export function anyMoeSettings(raw: AnyMoeOptions): AnyMoeSettings {
  const name = 'option anyMoe';
  const { config, ...rest } = OPTIONS.parse(raw, name);
  onlyKnown(raw, OPTIONS_KEYS, name);
  onlyKnown(raw.config, CONFIG_KEYS, `${name}.config`);
  const { expertType, gateModelId, lossCsvPath, routing, ...numbers } = config;
  if (rest.modelIds.length < 1 || rest.modelIds.length >= MAX_EXPERTS) {
    throw s.configError(`${name}.modelIds`, `1 to ${MAX_EXPERTS - 1} of them`, rest.modelIds.length);
  }
  rest.modelIds.forEach((id, i) => {
    if (!(typeof id === 'string' ? id : s.isRecord(id)))
      throw s.configError(`${name}.modelIds[${i}]`, 'a folder or a hub id', id);
  });
  if (config.training && rest.datasetPath === undefined) {
    throw s.configError(`${name}.datasetPath`, 'a file to train on, or training: false and a gateModelId', undefined);
  }
  if (!config.training && gateModelId === undefined) {
    throw s.configError(`${name}.config.gateModelId`, 'where trained gates are, as training is off', undefined);
  }
  if (lossCsvPath !== undefined && !lossCsvPath.endsWith('.csv')) {
    throw s.configError(`${name}.config.lossCsvPath`, 'a file name that ends in .csv', lossCsvPath);
  }
  return {
    ...rest,
    modelIds: rest.modelIds as readonly AdapterInput[],
    topK: topKOf(routing, rest.modelIds.length + 1, `${name}.config.routing`),
    config: {
      ...numbers,
      expertType: expertTypeOf(expertType, `${name}.config.expertType`),
      ...(gateModelId === undefined ? {} : { gateModelId }),
      ...(lossCsvPath === undefined ? {} : { lossCsvPath }),
    },
  };
}

const OPTIONS_KEYS: ReadonlySet<string> = new Set<keyof AnyMoeOptions>([
  'config',
  'datasetPath',
  'prefix',
  'mlp',
  'modelIds',
  'layers',
]);
const CONFIG_KEYS: ReadonlySet<string> = new Set<keyof AnyMoeConfig>([
  'hiddenSize',
  'lr',
  'epochs',
  'batchSize',
  'expertType',
  'gateModelId',
  'training',
  'lossCsvPath',
  'routing',
]);

function onlyKnown(value: object, known: ReadonlySet<string>, path: string): void {
  const odd = Object.keys(value).find((key) => !known.has(key));
  if (odd !== undefined) throw new ConfigError(`${path}: expected ${[...known].join(' | ')}, got ${odd}`);
}

function expertTypeOf(raw: unknown, path: string): AnyMoeExpertType {
  if (raw === 'fineTuned') return raw;
  if (s.isRecord(raw) && raw['lora'] !== undefined) return { lora: LORA.parse(raw['lora'], `${path}.lora`) };
  throw s.configError(path, '"fineTuned" or { lora: { rank, alpha, targetModules } }', raw);
}

function topKOf(raw: unknown, experts: number, path: string): number | undefined {
  if (raw === undefined || raw === 'sequence') return undefined;
  if (s.isRecord(raw)) return s.upTo(experts).parse(raw['topK'], `${path}.topK`);
  throw s.configError(path, '"sequence" or { topK }', raw);
}
