/** Tensors of a checkpoint seen differently: cut, transposed. Nothing is read before rows are asked for. */
import { UnsupportedError } from './errors.ts';
import type { RowRuns } from './weight.ts';
import type { SourceTensor } from './weights.ts';

/** One of equally large matrices that a tensor holds below one another. */
export function slab(t: SourceTensor, index: number, rows: number, width: number): SourceTensor {
  return rowRange(t, index * rows, rows, width, `${t.name}[${index}]`);
}

/** Rows `[first, first + rows)` of a tensor of rows of `width`. */
export function rowRange(t: SourceTensor, first: number, rows: number, width: number, name = t.name): SourceTensor {
  return {
    ...t,
    name,
    part: partOf(t, [[first, rows]]),
    shape: [rows, width],
    readRows: (from, n, target) => t.readRows(first + from, n, target),
  };
}

/** Runs of rows of a tensor that may itself be some of the rows of another. */
function partOf(t: SourceTensor, runs: RowRuns): { readonly name: string; readonly runs: RowRuns } {
  if (t.part === undefined) return { name: t.name, runs };
  const inner = t.part.runs;
  const cut = runs.flatMap(([at, count]) => {
    let start = 0;
    return inner.flatMap(([first, n]) => {
      const from = Math.max(at, start);
      const to = Math.min(at + count, start + n);
      const shift = first - start;
      start += n;
      return from < to ? [[from + shift, to - from] as const] : [];
    });
  });
  return { name: t.part.name, runs: cut };
}

/** Runs of rows `[first, count]` of a tensor of rows of `width`, one behind the other. */
export function rowRuns(
  t: SourceTensor,
  runs: readonly (readonly [first: number, count: number])[],
  width: number,
  name: string,
): SourceTensor {
  const total = runs.reduce((n, [, count]) => n + count, 0);
  return {
    ...t,
    name,
    part: partOf(t, runs),
    shape: [total, width],
    async readRows(first, n, target) {
      const bytes = n > 0 ? target.length / n : 0;
      let start = 0;
      for (const [at, count] of runs) {
        const from = Math.max(first, start);
        const to = Math.min(first + n, start + count);
        if (from < to) {
          await t.readRows(at + from - start, to - from, target.subarray((from - first) * bytes, (to - first) * bytes));
        }
        start += count;
      }
    },
  };
}

/**
 * A tensor `[count, rows, columns]` as `[count * columns, rows]`: every matrix transposed. One matrix at a time is held in
 * memory while rows of it are read, so they should be asked for in order.
 * @throws UnsupportedError for formats of blocks, whose elements cannot be moved one by one.
 */
export function transposed(t: SourceTensor, count: number, rows: number, columns: number): SourceTensor {
  const { blockSize, blockBytes: size } = t.type;
  if (blockSize !== 1) {
    throw new UnsupportedError(`tensor "${t.name}": expected unquantized values to transpose, got ${t.type.name}`, {
      feature: `transposed ${t.type.name}`,
    });
  }
  let held: { readonly index: number; readonly bytes: Uint8Array } | undefined;
  const matrix = async (index: number): Promise<Uint8Array> => {
    if (held?.index === index) return held.bytes;
    const bytes = new Uint8Array(rows * columns * size);
    await t.readRows(index * rows, rows, bytes);
    held = { index, bytes };
    return bytes;
  };
  return {
    ...t,
    transposed: true,
    shape: [count * columns, rows],
    async readRows(first, n, target) {
      for (let at = first; at < first + n; ) {
        const index = Math.floor(at / columns);
        const end = Math.min(first + n, (index + 1) * columns);
        const from = await matrix(index);
        if (end === (index + 1) * columns) held = undefined;
        for (; at < end; at++) column(from, at % columns, columns, target, (at - first) * rows, rows, size);
      }
    },
  };
}

/** Copies a column of elements of `size` bytes to element `to` of the target. */
function column(
  from: Uint8Array,
  at: number,
  columns: number,
  target: Uint8Array,
  to: number,
  rows: number,
  size: number,
): void {
  for (let r = 0; r < rows; r++) {
    const source = (r * columns + at) * size;
    const goal = (to + r) * size;
    for (let b = 0; b < size; b++) target[goal + b] = from[source + b]!;
  }
}
