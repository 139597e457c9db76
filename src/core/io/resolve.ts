/** From what a user names — a folder, a file, a hub id — to the files of a model. */
import { ModelLoadError, StorageError, UnsupportedError } from '../errors.ts';
import type { Platform } from '../platform.ts';
import type { ModelAssets } from './assets.ts';
import { ASSET_NAMES, assetNames, modelAssets, readTextFile } from './assets.ts';
import type { Checkpoint } from './checkpoint.ts';
import type { ModelFolder } from './folder.ts';
import { localFolder } from './folder.ts';
import type { GgufCheckpoint } from './gguf.ts';
import { readGguf, splitName, splitPart } from './gguf.ts';
import type { HubOptions } from './hub.ts';
import { isHubId, openHubRepo } from './hub.ts';
import { expandHome } from './hubSettings.ts';
import { isHttpUrl, openSource, pathOfFileUrl } from './open.ts';
import { baseName, dirName, joinPath } from './path.ts';
import { readSafetensors } from './safetensors.ts';
import { joinShards, MAX_INDEX_BYTES, parseIndex, readShards } from './shards.ts';
import type { ByteSource } from './source.ts';
import { openUqff, type UqffCheckpoint } from './uqff.ts';
import type { UqffChoice } from './uqffFiles.ts';
import { MAX_REPORT_BYTES, parseUqffReport, UQFF_REPORT, type UqffReport } from './uqffReport.ts';
import type { WeightFiles } from './weightFiles.ts';
import { chooseWeights } from './weightFiles.ts';

export interface ResolveOptions extends HubOptions {
  /** Names of weight files in the folder or repository, where there is a choice. */
  readonly files?: readonly string[] | undefined;
  /** UQFF files or types, where there is a choice; each stands for its whole set. */
  readonly uqff?: readonly UqffChoice[] | undefined;
}

/** A model's weights, opened, and its small files. */
export type ModelFiles = ModelAssets & { close(): Promise<void> } & (
    | { readonly kind: 'hf'; readonly checkpoint: Checkpoint }
    | { readonly kind: 'gguf'; readonly checkpoint: GgufCheckpoint }
    | { readonly kind: 'uqff'; readonly checkpoint: UqffCheckpoint; readonly residual: Checkpoint }
  );

/**
 * Finds a model and opens its weights: a folder in Hugging Face layout or with GGUF or UQFF files, a `.gguf`, `.uqff` or
 * `.safetensors` file, a `.gguf` URL, or a hub id (`org/name`), which is downloaded. Only headers of weights are read.
 * Throws `ModelLoadError` that says what was looked for.
 */
export async function resolveModel(input: string | ModelFolder, options: ResolveOptions): Promise<ModelFiles> {
  if (typeof input === 'string' && isHttpUrl(input)) return resolveUrl(input, options);
  const { folder, files } = await findFolder(input, options);
  const report = await uqffReport(folder);
  const weights = chooseWeights(folder, { files: options.files ?? files, uqff: options.uqff, report });
  const assets = modelAssets(folder);
  await folder.prepare([...assetNames(folder), ...namesOf(weights)]);
  if (weights.kind === 'gguf') return withGguf(assets, await openGguf(folder, weights.names));
  if (weights.kind === 'uqff') return withUqff(assets, folder, weights);
  const checkpoint = await openSafetensors(folder, weights);
  return { ...assets, kind: 'hf', checkpoint, close: () => checkpoint.close() };
}

function namesOf(weights: WeightFiles): readonly string[] {
  if (weights.kind === 'index') return [weights.name];
  return weights.kind === 'uqff' ? [...weights.names, weights.residual] : weights.names;
}

/** What a folder says of its UQFF files. */
export async function uqffReport(folder: ModelFolder): Promise<UqffReport | undefined> {
  if (!folder.files.includes(UQFF_REPORT)) return undefined;
  await folder.prepare([UQFF_REPORT]);
  const text = (await readTextFile(folder, UQFF_REPORT, MAX_REPORT_BYTES)) ?? '';
  return parseUqffReport(text, joinPath(folder.location, UQFF_REPORT), folder.files);
}

async function withUqff(
  assets: ModelAssets,
  folder: ModelFolder,
  { names, residual: rest }: Extract<WeightFiles, { kind: 'uqff' }>,
): Promise<ModelFiles> {
  const open = (name: string): Promise<ByteSource> => folder.open(name);
  const checkpoint = await openUqff(names, open);
  try {
    const residual = await readSafetensors(await open(rest));
    const close = async (): Promise<void> => {
      await checkpoint.close();
      await residual.close();
    };
    return { ...assets, kind: 'uqff', checkpoint, residual, close };
  } catch (error) {
    await checkpoint.close();
    throw error;
  }
}

