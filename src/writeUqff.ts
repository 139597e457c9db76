/** Writes a model as UQFF files: one set for each type, and everything else that a model's folder holds. */
import { createBackend } from './backend.ts';
import { AbortError, ConfigError, UnsupportedError } from './core/errors.ts';
import { assetNames, type ModelAssets } from './core/io/assets.ts';
import { baseName, dirName, joinPath } from './core/io/path.ts';
import { Staging } from './core/io/publish.ts';
import { type ModelFiles, resolveAssets } from './core/io/resolve.ts';
import { stemOf } from './core/io/uqffFiles.ts';
import {
  MAX_REPORT_BYTES,
  parseUqffReport,
  UQFF_REPORT,
  type UqffOutput,
  type UqffReport,
} from './core/io/uqffReport.ts';
import { MAX_SHARD_BYTES, METADATA, tensorBytes, uqffShards, writeFiles, writeStreams } from './core/io/uqffWrite.ts';
import { RESIDUAL } from './core/io/weightFiles.ts';
import type { Platform } from './core/platform.ts';
import { isRecord } from './core/schema.ts';
import type { ModelSpec } from './core/sdk/options.ts';
import type { QuantReport } from './core/sdk/quantReport.ts';
import { Weights } from './core/weights.ts';
import { findModel, resolveOptions } from './findModel.ts';
import { isqSettings } from './isq.ts';
import { withImportance } from './measureImportance.ts';
import { buildDecoder } from './models/arch.ts';
import { archOf } from './models/registry.ts';
import { sourceOfModel } from './openDecoder.ts';
import { detectPlatform } from './platform/detect.ts';
import { dequantizeInto } from './quant/index.ts';
import { Isq } from './quant/isq/index.ts';
import { Packers } from './quant/isq/packers.ts';
import { expandIsq, type IsqType, isqLabel, parseIsq } from './quant/isq/types.ts';
import { planUqff, type UqffPlan } from './quant/uqff/modules.ts';
import type { QuantizeModelOptions } from './quantize.ts';
import { modelCard } from './uqffCard.ts';

export interface WriteUqffOptions extends Omit<QuantizeModelOptions, 'isq' | 'autoIsq'> {
  /** Types or numbers of bits. In a folder, a number of bits stands for one type of each family. */
  readonly types: readonly (string | number)[];
  /** What the model was made of, for the report and the card. */
  readonly baseModel?: string | undefined;
  /** Where the files will be published. */
  readonly repoId?: string | undefined;
  /** Another folder or repository for tokenizer and chat template: of GGUF files, which hold them in another form. */
  readonly tokModelId?: string | undefined;
  /** Writes no README.md into a folder. */
  readonly noReadme?: boolean | undefined;
  /** A set continues in another file before one would be larger; 10 GiB when absent. */
  readonly maxShardBytes?: number | undefined;
}

/** One set of files. */
interface Target {
  readonly type: IsqType;
  /** File names without number and ending. */
  readonly stem: string;
}

interface Targets {
  readonly folder: string;
  readonly sets: readonly Target[];
  /** The folder belongs to these files alone. */
  readonly dedicated: boolean;
}

/** Small files that belong to the sets of a folder. */
const MANAGED: readonly string[] = [
  ...[RESIDUAL, UQFF_REPORT, 'config.json', 'modules.json', 'tokenizer.json', 'tokenizer_config.json'],
  ...['chat_template.jinja', 'generation_config.json', 'processor_config.json', 'preprocessor_config.json'],
];

/**
 * Writes a model (anything `loadModel` takes) as UQFF files: `output` is a file that ends in `.uqff`, for one type, or a
 * folder. Matrices are quantized one after the other; files that are there already stay until everything is written.
 * @throws ConfigError for types and places that do not fit, UnsupportedError for formats that UQFF has no place for, AbortError.
 */
export async function writeUqff(
  spec: ModelSpec,
  output: string,
  asked: WriteUqffOptions,
): Promise<readonly QuantReport[]> {
  const platform = await detectPlatform();
  const targets = targetsOf(output, asked.types);
  await checkFolder(platform, targets.folder);
  const options = await withImportance(spec, asked);
  const files = await findModel(spec, options, platform);
  const packers = new Packers({ threads: options.threads ?? platform.hardwareConcurrency() });
  const staging = new Staging(platform, targets.folder);
  try {
    if (files.kind === 'uqff') {
      throw new ConfigError(
        `${files.location}: expected a model that is no UQFF yet, got one; take the original model`,
      );
    }
    const reports = await write(files, targets, options, { platform, packers, staging });
    await staging.publish(await obsolete(platform, targets));
    return reports;
  } catch (error) {
    await staging.discard();
    if (options.signal?.aborted) throw new AbortError('writing was cancelled', { cause: options.signal.reason });
    throw error;
  } finally {
    await packers.dispose();
    await files.close();
  }
}

