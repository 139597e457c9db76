import { checkRange } from './range.ts';
import type { ByteSource } from './source.ts';

export interface ReadAheadOptions {
  /** What is asked for at once, and kept; default 1 MiB. */
  readonly chunkBytes?: number;
  /** Chunks that are under way while one is read in order; default 4. */
  readonly ahead?: number;
  /** Chunks kept at most; default 24. */
  readonly kept?: number;
}

/** Reads of so many chunks keep a connection busy by themselves. */
const LARGE_READ_CHUNKS = 8;

/**
 * A source over a slow one, where every read is a round trip: small reads share chunks, and where reads go on in order the
 * next chunks are under way already. What was read ahead in vain costs nothing but the transfer: its failure goes unseen.
 */
export function readAhead(source: ByteSource, options: ReadAheadOptions = {}): ByteSource {
  const { chunkBytes = 2 ** 20, ahead = 4, kept = 24 } = options;
  const count = Math.ceil(source.size / chunkBytes);
  /** From the longest unused to the last one used. */
  const chunks = new Map<number, Promise<Uint8Array>>();

  /** Asks for chunks `[from, to)` in one read. */
  const request = (from: number, to: number): void => {
    const start = from * chunkBytes;
    const bytes = source.slice(start, Math.min(to * chunkBytes, source.size));
    for (let i = from; i < to; i++) {
      const chunk = bytes.then((all) => all.subarray(i * chunkBytes - start, (i + 1) * chunkBytes - start));
      chunks.set(i, chunk);
      // Who waits for it learns of the failure; the next one who wants it tries again.
      chunk.catch(() => chunks.get(i) === chunk && chunks.delete(i));
    }
  };

  /** Asks for those of the chunks `[from, to)` that are not there. */
  const complete = (from: number, to: number): void => {
    for (let i = from; i < to; i++) {
      if (chunks.has(i)) continue;
      let end = i + 1;
      while (end < to && !chunks.has(end)) end++;
      request(i, end);
    }
  };

  /** The chunks `[first, last]`, in use from now on. */
  const take = (first: number, last: number): Promise<Uint8Array>[] => {
    const inOrder = chunks.has(first) || chunks.has(first - 1);
    const end = Math.min(count, last + 1 + (inOrder ? ahead : 0));
    complete(first, last + 1);
    // On its own, so that no failure ahead touches what is wanted now.
    complete(last + 1, end);
    const taken: Promise<Uint8Array>[] = [];
    for (let i = first; i < end; i++) {
      const chunk = chunks.get(i) as Promise<Uint8Array>;
      chunks.delete(i);
      chunks.set(i, chunk);
      if (i <= last) taken.push(chunk);
    }
    for (const i of chunks.keys()) {
      if (chunks.size <= kept) break;
      chunks.delete(i);
    }
    return taken;
  };

  const wrapped: ByteSource = {
    name: source.name,
    size: source.size,
    async slice(start, end) {
      checkRange(source, start, end);
      const bytes = new Uint8Array(end - start);
      await wrapped.readInto(start, bytes);
      return bytes;
    },
    async readInto(start, target) {
      const end = start + target.length;
      checkRange(source, start, end);
      if (target.length === 0) return;
      if (target.length >= LARGE_READ_CHUNKS * chunkBytes) return source.readInto(start, target);
      const first = Math.floor(start / chunkBytes);
      let at = start;
      for (const chunk of await Promise.all(take(first, Math.floor((end - 1) / chunkBytes)))) {
        const from = at % chunkBytes;
        const part = chunk.subarray(from, Math.min(chunk.length, from + end - at));
        target.set(part, at - start);
        at += part.length;
      }
    },
    async close() {
      chunks.clear();
      await source.close();
    },
  };
  return wrapped;
}
