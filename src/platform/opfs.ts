/** Files of a browser: the origin private file system, where a cache survives the page. */
import { FormatError, ModelLoadError, messageOf, UnsupportedError } from '../core/errors.ts';
import { blobSource } from '../core/io/memory.ts';
import type { ByteSource } from '../core/io/source.ts';
import type { DirEntry, FileWriter, PathInfo, Platform } from '../core/platform.ts';
import { openOpfsWriter, opfsError } from './opfsWriter.ts';

/** The file system has no links: one is a small file of this ending that holds the path of its target. */
const LINK = '.~link';
const MAX_LINK_BYTES = 4096;
/** Links that lead to links. */
const MAX_HOPS = 4;

/** What TypeScript's library does not know: `move` and iteration, which every engine with such a file system has. */
type FileHandle = FileSystemFileHandle & { move(folder: FileSystemDirectoryHandle, name: string): Promise<void> };
type FolderHandle = FileSystemDirectoryHandle & AsyncIterable<[string, FileSystemHandle]>;

export interface OpfsParts {
  readonly root: () => Promise<FileSystemDirectoryHandle>;
  readonly openWriter: (parts: readonly string[]) => Promise<FileWriter>;
  readonly estimate: () => Promise<StorageEstimate>;
}

const browserParts: OpfsParts = {
  root: async () => navigator.storage.getDirectory(),
  openWriter: openOpfsWriter,
  estimate: async () => navigator.storage.estimate(),
};

/**
 * A browser's platform with files. Paths start at the root of the origin's private file system, which is the home folder
 * too. Its methods reject with `UnsupportedError` where the browser has none (pages without TLS, some private windows), and
 * with `StorageError` when the quota is used up.
 */
export function opfsPlatform(base: Platform, parts: OpfsParts = browserParts): Platform {
  const fs = new Opfs(parts);
  return {
    ...base,
    hasFiles: true,
    openFile: (path) => fs.openFile(path),
    stat: (path) => fs.stat(path),
    exists: async (path) => (await fs.stat(path)) !== undefined,
    listDir: (path) => fs.listDir(path),
    readText: (path, maxBytes) => fs.readText(path, maxBytes),
    writeFile: (path, data) => fs.writeFile(path, data),
    openWriter: (path) => fs.openWriter(path),
    rename: (from, to) => fs.rename(from, to),
    remove: (path) => fs.remove(path),
    async link(target, path) {
      await fs.remove(path);
      await fs.writeFile(path + LINK, `/${partsOf(target).join('/')}`);
    },
    realPath: async (path) => `/${(await fs.resolve(path)).join('/')}`,
    async freeSpace() {
      const { quota, usage } = await parts.estimate();
      return quota === undefined ? undefined : Math.max(0, quota - (usage ?? 0));
    },
    homeDir: () => '/',
  };
}

class Opfs {
  readonly #parts: OpfsParts;
  #root: Promise<FileSystemDirectoryHandle> | undefined;

  constructor(parts: OpfsParts) {
    this.#parts = parts;
  }

  async openFile(path: string): Promise<ByteSource> {
    const handle = await this.#find(await this.resolve(path));
    if (handle === undefined) throw new ModelLoadError(`${path}: no such file`);
    if (handle.kind === 'directory') throw new ModelLoadError(`${path}: expected a file, got a folder`);
    return blobSource(await wrap(path, (handle as FileSystemFileHandle).getFile()), path);
  }

  async stat(path: string): Promise<PathInfo | undefined> {
    const handle = await this.#find(await this.resolve(path));
    if (handle === undefined) return undefined;
    if (handle.kind === 'directory') return { kind: 'directory', size: 0 };
    return { kind: 'file', size: (await wrap(path, (handle as FileSystemFileHandle).getFile())).size };
  }

  async listDir(path: string): Promise<readonly DirEntry[]> {
    const folder = await this.#folder(partsOf(path), false);
    if (folder === undefined) throw new ModelLoadError(`${path}: no such file or folder`);
    const entries: DirEntry[] = [];
    for await (const [name, { kind }] of folder as FolderHandle) {
      entries.push(name.endsWith(LINK) ? { name: name.slice(0, -LINK.length), kind: 'other' } : { name, kind });
    }
    return entries;
  }

