/** How a workgroup of the attention kernels divides its tile of queries × keys among its lanes. */
import type { DeviceFacts } from '../device.ts';

export interface HeadShape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly valueDim: number;
}

/** What is fixed in a kernel's text. Models with other heads share a kernel wherever these numbers agree. */
export interface Tiling {
  /** Lanes along the queries, and along keys or value columns. */
  readonly rowLanes: number;
  readonly columnLanes: number;
  /** Queries of one lane. */
  readonly rows: number;
  /** Keys of a tile. */
  readonly keys: number;
  /** Quads of a head that are in workgroup memory at a time. */
  readonly chunk: number;
  /** Room for whole queries in workgroup memory, in quads; 0: they are read again, chunk by chunk, for every tile. */
  readonly keptQuads: number;
  /** Value quads of one lane. */
  readonly columns: number;
  /** Parts of the keys that lanes of one column sum on their own. */
  readonly slices: number;
  /** Values go through workgroup memory, this many keys at a time; 0: each lane reads its own. */
  readonly valueKeys: number;
}

/** How the query heads of a key head are dealt to tiles. */
export interface Sharing {
  /** Heads that a tile takes at once, and how many such runs there are. */
  readonly headsAtOnce: number;
  readonly runs: number;
  /** Rows of a tile. */
  readonly tileRows: number;
}

export const lanesOf = (t: Tiling) => t.rowLanes * t.columnLanes;
export const queriesOf = (t: Tiling) => t.rowLanes * t.rows;
/** Lanes that share the softmax of a query. */
export const softmaxLanesOf = (t: Tiling) => Math.min(8, Math.floor(lanesOf(t) / queriesOf(t)));
/** Lanes next to each other that hold all columns of the values. */
export const columnWidthOf = (t: Tiling) => t.columnLanes / t.slices;
/** Distance of rows in workgroup memory, odd so that neighbours lie in different banks. */
export const odd = (n: number) => n | 1;

/** Quads of the buffer that keys, values and the sums of slices pass through. */
export function stagedQuads(t: Tiling): number {
  const values = t.valueKeys * t.columns * columnWidthOf(t);
  return Math.max(t.keys * odd(t.chunk), values, t.slices > 1 ? t.rows * lanesOf(t) : 0);
}

/** Quads of queries in workgroup memory. */
export const queryQuads = (t: Tiling) => queriesOf(t) * odd(t.keptQuads || t.chunk);

function bytesOf(t: Tiling): number {
  const queries = queriesOf(t);
  const words = queries * (t.keys + 1) + queries * softmaxLanesOf(t) + 2 * queries + t.keys;
  return 16 * (queryQuads(t) + stagedQuads(t)) + 4 * words;
}

export function sharingOf(t: Tiling, { heads, kvHeads }: HeadShape): Sharing {
  const group = heads / kvHeads;
  const runs = Math.ceil(group / queriesOf(t));
  const headsAtOnce = Math.ceil(group / runs);
  return { runs, headsAtOnce, tileRows: Math.floor(queriesOf(t) / headsAtOnce) };
}

const powerAbove = (n: number) => 2 ** Math.ceil(Math.log2(Math.max(1, n)));

/** One row of a sequence and all heads of a key head: every lane takes one key, then columns of the values. */
export function decodeTiling(facts: DeviceFacts, shape: HeadShape): Tiling {
  const quads = Math.ceil(shape.headDim / 4);
  const valueQuads = Math.ceil(shape.valueDim / 4);
  const columnLanes = 64;
  const fixed = {
    ...{ rowLanes: 1, columnLanes, keys: columnLanes, valueKeys: 0 },
    columns: Math.ceil(valueQuads / columnLanes),
    slices: Math.min(4, Math.max(1, columnLanes / powerAbove(valueQuads))),
  };
  const keptQuads = quads <= 32 ? 32 : quads <= 64 ? 64 : Math.ceil(quads / 16) * 16;
  for (let rows = Math.min(8, powerAbove(shape.heads / shape.kvHeads)); rows >= 1; rows /= 2) {
    for (const chunk of [8, 4]) {
      const t: Tiling = { ...fixed, rows, chunk, keptQuads };
      if (bytesOf(t) <= facts.sharedBytes) return t;
    }
  }
  return { ...fixed, rows: 1, chunk: 4, keptQuads: 0 };
}

/** Floats of a lane's sums that stay in registers. */
const REGISTERS = 64;

/** Many rows: lanes hold four queries each, by up to four keys and as many columns as their registers take. */
export function prefillTiling(facts: DeviceFacts, shape: HeadShape): Tiling {
  const valueQuads = Math.ceil(shape.valueDim / 4);
  const rows = 4;
  for (const rowLanes of [16, 8, 4]) {
    const columnLanes = 128 / rowLanes;
    const columns = Math.ceil(valueQuads / columnLanes);
    if (rowLanes > 4 && 4 * rows * columns > REGISTERS) continue;
    for (const valueKeys of [16, 8, 4, 2]) {
      const t: Tiling = {
        rowLanes,
        columnLanes,
        rows,
        keys: 32,
        chunk: 8,
        keptQuads: 0,
        columns,
        slices: 1,
        valueKeys,
      };
      if (bytesOf(t) <= facts.sharedBytes) return t;
    }
  }
  const columns = Math.ceil(valueQuads / 32);
  return { rowLanes: 4, columnLanes: 32, rows, keys: 32, chunk: 4, keptQuads: 0, columns, slices: 1, valueKeys: 1 };
}