function targetsOf(output: string, asked: readonly (string | number)[]): Targets {
  const file = output.endsWith('.uqff');
  const types = asked.flatMap((t) => (file && asked.length === 1 ? [parseIsq(t)] : expandIsq(t)));
  const twice = types.find((t, i) => types.indexOf(t) !== i);
  if (types.length === 0) throw new ConfigError('types: expected at least one, got none');
  if (twice) throw new ConfigError(`types: expected each once, got ${twice} twice`);
  if (/\.\w+$/.test(baseName(output)) && !file) {
    throw new ConfigError(`output: expected a name that ends in .uqff, or a folder, got ${output}`);
  }
  if (!file) return { folder: output, sets: types.map((type) => ({ type, stem: isqLabel(type) })), dedicated: true };
  const [type, ...more] = types as [IsqType, ...IsqType[]];
  if (more.length > 0) throw new ConfigError(`output: expected a folder for ${types.length} types, got ${output}`);
  const stem = baseName(output).slice(0, -'.uqff'.length);
  return { folder: dirName(output), sets: [{ type, stem: stemOf(baseName(output)) ?? stem }], dedicated: false };
}

/** A folder that holds another model is left alone: its configuration would be replaced. */
async function checkFolder(platform: Platform, folder: string): Promise<void> {
  const has = (name: string) => platform.exists(joinPath(folder, name));
  if (!(await has('config.json')) || (await has(UQFF_REPORT)) || (await has(RESIDUAL))) return;
  throw new ConfigError(
    `${folder}: expected a new folder or one of UQFF files, got one with a config.json; choose another`,
  );
}

interface Means {
  readonly platform: Platform;
  readonly packers: Packers;
  readonly staging: Staging;
}

async function write(
  files: ModelFiles,
  { sets, dedicated }: Targets,
  options: WriteUqffOptions,
  { platform, packers, staging }: Means,
): Promise<readonly QuantReport[]> {
  const started = performance.now();
  const { config, source } = await sourceOfModel(files);
  const assets =
    options.tokModelId === undefined
      ? files
      : await resolveAssets(options.tokModelId, { ...resolveOptions(options, platform), files: undefined });
  await checkTokenizer(files, assets);
  const arch = await archOf(config);
  const backend = await createBackend('reference', {}, platform);
  const weights = Weights.open({ backend, source, codec: { dequantizeInto } });
  try {
    // Built, not loaded: it says which tensors are matrices, and which of those belong to experts.
    buildDecoder(arch, weights, arch.config(config));
    const planned: { readonly set: Target; readonly isq: Isq; readonly plan: UqffPlan }[] = [];
    for (const set of sets) {
      const settings = await isqSettings({ ...options, isq: set.type }, platform, config);
      const isq = new Isq(settings!, packers, settings?.importance);
      const plan = planUqff(weights.matrices, source, isq);
      isq.check();
      planned.push({ set, isq, plan });
    }
    const residual = planned[0]!.plan.residual;
    const all = [...planned.flatMap(({ plan }) => plan.modules), ...residual].flatMap((s) => s.tensors);
    const total = all.reduce((n, t) => n + tensorBytes(t), 0);
    let done = 0;
    const progress = (bytes: number, item: string): void => {
      options.signal?.throwIfAborted();
      done = Math.min(total, done + bytes);
      options.onProgress?.({ stage: 'quantize', done, total, unit: 'bytes', item });
    };
    const reports: QuantReport[] = [];
    const outputs: UqffOutput[] = [];
    for (const { set, isq, plan } of planned) {
      const { versions, shards } = uqffShards(plan.modules, options.maxShardBytes ?? MAX_SHARD_BYTES);
      const names = shards.map((_, i) => `${set.stem}-${i}.uqff`);
      const places = shards.map((tensors, i) => ({ path: staging.path(names[i]!), tensors }));
      await writeFiles(platform, places, [...versions, ...plan.modules], progress);
      outputs.push(outputOf(set.type, names, plan));
      reports.push(isq.report((performance.now() - started) / 1000));
    }
    await writeStreams(platform, staging.path(RESIDUAL), residual, progress);
    const report: UqffReport = {
      schema: 1,
      generated_by: { tool: 'tramontane quantize', mistralrs_version: undefined, git_revision: undefined },
      base_model: options.baseModel,
      repo_id: options.repoId,
      uqff_version: METADATA['uqff.version'] as string,
      outputs,
    };
    await writeAssets(assets, config, platform, staging);
    await platform.writeFile(staging.path(UQFF_REPORT), json(report));
    if (dedicated && !options.noReadme) {
      await platform.writeFile(staging.path('README.md'), modelCard(files.name, report));
    }
    return reports;
  } finally {
    weights.dispose();
    await backend.dispose();
  }
}

