/** How a workgroup of the attention kernels divides its tile of queries × keys among its lanes. */
import type { DeviceFacts } from '../device.ts';

export interface HeadShape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly valueDim: number;
}

export interface Tiling {
  /** Lanes along the queries, and along keys or value columns. */
  readonly rowLanes: number;
  readonly columnLanes: number;
  /** Queries of one lane. */
  readonly rows: number;
  /** Queries, keys of a tile. */
  readonly queries: number;
  readonly keys: number;
  /** Query heads of one key head that a tile takes at once, and how many such runs there are. */
  readonly headsAtOnce: number;
  readonly headRuns: number;
  /** Query rows of a tile. */
  readonly tileRows: number;
  /** Quads of the head in workgroup memory at a time. */
  readonly chunk: number;
  /** Queries stay in workgroup memory instead of being read again for every tile of keys. */
  readonly keepQueries: boolean;
  /** Values go through workgroup memory, this many keys at a time; 0: each lane reads its own. */
  readonly valueKeys: number;
  /** Parts of the keys that lanes of one column sum on their own. */
  readonly slices: number;
  /** Lanes that share the softmax of a query. */
  readonly softmaxLanes: number;
  /** Quads of the buffer that keys and values pass through. */
  readonly staged: number;
}

export const lanesOf = (t: Tiling) => t.rowLanes * t.columnLanes;
/** Distance of rows in workgroup memory, odd so that neighbours lie in different banks. */
export const odd = (n: number) => n | 1;

const powerAbove = (n: number) => 2 ** Math.ceil(Math.log2(Math.max(1, n)));

function bytesOf(t: Tiling, headDim: number): number {
  const queryQuads = t.queries * odd(t.keepQueries ? Math.ceil(headDim / 4) : t.chunk);
  const scores = t.queries * (t.keys + 1);
  const small = t.queries * t.softmaxLanes + 2 * t.queries + t.keys;
  return 16 * (queryQuads + t.staged) + 4 * (scores + small);
}

/** A divisor of the head where there is one of a good size, so that no chunk is cut short. */
function chunkOf(quads: number, most: number): number {
  for (let n = Math.min(most, quads); 2 * n > most; n--) if (quads % n === 0) return n;
  return Math.min(most, quads);
}

function complete(
  shape: HeadShape,
  rowLanes: number,
  columnLanes: number,
  rows: number,
  most: { readonly chunk: number; readonly valueKeys: number; readonly keep: boolean },
): Tiling {
  const group = shape.heads / shape.kvHeads;
  const valueQuads = Math.ceil(shape.valueDim / 4);
  const queries = rowLanes * rows;
  const keys = Math.max(columnLanes, 32);
  const headRuns = Math.ceil(group / queries);
  const headsAtOnce = Math.ceil(group / headRuns);
  const chunk = chunkOf(Math.ceil(shape.headDim / 4), most.chunk);
  const staged = Math.max(keys * odd(chunk), most.valueKeys * valueQuads, rowLanes * columnLanes);
  return {
    ...{ rowLanes, columnLanes, rows, queries, keys, headsAtOnce, headRuns, chunk, staged },
    tileRows: Math.floor(queries / headsAtOnce),
    keepQueries: most.keep,
    valueKeys: most.valueKeys > 0 ? Math.min(keys, Math.floor(staged / valueQuads)) : 0,
    slices: Math.max(1, Math.floor(columnLanes / powerAbove(valueQuads))),
    softmaxLanes: Math.min(8, Math.floor((rowLanes * columnLanes) / queries)),
  };
}

/** One row of a sequence and all heads of a key head: every lane takes one key, then columns of the values. */
export function decodeTiling(facts: DeviceFacts, shape: HeadShape): Tiling {
  const group = shape.heads / shape.kvHeads;
  for (let most = 8; ; most = Math.ceil(most / 2)) {
    const rows = Math.ceil(group / Math.ceil(group / most));
    for (const chunk of [8, 4]) {
      const t = complete(shape, 1, 64, rows, { chunk, valueKeys: 0, keep: true });
      if (bytesOf(t, shape.headDim) <= facts.sharedBytes) return t;
    }
    if (most === 1) break;
  }
  return complete(shape, 1, 64, 1, { chunk: 4, valueKeys: 0, keep: false });
}

/** Accumulators of a lane that stay in registers. */
const ACCUMULATORS = 64;

/** Many rows: lanes hold four queries each, by up to four keys and as many columns as fit their registers. */
export function prefillTiling(facts: DeviceFacts, shape: HeadShape): Tiling {
  const columns = 4 * powerAbove(Math.ceil(shape.valueDim / 4));
  for (const rowLanes of [16, 8, 4]) {
    const columnLanes = 128 / rowLanes;
    if (4 * (columns / columnLanes) > ACCUMULATORS && rowLanes > 4) continue;
    for (const valueKeys of [16, 8, 4]) {
      const t = complete(shape, rowLanes, columnLanes, 4, { chunk: 8, valueKeys, keep: false });
      if (bytesOf(t, shape.headDim) <= facts.sharedBytes) return t;
    }
  }
  return complete(shape, 4, 32, 4, { chunk: 4, valueKeys: 1, keep: false });
}
