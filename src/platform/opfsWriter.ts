/**
 * Writers of the origin private file system. Only dedicated workers may write there in place, so that what has arrived
 * stays when a page is closed; one is started for each writer, from a string, so that no bundler has to know of it.
 */
import {
  FormatError,
  ModelLoadError,
  messageOf,
  StorageError,
  TramontaneError,
  UnsupportedError,
} from '../core/errors.ts';
import type { FileWriter } from '../core/platform.ts';

/** Plain JavaScript: answers `[id, value]`, or `[id, undefined, name, message]` of an error. */
const WORKER_SOURCE = `
let file;
const calls = {
  async open(parts) {
    let folder = await navigator.storage.getDirectory();
    for (const part of parts.slice(0, -1)) folder = await folder.getDirectoryHandle(part, { create: true });
    file = await (await folder.getFileHandle(parts.at(-1), { create: true })).createSyncAccessHandle();
    return file.getSize();
  },
  write(at, bytes) {
    for (let done = 0; done < bytes.length; ) {
      const n = file.write(bytes.subarray(done), { at: at + done });
      // Private windows of Chromium answer with a number beyond all bounds when the quota is used up.
      if (!(n > 0 && n <= bytes.length - done)) throw new DOMException('nothing was written', 'QuotaExceededError');
      done += n;
    }
  },
  read(at, length) {
    const bytes = new Uint8Array(length);
    return bytes.subarray(0, file.read(bytes, { at }));
  },
  truncate: (size) => file.truncate(size),
  close() { file.flush(); file.close(); },
};
onmessage = async ({ data: [id, call, ...args] }) => {
  try { postMessage([id, await calls[call](...args)]); }
  catch (error) { postMessage([id, undefined, error.name, error.message]); }
};
`;

type Reply = readonly [id: number, value: unknown, errorName?: string, errorMessage?: string];
interface Waiter {
  resolve(value: unknown): void;
  reject(error: unknown): void;
}

/** Opens a file for writing, by the names of its folders and its own; what is missing is made. */
export async function openOpfsWriter(parts: readonly string[]): Promise<FileWriter> {
  const path = parts.join('/');
  const { call, end } = startWorker(path);
  try {
    const size = Number(await call('open', [parts]));
    return {
      size,
      async write(position, bytes) {
        // The caller's bytes stay the caller's: a copy travels.
        const copy = bytes.slice();
        await call('write', [position, copy], [copy.buffer]);
      },
      async readInto(position, target) {
        const bytes = (await call('read', [position, target.length])) as Uint8Array;
        if (bytes.length < target.length) {
          throw new FormatError(`${path}: expected ${target.length} bytes at ${position}, got ${bytes.length}`);
        }
        target.set(bytes);
      },
      async truncate(newSize) {
        await call('truncate', [newSize]);
      },
      async close() {
        try {
          await call('close', []);
        } finally {
          end();
        }
      },
    };
  } catch (error) {
    end();
    throw error;
  }
}

function startWorker(path: string) {
  const waiting = new Map<number, Waiter>();
  const url = URL.createObjectURL(new Blob([WORKER_SOURCE], { type: 'text/javascript' }));
  let worker: Worker;
  try {
    worker = new Worker(url, { name: 'tramontane-files' });
  } catch (error) {
    throw noWorker(path, messageOf(error));
  }
  worker.onmessage = ({ data: [id, value, name, message] }: MessageEvent<Reply>) => {
    const waiter = waiting.get(id);
    waiting.delete(id);
    if (name === undefined) waiter?.resolve(value);
    else waiter?.reject(opfsError(path, { name, message }));
  };
  worker.onerror = (event) => {
    event.preventDefault();
    for (const waiter of waiting.values()) waiter.reject(noWorker(path, event.message ?? 'it failed to start'));
    waiting.clear();
  };
  let calls = 0;
  return {
    call(name: string, args: readonly unknown[], transfer: Transferable[] = []): Promise<unknown> {
      return new Promise((resolve, reject) => {
        waiting.set(++calls, { resolve, reject });
        worker.postMessage([calls, name, ...args], transfer);
      });
    },
    end(): void {
      worker.terminate();
      URL.revokeObjectURL(url);
    },
  };
}

function noWorker(path: string, reason: string): UnsupportedError {
  return new UnsupportedError(
    `${path}: expected a worker to write with, got: ${reason}; allow workers from blob: URLs, or load without a cache`,
    { feature: 'opfs' },
  );
}

/** An error of the file system as one of ours. */
export function opfsError(path: string, error: unknown): TramontaneError {
  if (error instanceof TramontaneError) return error;
  const { name, message } = error as { name?: string; message?: string };
  if (name === 'QuotaExceededError') {
    return new StorageError(
      `${path}: the browser's quota for this site is used up; make room, or load without a cache`,
    );
  }
  if (name === 'NoModificationAllowedError' || name === 'InvalidStateError') {
    return new ModelLoadError(`${path}: in use by another tab or call; wait until it has ended, then try again`);
  }
  if (name === 'NotFoundError') return new ModelLoadError(`${path}: no such file or folder`);
  return new ModelLoadError(`${path}: ${message ?? String(error)}`, { cause: error });
}