function outputOf(type: IsqType, shards: readonly string[], { modules }: UqffPlan): UqffOutput {
  const counts: Record<string, number> = {};
  for (const { stored } of modules) counts[stored] = (counts[stored] ?? 0) + 1;
  const fallbacks = modules.flatMap(({ name, shape, stored, decision: d }) =>
    d && d.target !== d.resolved
      ? [{ module: name, from: isqLabel(d.resolved), to: stored, shape, reason: `rows of ${shape.at(-1)} columns` }]
      : [],
  );
  return {
    quant: isqLabel(type),
    shards,
    layers: modules.length,
    actual_counts: counts,
    fallback_count: fallbacks.length,
    fallbacks,
    layer_details: modules.map(({ name, shape, stored, decision: d }) => ({
      module: name,
      default_target: d && isqLabel(type),
      resolved_target: d && isqLabel(d.resolved),
      stored,
      shape,
    })),
  };
}

const json = (value: unknown): string => `${JSON.stringify(value, undefined, 2)}\n`;

/** GGUF files hold their tokenizer in a form of their own. */
async function checkTokenizer(files: ModelFiles, assets: ModelAssets): Promise<void> {
  if (files.kind !== 'gguf' || !files.checkpoint.metadata.has('tokenizer.ggml.model')) return;
  if ((await assets.tokenizerJson()) !== undefined) return;
  throw new UnsupportedError(
    `${files.location}: expected a tokenizer.json, which GGUF files do not have; name the original model in tokModelId`,
    { feature: 'tokenizers of GGUF files in UQFF' },
  );
}

/** Names under which configurations say how their weights are packed, which they are not any more. */
const PACKED = new Set(['quantization_config', 'compression_config', 'quantization']);

async function writeAssets(assets: ModelAssets, config: unknown, platform: Platform, staging: Staging): Promise<void> {
  await platform.writeFile(staging.path('config.json'), json(plain(config)));
  for (const name of assetNames(assets)) {
    const text = name === 'config.json' ? undefined : await assets.readText(name);
    if (text !== undefined) await platform.writeFile(staging.path(name), text);
  }
}

function plain(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(plain);
  if (!isRecord(value)) return value;
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, inner]) => (PACKED.has(key) && isRecord(inner) ? [] : [[key, plain(inner)]])),
  );
}

/** Files of earlier sets of the same names, and of the folder where it belongs to them. */
async function obsolete(platform: Platform, { folder, sets, dedicated }: Targets): Promise<readonly string[]> {
  const names = (await platform.stat(folder)) ? (await platform.listDir(folder)).map((entry) => entry.name) : [];
  const stems = new Set(sets.map((s) => s.stem));
  const numbered = (name: string) => stems.has(stemOf(name) ?? '');
  const reported = (await earlierReport(platform, folder, names))?.outputs.flatMap((o) => o.shards) ?? [];
  const owned = dedicated || reported.some(numbered);
  return [...names.filter(numbered), ...(owned ? [...MANAGED, ...reported] : [])];
}

/** The report of what the folder holds now; one that is damaged says nothing. */
async function earlierReport(
  platform: Platform,
  folder: string,
  names: readonly string[],
): Promise<UqffReport | undefined> {
  if (!names.includes(UQFF_REPORT)) return undefined;
  const path = joinPath(folder, UQFF_REPORT);
  try {
    return parseUqffReport(await platform.readText(path, MAX_REPORT_BYTES), path, names);
  } catch {
    return undefined;
  }
}
