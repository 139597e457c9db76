/** Checkpoints spread over several safetensors files. */
import { FormatError, ModelLoadError } from '../errors.ts';
import type { Checkpoint, TensorInfo } from './checkpoint.ts';
import { parseJson } from './json.ts';
import type { OpenOptions } from './open.ts';
import { isHttpUrl, openSource } from './open.ts';
import { dirName, isSafeFileName, joinPath } from './path.ts';
import { readSafetensors } from './safetensors.ts';
import type { ByteSource } from './source.ts';
import { readTextFrom } from './text.ts';

/** An index has about 100 bytes per tensor; the largest published ones stay below 30 MB. */
export const MAX_INDEX_BYTES = 64_000_000;
const MAX_INDEX_VALUES = 2 ** 20;
/** The largest published checkpoints have about 300 files. */
const MAX_SHARDS = 4096;
/** Headers read at once. */
const OPEN_AT_ONCE = 8;

/** Opens a file of the checkpoint by its name. */
export type OpenShard = (name: string) => Promise<ByteSource>;

/**
 * Opens the checkpoint that an index file (`model.safetensors.index.json`) describes. Shards lie beside the index, given by path or
 * URL. Throws `ModelLoadError` when a shard is missing, `FormatError` when index and shards disagree.
 */
export async function readSafetensorsIndex(location: string, options: OpenOptions = {}): Promise<Checkpoint> {
  const index = await openSource(location, options);
  let text: string;
  try {
    text = await readTextFrom(index, MAX_INDEX_BYTES);
  } finally {
    await index.close();
  }
  const sibling = (name: string): string =>
    isHttpUrl(location) ? new URL(encodeURIComponent(name), location).href : joinPath(dirName(location), name);
  return readShards(parseIndex(text, index.name), (name) => openSource(sibling(name), options), index.name);
}

/** The `weight_map` of an index: which file holds which tensor. File names that leave the folder are refused. */
export function parseIndex(text: string, file: string): ReadonlyMap<string, string> {
  const root = parseJson(text, { name: file, duplicateKeys: 'error', maxValues: MAX_INDEX_VALUES });
  const map = (root as { weight_map?: unknown } | null)?.weight_map;
  if (typeof map !== 'object' || map === null || Array.isArray(map)) {
    throw new FormatError(`${file}: expected an object "weight_map" of tensor names to file names`);
  }
  const entries = Object.entries(map);
  const names = new Set<string>();
  for (const [tensor, name] of entries) {
    if (typeof name !== 'string' || !isSafeFileName(name)) {
      throw new FormatError(
        `${file}: weight_map[${JSON.stringify(tensor)}]: expected the name of a file beside the index, got ` +
          JSON.stringify(name)?.slice(0, 200),
      );
    }
    names.add(name);
  }
  if (names.size > MAX_SHARDS) {
    throw new FormatError(`${file}: expected at most ${MAX_SHARDS} files, got ${names.size}`);
  }
  return new Map(entries as [string, string][]);
}

/** Opens every file of a weight map and joins them. */
export async function readShards(
  weightMap: ReadonlyMap<string, string>,
  open: OpenShard,
  index: string,
): Promise<Checkpoint> {
  const checkpoint = await joinShards([...new Set(weightMap.values())].sort(), open);
  const files = new Map(checkpoint.files);
  for (const [tensor, file] of weightMap) {
    if (files.get(tensor) === file) continue;
    await checkpoint.close();
    const got = files.get(tensor) ?? 'no file';
    throw new FormatError(`${index}: tensor ${JSON.stringify(tensor)}: expected in ${file}, found in ${got}`);
  }
  return checkpoint;
}

/** A checkpoint that knows which file each tensor came from. */
interface Joined extends Checkpoint {
  readonly files: ReadonlyMap<string, string>;
  /** Tensors that were there already. */
  readonly repeated: readonly TensorInfo[];
}

/**
 * Opens several safetensors files as one checkpoint. A tensor that two of them hold throws `FormatError`, unless it is one of
 * `repeatable`.
 */
export async function joinShards(
  names: readonly string[],
  open: OpenShard,
  repeatable: ReadonlySet<string> = new Set(),
): Promise<Joined> {
  const parts: Checkpoint[] = [];
  const close = async (): Promise<void> => {
    for (const part of parts) await part.close();
  };
  try {
    for (let i = 0; i < names.length; i += OPEN_AT_ONCE) {
      const group = names.slice(i, i + OPEN_AT_ONCE).map((name) => openPart(name, open));
      for (const result of await Promise.allSettled(group)) {
        if (result.status === 'fulfilled') parts.push(result.value);
      }
      await Promise.all(group);
    }
    const tensors = new Map<string, TensorInfo>();
    const files = new Map<string, string>();
    const metadata = new Map<string, unknown>();
    const repeated: TensorInfo[] = [];
    parts.forEach((part, i) => {
      for (const [name, tensor] of part.tensors) {
        if (tensors.has(name)) {
          if (repeatable.has(name)) {
            repeated.push(tensor);
            continue;
          }
          throw new FormatError(
            `tensor ${JSON.stringify(name)}: expected in one file, found in ${files.get(name)} and ${names[i]}`,
          );
        }
        tensors.set(name, tensor);
        files.set(name, names[i]!);
      }
      for (const [key, value] of part.metadata) if (!metadata.has(key)) metadata.set(key, value);
    });
    return { tensors, metadata, files, repeated, close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function openPart(name: string, open: OpenShard): Promise<Checkpoint> {
  let source: ByteSource;
  try {
    source = await open(name);
  } catch (error) {
    if (!(error instanceof ModelLoadError)) throw error;
    throw new ModelLoadError(`shard ${name}: ${error.message}; the checkpoint is incomplete`, { cause: error });
  }
  return readSafetensors(source);
}
