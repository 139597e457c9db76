/** Adapters that a model is loaded with for good: those that an X-LoRA classifier mixes, and those that simply add up. */
import type { Backend } from './core/backend.ts';
import { ConfigError } from './core/errors.ts';
import { type ModelFolder, subFolder } from './core/io/folder.ts';
import { parseJson } from './core/io/json.ts';
import { readSafetensors } from './core/io/safetensors.ts';
import { decodeUtf8Strict } from './core/io/text.ts';
import { sourceTensors } from './core/io/weightSource.ts';
import { loraError } from './core/lora/error.ts';
import { type AdapterFiles, guarded, openAdapter, withFile } from './core/lora/files.ts';
import { DEFAULT_LORA_LIMITS } from './core/lora/runtime.ts';
import { type StackedAdapters, stackAdapters } from './core/lora/stack.ts';
import type { Decoder } from './core/model.ts';
import type { Platform } from './core/platform.ts';
import { maxRowsOf, maxSequencesOf } from './core/sdk/cacheSize.ts';
import type { LoadOptions } from './core/sdk/options.ts';
import type { Releases } from './core/sdk/releases.ts';
import type { LegacyLoraOptions } from './core/sdk/xlora.ts';
import type { Weight } from './core/weight.ts';
import { attachScaled, columnsByModule } from './core/xlora/attach.ts';
import { Classifier } from './core/xlora/classifier.ts';
import {
  type AdapterOrdering,
  MAX_XLORA_JSON_BYTES,
  parseOrdering,
  parseXLoraConfig,
  type XLoraConfig,
} from './core/xlora/config.ts';
import { XLoraPasses } from './core/xlora/passes.ts';
import { adapterFolder } from './loadLora.ts';
import { dequantizeInto } from './quant/index.ts';

const CONFIG = 'xlora_config.json';
const CLASSIFIER = 'xlora_classifier.safetensors';
const ADAPTER = 'adapter_config.json';
const codec = { dequantizeInto };

interface Base {
  readonly platform: Platform;
  readonly backend: Backend;
  readonly decoder: Decoder;
  readonly weights: Iterable<Weight>;
  readonly releases: Releases;
}

/**
 * Loads what `xlora` or `legacyLora` name. Resolves to what runs in the place of the model, for an X-LoRA. Rejects with
 * `LoraAdapterError`, `ConfigError` or `FormatError`.
 */
export async function loadOrdered(options: LoadOptions, base: Base): Promise<XLoraPasses | undefined> {
  const { xlora, legacyLora } = options;
  if (xlora !== undefined) return loadXLora(options, base, xlora.tgtNonGranularIndex);
  if (legacyLora === undefined) return undefined;
  const { folder, ordering } = await openFolder('legacyLora', legacyLora, options, base.platform);
  const names = ordering.order ?? [''];
  const stacks = await openStacks(folder, names, base, 1);
  await attach(base, stacks);
  return undefined;
}

async function loadXLora(options: LoadOptions, base: Base, freezeAfter: number | undefined): Promise<XLoraPasses> {
  const { backend, decoder, releases } = base;
  const { folder, ordering } = await openFolder('xlora', options.xlora!, options, base.platform);
  const configFile = find(folder, CONFIG);
  const classifierFile = find(folder, CLASSIFIER);
  await guarded('io', folder.location, () => folder.prepare([configFile, classifierFile]));
  const raw = await withFile(folder, configFile, MAX_XLORA_JSON_BYTES, async (source) =>
    parseJson(decodeUtf8Strict(await source.slice(0, source.size), source.name), { name: source.name }),
  );
  const config = parseXLoraConfig(raw, CONFIG);
  checkBase(config, ordering);
  const names = ordering.order ?? config.adapters;
  if (names.length === 0) {
    throw new ConfigError(`${CONFIG}: adapters: expected names of adapters, or \`order\` in the ordering, got none`);
  }
  const classifier = await withFile(folder, classifierFile, DEFAULT_LORA_LIMITS.maxBytes, async (source) =>
    Classifier.load({
      backend,
      codec,
      tensors: sourceTensors(await readSafetensors(source)),
      config,
      adapters: names.length,
      hidden: decoder.hidden,
    }),
  );
  const passes = new XLoraPasses({
    backend,
    decoder,
    classifier,
    passValue: config.passValue,
    freezeAfter,
    maxRows: maxRowsOf(options),
    maxSequences: maxSequencesOf(options),
  });
  releases.add(() => passes.dispose());
  const columnOf = columnsByModule(ordering.layers, names.length, classifier.modules);
  const stacks = await openStacks(folder, names, base, config.globalWeight);
  await attach(base, stacks, { rows: passes, columnOf });
  return passes;
}

