/** What the engine asks of the runtime it lives in. Everything else uses web-standard globals only. */
import type { ByteSource } from './io/source.ts';

export type Runtime = 'node' | 'deno' | 'bun' | 'browser';

export interface PathInfo {
  readonly kind: 'file' | 'directory' | 'other';
  readonly size: number;
}

export interface DirEntry {
  readonly name: string;
  readonly kind: PathInfo['kind'];
}

/** A file open for reading and writing at given positions. */
export interface FileWriter {
  /** Bytes that were there when the file was opened. */
  readonly size: number;
  write(position: number, bytes: Uint8Array): Promise<void>;
  /** Fills `target`; rejects with `FormatError` when the file ends before. */
  readInto(position: number, target: Uint8Array): Promise<void>;
  /** Cuts or extends the file. */
  truncate(size: number): Promise<void>;
  close(): Promise<void>;
}

/** A running digest. */
export interface Hasher {
  update(bytes: Uint8Array): void;
  /** Lower-case hexadecimal; ends the digest. */
  digest(): string;
}

export interface MemoryInfo {
  /** Of the machine, or of the container where the runtime knows its limit. */
  readonly totalBytes: number | undefined;
  readonly freeBytes: number | undefined;
  readonly rssBytes: number | undefined;
  readonly peakRssBytes: number | undefined;
}

/**
 * Files, environment and machine facts of a runtime. Where a feature is absent, its methods reject with
 * `UnsupportedError`; facts that a runtime does not tell are `undefined`. Paths may use `/` everywhere.
 */
export interface Platform {
  readonly runtime: Runtime;
  /** Whether there is a file system; when not, every file method rejects. */
  readonly hasFiles: boolean;
  /** Opens a regular file for reads by range; a missing file or a folder rejects with `ModelLoadError`. */
  openFile(path: string): Promise<ByteSource>;
  /** `undefined` when nothing is there; follows links. */
  stat(path: string): Promise<PathInfo | undefined>;
  exists(path: string): Promise<boolean>;
  listDir(path: string): Promise<readonly DirEntry[]>;
  /** The text of a file of at most `maxBytes`, decoded as UTF-8. */
  readText(path: string, maxBytes: number): Promise<string>;
  /** Replaces a file as a whole (readers see the old or the new content, never a part) and makes missing folders. */
  writeFile(path: string, data: string | Uint8Array): Promise<void>;
  /** Opens for writing at positions, keeping what is there, and makes missing folders. */
  openWriter(path: string): Promise<FileWriter>;
  /** Moves a file; one that is there already gives way. */
  rename(from: string, to: string): Promise<void>;
  /** Removes a file; does nothing when it is absent. */
  remove(path: string): Promise<void>;
  /** Makes `path` refer to the file `target` by a relative symbolic link, or by a copy where links are not allowed. */
  link(target: string, path: string): Promise<void>;
  /** Bytes that may still be written at a path (a folder that need not exist yet), where the runtime can tell. */
  freeSpace(path: string): Promise<number | undefined>;
  /** An absolute path without links, where the runtime can tell. */
  realPath(path: string): Promise<string>;
  hasher(algorithm: 'sha1' | 'sha256'): Promise<Hasher>;
  env(name: string): string | undefined;
  homeDir(): string | undefined;
  hardwareConcurrency(): number;
  memory(): MemoryInfo;
  /**
   * The entry to WebGPU (a `GPU` of the specification), or `undefined` where there is none. `quick`: also where the machine
   * clearly has no graphics hardware, so that nothing large is loaded in vain.
   */
  gpu(options?: { readonly quick?: boolean }): Promise<unknown>;
  isTerminal(stream: 'stdin' | 'stdout' | 'stderr'): boolean;
}
