import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FormatError } from '../../src/core/errors.ts';
import { bytesSource } from '../../src/core/io/memory.ts';
import { readAhead } from '../../src/core/io/readAhead.ts';
import type { ByteSource } from '../../src/core/io/source.ts';

const CHUNK = 16;
const bytesOf = (size: number) => Uint8Array.from({ length: size }, (_, i) => (i * 7 + (i >> 8)) & 255);

/** A source that lists its reads, and fails those that `fails` names. */
function watched(size: number, fails: (start: number, end: number) => boolean = () => false) {
  const inner = bytesSource(bytesOf(size));
  const reads: [number, number][] = [];
  const read = async <T>(start: number, end: number, run: () => Promise<T>) => {
    reads.push([start, end]);
    if (fails(start, end)) throw new Error('lost');
    return run();
  };
  const source: ByteSource = {
    ...inner,
    slice: (start, end) => read(start, end, () => inner.slice(start, end)),
    readInto: (start, target) => read(start, start + target.length, () => inner.readInto(start, target)),
  };
  return { source, reads };
}

describe('reading ahead', () => {
  it('gives the same bytes, whatever is read in whichever order', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 0, max: 600 }),
        fc.array(fc.tuple(fc.double({ min: 0, max: 1, noNaN: true }), fc.double({ min: 0, max: 1, noNaN: true }))),
        fc.integer({ min: 0, max: 3 }),
        fc.integer({ min: 1, max: 9 }),
        async (size, places, ahead, kept) => {
          const source = readAhead(watched(size).source, { chunkBytes: CHUNK, ahead, kept });
          const reads = places.map(async ([a, b]) => {
            const [start, end] = [Math.floor(a * size), Math.floor(b * size)].sort((x, y) => x - y) as [number, number];
            expect(await source.slice(start, end)).toEqual(bytesOf(size).slice(start, end));
          });
          await Promise.all(reads);
        },
      ),
    );
  });

  it('small reads in order ask once for each byte, and before it is wanted', async () => {
    const { source, reads } = watched(400);
    const ahead = readAhead(source, { chunkBytes: CHUNK, ahead: 2 });
    for (let at = 0; at + 5 <= 160; at += 5) {
      await ahead.slice(at, at + 5);
      const asked = Math.max(...reads.map(([, end]) => end));
      // The first read tells nothing of an order.
      if (at > 0) expect(asked).toBeGreaterThanOrEqual((Math.floor((at + 4) / CHUNK) + 3) * CHUNK);
    }
    expect(reads.length).toBeLessThanOrEqual(160 / CHUNK + 2);
    const total = reads.reduce((n, [start, end]) => n + end - start, 0);
    expect(total).toBe(Math.max(...reads.map(([, end]) => end)));
  });

  it('reads here and there bring their chunk alone', async () => {
    const { source, reads } = watched(4096);
    const ahead = readAhead(source, { chunkBytes: CHUNK });
    for (const at of [2000, 100, 3000, 1000]) await ahead.slice(at, at + 3);
    expect(reads.every(([start, end]) => end - start === CHUNK)).toBe(true);
    expect(reads).toHaveLength(4);
  });

  it('large reads pass by', async () => {
    const { source, reads } = watched(4096);
    const ahead = readAhead(source, { chunkBytes: CHUNK });
    await ahead.slice(10, 10 + 8 * CHUNK);
    expect(reads).toEqual([[10, 10 + 8 * CHUNK]]);
  });

  it('chunks that were not used for long are forgotten', async () => {
    const { source, reads } = watched(4096);
    const ahead = readAhead(source, { chunkBytes: CHUNK, kept: 2, ahead: 0 });
    for (const at of [0, 1000, 1, 2000, 2, 1001]) await ahead.slice(at, at + 1);
    const starts = reads.map(([start]) => start);
    expect(starts.filter((start) => start === 0)).toHaveLength(1);
    expect(starts.filter((start) => start === 992)).toHaveLength(2);
  });

  it('a failure reaches who waits for the bytes, nobody else, and not for ever', async () => {
    let broken = true;
    const { source } = watched(400, (start) => broken && start >= 32);
    const ahead = readAhead(source, { chunkBytes: CHUNK, ahead: 1 });
    await ahead.slice(0, 8);
    await ahead.slice(8, 24);
    expect(await ahead.slice(16, 32)).toEqual(bytesOf(400).slice(16, 32));
    await expect(ahead.slice(30, 40)).rejects.toThrow('lost');
    broken = false;
    expect(await ahead.slice(30, 40)).toEqual(bytesOf(400).slice(30, 40));
  });

  it('refuses what lies outside', async () => {
    const ahead = readAhead(watched(40).source, { chunkBytes: CHUNK });
    await expect(ahead.slice(30, 41)).rejects.toThrow(FormatError);
    await expect(ahead.readInto(-1, new Uint8Array(2))).rejects.toThrow(FormatError);
  });
});