async function attach(base: Base, stacks: StackedAdapters[], scaling?: Parameters<typeof attachScaled>[2]) {
  const deltas = await attachScaled(stacks, base.backend, scaling);
  base.releases.add(() => {
    for (const delta of deltas) delta.dispose();
  });
}

async function openFolder(name: string, source: LegacyLoraOptions, options: LoadOptions, platform: Platform) {
  const { modelId, revision } = source;
  const raw =
    typeof source.ordering === 'string'
      ? parseJson(await platform.readText(source.ordering, MAX_XLORA_JSON_BYTES), { name: source.ordering })
      : (source.ordering ?? {});
  const ordering = parseOrdering(raw, typeof source.ordering === 'string' ? source.ordering : 'ordering');
  return { folder: await adapterFolder(name, modelId, revision, options, platform), ordering };
}

function checkBase(config: XLoraConfig, ordering: AdapterOrdering): void {
  const { baseModelId } = ordering;
  if (baseModelId === undefined || config.baseModelId === undefined || baseModelId === config.baseModelId) return;
  throw new ConfigError(
    `xlora ordering: baseModelId: expected ${JSON.stringify(config.baseModelId)} as in ${CONFIG}, got ${JSON.stringify(baseModelId)}`,
  );
}

/** The file at the top, else the only one below. */
function find(folder: ModelFolder, name: string): string {
  if (folder.files.includes(name)) return name;
  const found = folder.files.filter((f) => f.endsWith(`/${name}`));
  if (found.length === 1) return found[0]!;
  throw loraError(
    'io',
    `${folder.location}: expected one ${name}, got ${found.length === 0 ? 'none' : found.slice(0, 3).join(', ')}`,
  );
}

async function openStacks(
  folder: ModelFolder,
  names: readonly string[],
  { platform, backend, weights }: Base,
  scale: number,
): Promise<StackedAdapters[]> {
  const opened: AdapterFiles[] = [];
  try {
    for (const name of names) {
      const at = adapterAt(folder, name, names.length === 1);
      const files = await openAdapter(at, () => platform.hasher('sha256'), DEFAULT_LORA_LIMITS.maxBytes);
      opened.push(files);
    }
    return await stackAdapters(opened, { backend, weights, codec, scale });
  } finally {
    for (const files of opened) await files.close();
  }
}

/** The folder of one adapter. A lone one may lie at the top; the empty name says that it does. */
function adapterAt(folder: ModelFolder, name: string, alone: boolean): ModelFolder {
  if (name === '') return folder;
  const ends = `${name}/${ADAPTER}`;
  const found = folder.files.filter((f) => f === ends || f.endsWith(`/${ends}`));
  if (found.length === 1) return subFolder(folder, found[0]!.slice(0, -ADAPTER.length - 1));
  if (found.length === 0 && alone && folder.files.includes(ADAPTER)) return folder;
  const got = found.length > 1 ? found.slice(0, 3).join(', ') : 'none';
  throw loraError('io', `${folder.location}: expected one folder ${JSON.stringify(name)} with ${ADAPTER}, got ${got}`);
}
