/** X-LoRA and adapters without a classifier, as options name them. */
import { ConfigError } from '../errors.ts';
import { isRecord } from '../schema.ts';
import type { AdapterInput } from './adapters.ts';

/** In what order adapters count, and which scalings each module takes: an ordering file of X-LoRA, or the same here. */
export interface Ordering {
  /** Names of the adapters' folders; those of the configuration when absent. */
  readonly order?: readonly string[];
  /** Number of the scalings of each module, by its path in the model; needed where every module has its own. */
  readonly layers?: Readonly<Record<string, number>>;
  /** Must be that of the configuration where both are given. */
  readonly baseModelId?: string;
  /** Refused: adapters for single requests are loaded with `loraAdapters`. */
  readonly preloadAdapters?: readonly unknown[];
}

/** An X-LoRA: adapters that a classifier mixes anew for every token. */
export interface XLoraOptions {
  /** Folder or hub repository (or the files): configuration and classifier as `xlora` names them, and the adapters' folders. */
  readonly modelId: AdapterInput;
  /** The ordering, or the path of its JSON file. */
  readonly ordering?: Ordering | string;
  /** After so many tokens of an answer the mixture stays as it is, and tokens take one pass instead of two. */
  readonly tgtNonGranularIndex?: number;
  /** Of a hub repository. */
  readonly revision?: string;
}

/** Adapters that are all added to a model for good, each with the weight it was trained for. */
export interface LegacyLoraOptions extends Pick<XLoraOptions, 'modelId' | 'ordering' | 'revision'> {}

const XLORA: ReadonlySet<string> = new Set<keyof XLoraOptions>([
  'modelId',
  'ordering',
  'tgtNonGranularIndex',
  'revision',
]);
const LEGACY: ReadonlySet<string> = new Set<keyof LegacyLoraOptions>(['modelId', 'ordering', 'revision']);
const MAX_TOKENS = 2 ** 31;

/** Throws `ConfigError` for options that cannot be meant. */
export function checkXLora(xlora: unknown, legacy: unknown): void {
  if (xlora !== undefined) checkSource('xlora', xlora, XLORA);
  if (legacy !== undefined) checkSource('legacyLora', legacy, LEGACY);
  const index = (xlora as Partial<XLoraOptions> | undefined)?.tgtNonGranularIndex;
  if (index !== undefined && !(Number.isSafeInteger(index) && index >= 0 && index < MAX_TOKENS)) {
    throw new ConfigError(`option xlora.tgtNonGranularIndex: expected a whole number from 0 on, got ${index}`);
  }
}

function checkSource(name: string, value: unknown, keys: ReadonlySet<string>): void {
  const { modelId, ordering, revision } = isRecord(value) ? value : {};
  const source = (typeof modelId === 'string' && modelId !== '') || (typeof modelId === 'object' && modelId !== null);
  const order = ordering === undefined || typeof ordering === 'string' || isRecord(ordering);
  if (!source || !order || (revision !== undefined && typeof revision !== 'string')) {
    throw new ConfigError(
      `option ${name}: expected { ${[...keys].map((k) => (k === 'modelId' ? k : `${k}?`)).join(', ')} }`,
    );
  }
  const odd = Object.keys(value as object).find((key) => !keys.has(key));
  if (odd !== undefined) throw new ConfigError(`option ${name}: expected ${[...keys].join(' | ')}, got ${odd}`);
}