/** The small files of a model, without its weights: tokenizer or template taken from another repository. */
export async function resolveAssets(input: string | ModelFolder, options: ResolveOptions): Promise<ModelAssets> {
  const { folder } = await findFolder(input, options);
  await folder.prepare(assetNames(folder));
  return modelAssets(folder);
}

interface Found {
  readonly folder: ModelFolder;
  /** Set when the input named a file. */
  readonly files?: readonly string[] | undefined;
}

async function findFolder(input: string | ModelFolder, options: ResolveOptions): Promise<Found> {
  if (typeof input !== 'string') return { folder: input };
  const { platform } = options;
  if (platform.hasFiles) {
    const path = input.startsWith('file:') ? pathOfFileUrl(input) : expandHome(platform, input);
    const info = await platform.stat(path);
    if (info?.kind === 'directory') return { folder: await localFolder(platform, path) };
    if (info?.kind === 'file') return fileAlone(path, platform);
  }
  if (isHubId(input)) {
    try {
      return { folder: await openHubRepo(input, options) };
    } catch (error) {
      if (!platform.hasFiles || !(error instanceof ModelLoadError) || error instanceof StorageError) throw error;
      throw new ModelLoadError(`model ${JSON.stringify(input)}: no such folder here; as a hub id: ${error.message}`, {
        cause: error,
      });
    }
  }
  throw new ModelLoadError(
    `model ${JSON.stringify(input.slice(0, 500))}: expected a folder, a .gguf, .uqff or .safetensors file, or a hub id (org/name); ` +
      `${platform.hasFiles ? 'there is no such path, and it' : 'it'} is no hub id`,
  );
}

/** A weight file named by itself: what else lies in its folder may belong to other models. */
async function fileAlone(path: string, platform: Platform): Promise<Found> {
  const name = baseName(path);
  // Everything else of such a model lies beside it.
  if (name.endsWith('.uqff')) return { folder: await localFolder(platform, dirName(path)), files: [name] };
  if (!/\.(gguf|safetensors)$/.test(name)) {
    throw new UnsupportedError(`${path}: expected a .gguf, .uqff or .safetensors file, got ${name}`, {
      feature: 'weight format',
    });
  }
  const split = splitName(name);
  const files = split ? Array.from({ length: split.count }, (_, i) => splitPart(split, i + 1)) : [name];
  const folder: ModelFolder = {
    name: name.replace(/\.(gguf|safetensors)$/, ''),
    location: path,
    files,
    async prepare() {},
    open: (file) => platform.openFile(joinPath(dirName(path), file)),
  };
  if (name.endsWith('.gguf')) return { folder, files };
  // Without the configuration beside it, a safetensors file says nothing about its model.
  const beside = new Set((await platform.listDir(dirName(path))).map((entry) => entry.name));
  return { folder: { ...folder, files: [name, ...ASSET_NAMES.filter((asset) => beside.has(asset))] }, files };
}

async function resolveUrl(url: string, options: ResolveOptions): Promise<ModelFiles> {
  const path = url.replace(/[?#].*$/s, '');
  if (!path.endsWith('.gguf')) throw new UnsupportedError(`${path}: expected the URL of a .gguf file`);
  const checkpoint = await readGguf(url, options);
  const folder: ModelFolder = {
    name: baseName(path).slice(0, -'.gguf'.length),
    location: path,
    files: [],
    async prepare() {},
    open: (file) => openSource(new URL(file, path), options),
  };
  return withGguf(modelAssets(folder), checkpoint);
}

function withGguf(assets: ModelAssets, checkpoint: GgufCheckpoint): ModelFiles {
  return {
    ...assets,
    kind: 'gguf',
    checkpoint,
    async chatTemplate() {
      const own = checkpoint.metadata.get('tokenizer.chat_template');
      return (await assets.chatTemplate()) ?? (typeof own === 'string' ? own : undefined);
    },
    close: () => checkpoint.close(),
  };
}

async function openGguf(folder: ModelFolder, names: readonly string[]): Promise<GgufCheckpoint> {
  const sources: ByteSource[] = [];
  try {
    for (const name of names) sources.push(await folder.open(name));
    return await readGguf(sources);
  } catch (error) {
    for (const source of sources) await source.close();
    throw error;
  }
}

async function openSafetensors(
  folder: ModelFolder,
  weights: Exclude<WeightFiles, { kind: 'gguf' | 'uqff' }>,
): Promise<Checkpoint> {
  const open = (name: string): Promise<ByteSource> => folder.open(name);
  if (weights.kind === 'safetensors') {
    return weights.names.length === 1
      ? readSafetensors(await open(weights.names[0]!))
      : joinShards(weights.names, open);
  }
  const file = joinPath(folder.location, weights.name);
  const map = parseIndex((await readTextFile(folder, weights.name, MAX_INDEX_BYTES)) ?? '', file);
  await folder.prepare([...new Set(map.values())]);
  return readShards(map, open, file);
}
