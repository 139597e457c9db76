/** Byte sources over memory: bytes that are there already, and `Blob`s. */
import { FormatError, messageOf } from '../errors.ts';
import { checkRange } from './range.ts';
import { readAhead } from './readAhead.ts';
import type { ByteSource } from './source.ts';

/** A source over bytes in memory. `slice` gives views of them, not copies. */
export function bytesSource(data: Uint8Array | ArrayBufferLike, name = 'buffer'): ByteSource {
  // A plain view, so that a subclass with other rules for `slice` never leaves here.
  const bytes =
    data instanceof Uint8Array ? new Uint8Array(data.buffer, data.byteOffset, data.length) : new Uint8Array(data);
  const source: ByteSource = {
    name,
    size: bytes.length,
    async slice(start, end) {
      checkRange(source, start, end);
      return bytes.subarray(start, end);
    },
    async readInto(start, target) {
      checkRange(source, start, start + target.length);
      target.set(bytes.subarray(start, start + target.length));
    },
    async close() {},
  };
  return source;
}

/** A source over a `Blob` or a `File`, read by range. In browsers each read asks another process. */
export function blobSource(blob: Blob, name = (blob as { name?: string }).name ?? 'blob'): ByteSource {
  const source: ByteSource = {
    name,
    size: blob.size,
    async slice(start, end) {
      checkRange(source, start, end);
      let bytes: Uint8Array;
      try {
        bytes = new Uint8Array(await blob.slice(start, end).arrayBuffer());
      } catch (error) {
        throw new FormatError(`${name}: could not be read: ${messageOf(error)}`, { cause: error });
      }
      if (bytes.length !== end - start) {
        throw new FormatError(`${name}: expected ${end - start} bytes at ${start}, got ${bytes.length}`);
      }
      return bytes;
    },
    async readInto(start, target) {
      target.set(await source.slice(start, start + target.length));
    },
    async close() {},
  };
  return readAhead(source);
}