  async readText(path: string, maxBytes: number): Promise<string> {
    const source = await this.openFile(path);
    if (source.size > maxBytes) {
      throw new FormatError(`${path}: expected at most ${maxBytes} bytes of text, got ${source.size}`);
    }
    return new TextDecoder().decode(await source.slice(0, source.size));
  }

  async writeFile(path: string, data: string | Uint8Array): Promise<void> {
    const temporary = `${path}.${Math.random().toString(36).slice(2, 10)}.tmp`;
    const writer = await this.openWriter(temporary);
    try {
      await writer.write(0, typeof data === 'string' ? new TextEncoder().encode(data) : data);
    } finally {
      await writer.close();
    }
    await this.rename(temporary, path);
  }

  openWriter(path: string): Promise<FileWriter> {
    return wrap(path, this.#parts.openWriter(partsOf(path)));
  }

  async rename(from: string, to: string): Promise<void> {
    const handle = await this.#find(partsOf(from));
    if (handle?.kind !== 'file') throw new ModelLoadError(`${from}: no such file`);
    const target = partsOf(to);
    const folder = await this.#folder(target.slice(0, -1), true);
    // Not every engine lets a file take another's place.
    await this.remove(to);
    await wrap(from, (handle as FileHandle).move(folder!, target.at(-1)!));
  }

  async remove(path: string): Promise<void> {
    const parts = partsOf(path);
    const folder = await this.#folder(parts.slice(0, -1), false);
    for (const name of [parts.at(-1)!, parts.at(-1)! + LINK]) await folder?.removeEntry(name).catch(ignoreAbsent(path));
  }

  /** The names on the way to a file, links followed. */
  async resolve(path: string): Promise<readonly string[]> {
    let parts = partsOf(path);
    for (let hops = 0; hops < MAX_HOPS; hops++) {
      if (parts.length === 0 || (await this.#find(parts)) !== undefined) return parts;
      const link = await this.#find([...parts.slice(0, -1), parts.at(-1)! + LINK]);
      if (link?.kind !== 'file') return parts;
      const file = await wrap(path, (link as FileSystemFileHandle).getFile());
      if (file.size > MAX_LINK_BYTES) throw new ModelLoadError(`${path}: damaged; remove it and load the model again`);
      parts = partsOf(await file.text());
    }
    throw new ModelLoadError(`${path}: expected at most ${MAX_HOPS} links, got a circle; remove it`);
  }

  async #find(parts: readonly string[]): Promise<FileSystemHandle | undefined> {
    const folder = await this.#folder(parts.slice(0, -1), false);
    const name = parts.at(-1);
    if (folder === undefined || name === undefined) return folder;
    try {
      return await folder.getFileHandle(name);
    } catch (error) {
      if (nameOf(error) !== 'TypeMismatchError') return absent(name, error);
      return folder.getDirectoryHandle(name);
    }
  }

  async #folder(parts: readonly string[], create: boolean): Promise<FileSystemDirectoryHandle | undefined> {
    this.#root ??= this.#parts.root().catch((error: unknown) => {
      throw new UnsupportedError(
        `origin private file system: this page has none (${messageOf(error)}); load without a cache`,
        { feature: 'opfs' },
      );
    });
    let folder = await this.#root;
    for (const part of parts) {
      try {
        folder = await folder.getDirectoryHandle(part, { create });
      } catch (error) {
        return create ? Promise.reject(opfsError(parts.join('/'), error)) : absent(parts.join('/'), error);
      }
    }
    return folder;
  }
}

function partsOf(path: string): readonly string[] {
  return path.split('/').filter((part) => part !== '');
}

/** Nothing is there: no such name, a file where a folder would have to be, or a name that no file can have. */
function absent(path: string, error: unknown): undefined {
  const name = nameOf(error);
  if (name === 'NotFoundError' || name === 'TypeMismatchError' || name === 'TypeError') return undefined;
  throw opfsError(path, error);
}

function ignoreAbsent(path: string): (error: unknown) => void {
  return (error) => absent(path, error);
}

function nameOf(error: unknown): string | undefined {
  return (error as { name?: string } | undefined)?.name;
}

async function wrap<T>(path: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw opfsError(path, error);
  }
}
