/** Positional reads and writes over file descriptors. */
import * as fs from 'node:fs';
import { FormatError, ModelLoadError, messageOf, StorageError } from '../core/errors.ts';
import { checkRange } from '../core/io/range.ts';
import type { ByteSource } from '../core/io/source.ts';
import type { FileWriter } from '../core/platform.ts';

/** One call reads or writes at most this much: the system's limit is just below 2 GiB. */
const MAX_CALL_BYTES = 2 ** 30;

/** Descriptors of sources that were dropped without `close()`. */
const dropped = new FinalizationRegistry<number>((fd) => fs.close(fd, () => undefined));

/** A regular file read at positions, several reads at once if wished, straight into the target (shared memory too). */
export class FileSource implements ByteSource {
  readonly name: string;
  readonly size: number;
  #fd: number;
  #reads = 0;
  #closing: Promise<void> | undefined;
  #idle: (() => void) | undefined;

  constructor(path: string, fd: number, size: number) {
    this.name = path;
    this.size = size;
    this.#fd = fd;
    dropped.register(this, fd, this);
  }

  async slice(start: number, end: number): Promise<Uint8Array> {
    checkRange(this, start, end);
    const bytes = new Uint8Array(end - start);
    await this.readInto(start, bytes);
    return bytes;
  }

  async readInto(start: number, target: Uint8Array): Promise<void> {
    checkRange(this, start, start + target.length);
    if (this.#closing) throw new ModelLoadError(`${this.name}: read after close`);
    this.#reads++;
    try {
      await readAll(this.name, this.#fd, start, target);
    } finally {
      if (--this.#reads === 0) this.#idle?.();
    }
  }

  /** Waits for reads that are under way. */
  close(): Promise<void> {
    this.#closing ??= (async () => {
      if (this.#reads > 0) await new Promise<void>((idle) => (this.#idle = idle));
      dropped.unregister(this);
      await new Promise<void>((done) => fs.close(this.#fd, () => done()));
    })();
    return this.#closing;
  }
}

/** A `FileWriter` over a descriptor, which it owns. */
export function fileWriter(path: string, fd: number): FileWriter {
  const fail = (error: unknown): ModelLoadError => {
    if ((error as { code?: string }).code === 'ENOSPC') {
      return new StorageError(`${path}: no space left on the disk`, { cause: error });
    }
    return new ModelLoadError(`${path}: ${messageOf(error)}`, { cause: error });
  };
  return {
    size: fs.fstatSync(fd).size,
    async write(position, bytes) {
      for (let done = 0; done < bytes.length; ) {
        const want = Math.min(bytes.length - done, MAX_CALL_BYTES);
        done += await new Promise<number>((ok, no) =>
          fs.write(fd, bytes, done, want, position + done, (error, n) => (error ? no(fail(error)) : ok(n))),
        );
      }
    },
    readInto: (position, target) => readAll(path, fd, position, target),
    truncate: (size) => new Promise((ok, no) => fs.ftruncate(fd, size, (error) => (error ? no(fail(error)) : ok()))),
    close: () => new Promise((ok, no) => fs.close(fd, (error) => (error ? no(fail(error)) : ok()))),
  };
}

async function readAll(name: string, fd: number, start: number, target: Uint8Array): Promise<void> {
  for (let done = 0; done < target.length; ) {
    const want = Math.min(target.length - done, MAX_CALL_BYTES);
    let got: number;
    try {
      got = await readAt(fd, target, done, want, start + done);
    } catch (error) {
      throw new ModelLoadError(`${name}: ${messageOf(error)}`, { cause: error });
    }
    if (got === 0) {
      throw new FormatError(
        `${name}: expected ${target.length} bytes at ${start}, the file ends at ${start + done}; it was cut while being read`,
      );
    }
    done += got;
  }
}

function readAt(fd: number, target: Uint8Array, offset: number, length: number, position: number): Promise<number> {
  return new Promise((ok, fail) =>
    fs.read(fd, target, offset, length, position, (error, n) => (error ? fail(error) : ok(n))),
  );
}
