/** The origin private file system in memory, as far as the platform uses it, with a quota. */
import type { FileWriter } from '../../src/core/platform.ts';
import type { OpfsParts } from '../../src/platform/opfs.ts';
import { opfsError } from '../../src/platform/opfsWriter.ts';

type Node = Folder | File_;
const fail = (name: string): never => {
  throw new DOMException(name, name);
};
const checkName = (name: string): void => {
  if (name === '' || name === '.' || name === '..' || /[/\\]/.test(name)) throw new TypeError('Name is not allowed');
};

class File_ {
  readonly kind = 'file';
  bytes = new Uint8Array(0);
  parent: Folder;
  name: string;
  constructor(parent: Folder, name: string) {
    this.parent = parent;
    this.name = name;
  }
  async getFile(): Promise<Blob> {
    return new Blob([this.bytes.slice()]);
  }
  async move(folder: Folder, name: string): Promise<void> {
    checkName(name);
    if (folder.entries.has(name)) fail('InvalidModificationError');
    this.parent.entries.delete(this.name);
    folder.entries.set(name, this);
    this.parent = folder;
    this.name = name;
  }
}

class Folder {
  readonly kind = 'directory';
  readonly entries = new Map<string, Node>();
  async getFileHandle(name: string, { create = false } = {}): Promise<File_> {
    return this.#get(name, 'file', create ? () => new File_(this, name) : undefined) as File_;
  }
  async getDirectoryHandle(name: string, { create = false } = {}): Promise<Folder> {
    return this.#get(name, 'directory', create ? () => new Folder() : undefined) as Folder;
  }
  async removeEntry(name: string): Promise<void> {
    checkName(name);
    if (!this.entries.delete(name)) fail('NotFoundError');
  }
  async *[Symbol.asyncIterator]() {
    yield* this.entries;
  }
  #get(name: string, kind: Node['kind'], make: (() => Node) | undefined): Node {
    checkName(name);
    const entry = this.entries.get(name) ?? make?.() ?? fail('NotFoundError');
    if (entry.kind !== kind) fail('TypeMismatchError');
    this.entries.set(name, entry);
    return entry;
  }
}

export class FakeOpfs implements OpfsParts {
  readonly tree = new Folder();
  quota = 1e9;
  /** What `estimate` answers, where it differs from the truth. */
  claimedQuota: number | undefined;
  readonly #open = new Set<File_>();

  readonly root = async (): Promise<FileSystemDirectoryHandle> => this.tree as unknown as FileSystemDirectoryHandle;
  readonly estimate = async (): Promise<StorageEstimate> => ({
    quota: this.claimedQuota ?? this.quota,
    usage: this.usage(),
  });

  usage(folder: Folder = this.tree): number {
    let sum = 0;
    for (const entry of folder.entries.values()) sum += entry.kind === 'file' ? entry.bytes.length : this.usage(entry);
    return sum;
  }

  /** Paths of all files. */
  files(folder: Folder = this.tree, below = ''): string[] {
    return [...folder.entries].flatMap(([name, entry]) =>
      entry.kind === 'file' ? [`${below}/${name}`] : this.files(entry, `${below}/${name}`),
    );
  }

  readonly openWriter = async (parts: readonly string[]): Promise<FileWriter> => {
    let folder = this.tree;
    for (const part of parts.slice(0, -1)) folder = await folder.getDirectoryHandle(part, { create: true });
    const file = await folder.getFileHandle(parts.at(-1)!, { create: true });
    const path = parts.join('/');
    if (this.#open.has(file)) throw opfsError(path, new DOMException('locked', 'NoModificationAllowedError'));
    this.#open.add(file);
    const resize = (size: number): void => {
      if (this.usage() - file.bytes.length + size > this.quota) {
        throw opfsError(path, new DOMException('full', 'QuotaExceededError'));
      }
      const bytes = new Uint8Array(size);
      bytes.set(file.bytes.subarray(0, size));
      file.bytes = bytes;
    };
    return {
      size: file.bytes.length,
      write: async (position, bytes) => {
        if (position + bytes.length > file.bytes.length) resize(position + bytes.length);
        file.bytes.set(bytes, position);
      },
      readInto: async (position, target) => target.set(file.bytes.subarray(position, position + target.length)),
      truncate: async (size) => resize(size),
      close: async () => void this.#open.delete(file),
    };
  };
}
