/** A model's folder, wherever it lies: on disk, in memory, or on the hub. */
import { ModelLoadError } from '../errors.ts';
import type { Platform } from '../platform.ts';
import { blobSource, bytesSource } from './memory.ts';
import { baseName, joinPath } from './path.ts';
import type { ByteSource } from './source.ts';

/** Bounds of a listing, for a path that is no model folder at all. */
const MAX_LISTED_FILES = 10_000;
const MAX_LISTED_DEPTH = 3;

export interface ModelFolder {
  /** Short name: the folder's own, or the hub id. */
  readonly name: string;
  /** For messages: path or URL. */
  readonly location: string;
  /** Files by path within the folder, with `/`. */
  readonly files: readonly string[];
  /** Fetches files that are not at hand yet. */
  prepare(names: readonly string[]): Promise<void>;
  open(name: string): Promise<ByteSource>;
}

/** A folder on disk. Hidden files are left out. */
export async function localFolder(platform: Platform, path: string): Promise<ModelFolder> {
  const files = await listFiles(platform, path);
  return {
    name: baseName(path.replace(/[/\\]+$/, '')) || path,
    location: path,
    files,
    async prepare() {},
    open: (name) => platform.openFile(joinPath(path, name)),
  };
}

/** Files in memory, by name: what a browser gets from a file picker or a drop. */
export function memoryFolder(name: string, files: Readonly<Record<string, Blob | Uint8Array>>): ModelFolder {
  return {
    name,
    location: name,
    files: Object.keys(files),
    async prepare() {},
    async open(file) {
      const data = Object.hasOwn(files, file) ? files[file] : undefined;
      if (data === undefined) throw new ModelLoadError(`${name}/${file}: no such file`);
      return data instanceof Uint8Array ? bytesSource(data, `${name}/${file}`) : blobSource(data, `${name}/${file}`);
    },
  };
}

/** A folder within a folder. */
export function subFolder(folder: ModelFolder, path: string): ModelFolder {
  const within = `${path}/`;
  return {
    name: baseName(path),
    location: `${folder.location}/${path}`,
    files: folder.files.filter((f) => f.startsWith(within)).map((f) => f.slice(within.length)),
    prepare: (names) => folder.prepare(names.map((n) => within + n)),
    open: (name) => folder.open(within + name),
  };
}

/** Paths of the files below a folder, links followed, in order of name. */
export async function listFiles(platform: Platform, path: string): Promise<readonly string[]> {
  const files: string[] = [];
  const visit = async (below: string, depth: number): Promise<void> => {
    const entries = [...(await platform.listDir(joinPath(path, below)))];
    entries.sort((a, b) => (a.name < b.name ? -1 : 1));
    for (const entry of entries) {
      if (files.length >= MAX_LISTED_FILES) return;
      if (entry.name.startsWith('.')) continue;
      const inner = joinPath(below, entry.name);
      const kind = entry.kind === 'other' ? (await platform.stat(joinPath(path, inner)))?.kind : entry.kind;
      if (kind === 'file') files.push(inner);
      else if (kind === 'directory' && depth < MAX_LISTED_DEPTH) await visit(inner, depth + 1);
    }
  };
  await visit('', 1);
  return files;
}
