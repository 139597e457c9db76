import type { RawSection } from '../backend.ts';

/**
 * All rows of `stride` bytes in order, as many at a time as `maxBytes` hold, at least one. The bytes are overwritten by the
 * next ones.
 */
export async function eachChunk(
  section: Pick<RawSection, 'rows' | 'readRows'>,
  stride: number,
  maxBytes: number,
  body: (first: number, rows: number, bytes: Uint8Array) => Promise<void>,
): Promise<void> {
  const { rows } = section;
  const step = Math.max(1, Math.min(rows, Math.floor(maxBytes / Math.max(1, stride))));
  const buffer = new Uint8Array(step * stride);
  for (let first = 0; first < rows; first += step) {
    const n = Math.min(step, rows - first);
    const bytes = buffer.subarray(0, n * stride);
    await section.readRows(first, n, bytes);
    await body(first, n, bytes);
  }
}
