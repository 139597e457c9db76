/** The platform of Node, Deno and Bun, over the `node:` modules that all three have. Loaded by `detect.ts` only. */
import { createHash } from 'node:crypto';
import * as fs from 'node:fs';
import { copyFile, mkdir, readdir, realpath, rename, rm, stat, statfs, symlink, writeFile } from 'node:fs/promises';
import { availableParallelism, cpus, freemem, homedir, totalmem } from 'node:os';
import { dirname, relative } from 'node:path';
import { isatty } from 'node:tty';
import { FormatError, ModelLoadError, messageOf, StorageError } from '../core/errors.ts';
import type { DirEntry, FileWriter, MemoryInfo, PathInfo, Platform, Runtime } from '../core/platform.ts';
import { FileSource, fileWriter } from './nodeFile.ts';
import { nodeGpu } from './nodeGpu.ts';

/** The platform of a runtime with `node:fs`. */
export function nodePlatform(): Platform {
  return {
    runtime: runtimeName(),
    hasFiles: true,
    openFile,
    stat: pathInfo,
    exists: async (path) => (await pathInfo(path)) !== undefined,
    listDir,
    readText,
    writeFile: replaceFile,
    openWriter,
    rename: (from, to) => wrap(from, rename(from, to)),
    remove: (path) => wrap(path, rm(path, { force: true })),
    link,
    freeSpace,
    realPath: (path) => wrap(path, realpath(path)),
    hasher: async (algorithm) => {
      const hash = createHash(algorithm);
      return { update: (bytes) => void hash.update(bytes), digest: () => hash.digest('hex') };
    },
    env: (name) => process.env[name],
    homeDir,
    hardwareConcurrency: () => Math.max(1, availableParallelism?.() ?? cpus().length),
    memory,
    gpu: nodeGpu,
    isTerminal: (stream) => isatty({ stdin: 0, stdout: 1, stderr: 2 }[stream]),
  };
}

function runtimeName(): Runtime {
  if ('Bun' in globalThis) return 'bun';
  return 'Deno' in globalThis ? 'deno' : 'node';
}

async function openFile(path: string): Promise<FileSource> {
  // Looked at before it is opened: opening a pipe would wait for its other end.
  const info = await pathInfo(path);
  if (info === undefined) throw new ModelLoadError(`${path}: no such file`);
  if (info.kind !== 'file') throw new ModelLoadError(`${path}: expected a file, got a ${nounOf(info.kind)}`);
  const fd = await wrap(path, new Promise<number>((ok, fail) => fs.open(path, 'r', settle(ok, fail))));
  return new FileSource(path, fd, info.size);
}

async function pathInfo(path: string): Promise<PathInfo | undefined> {
  try {
    const s = await stat(path);
    return { kind: s.isFile() ? 'file' : s.isDirectory() ? 'directory' : 'other', size: s.size };
  } catch (error) {
    const code = codeOf(error);
    if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'ENAMETOOLONG' || code === 'ERR_INVALID_ARG_VALUE') {
      return undefined;
    }
    throw fileError(path, error);
  }
}

async function listDir(path: string): Promise<readonly DirEntry[]> {
  const entries = await wrap(path, readdir(path, { withFileTypes: true }));
  return entries.map((e) => ({
    name: e.name,
    // What a link leads to is asked for by `stat`.
    kind: e.isFile() ? 'file' : e.isDirectory() ? 'directory' : 'other',
  }));
}

async function readText(path: string, maxBytes: number): Promise<string> {
  const source = await openFile(path);
  try {
    if (source.size > maxBytes) {
      throw new FormatError(`${path}: expected at most ${maxBytes} bytes of text, got ${source.size}`);
    }
    return new TextDecoder().decode(await source.slice(0, source.size));
  } finally {
    await source.close();
  }
}

async function replaceFile(path: string, data: string | Uint8Array): Promise<void> {
  const temporary = temporaryName(path);
  await wrap(path, mkdir(dirname(path), { recursive: true }));
  try {
    await writeFile(temporary, data);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw fileError(path, error);
  }
}

async function openWriter(path: string): Promise<FileWriter> {
  await wrap(path, mkdir(dirname(path), { recursive: true }));
  const flags = fs.constants.O_RDWR | fs.constants.O_CREAT;
  const fd = await wrap(path, new Promise<number>((ok, fail) => fs.open(path, flags, 0o644, settle(ok, fail))));
  return fileWriter(path, fd);
}

async function link(target: string, path: string): Promise<void> {
  const temporary = temporaryName(path);
  await wrap(path, mkdir(dirname(path), { recursive: true }));
  try {
    try {
      await symlink(relative(dirname(path), target), temporary);
    } catch {
      // Links need a privilege on Windows and are unknown to some file systems.
      await copyFile(target, temporary, fs.constants.COPYFILE_FICLONE);
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw fileError(path, error);
  }
}

async function freeSpace(path: string): Promise<number | undefined> {
  try {
    const { bavail, bsize } = await statfs(path);
    return bavail * bsize;
  } catch (error) {
    // A folder that is yet to be made will lie where its parent does.
    const parent = dirname(path);
    return codeOf(error) === 'ENOENT' && parent !== path ? freeSpace(parent) : undefined;
  }
}

function homeDir(): string | undefined {
  try {
    return homedir();
  } catch {
    return undefined; // an account without a home
  }
}

function memory(): MemoryInfo {
  const total = totalmem();
  const limit = process.constrainedMemory?.();
  const limited = limit !== undefined && limit > 0 && limit < total;
  return {
    totalBytes: limited ? limit : total,
    freeBytes: process.availableMemory?.() ?? freemem(),
    rssBytes: process.memoryUsage.rss(),
    peakRssBytes: process.resourceUsage().maxRSS * 1024,
  };
}

function temporaryName(path: string): string {
  return `${path}.${process.pid.toString(36)}${Math.random().toString(36).slice(2, 10)}.tmp`;
}

function nounOf(kind: PathInfo['kind']): string {
  return kind === 'directory' ? 'folder' : 'special file';
}

function settle<T>(ok: (value: T) => void, fail: (error: unknown) => void): (error: unknown, value: T) => void {
  return (error, value) => (error ? fail(error) : ok(value));
}

async function wrap<T>(path: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw fileError(path, error);
  }
}

function fileError(path: string, error: unknown): ModelLoadError {
  const code = codeOf(error);
  if (code === 'ENOENT') return new ModelLoadError(`${path}: no such file or folder`, { cause: error });
  if (code === 'EACCES' || code === 'EPERM') return new ModelLoadError(`${path}: permission denied`, { cause: error });
  if (code === 'ENOSPC') return new StorageError(`${path}: no space left on the disk`, { cause: error });
  return new ModelLoadError(`${path}: ${messageOf(error)}`, { cause: error });
}

function codeOf(error: unknown): string | undefined {
  return (error as { code?: string } | undefined)?.code;
}
