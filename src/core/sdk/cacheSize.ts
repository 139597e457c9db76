/** How large the key/value cache is, and how long a sequence may be. */
import type { KvSpec } from '../backend.ts';
import { DTYPE_BYTES, STORAGE_TYPES } from '../dtype.ts';
import { ConfigError } from '../errors.ts';
import type { RunnerOptions } from '../runner.ts';
import type { Weight } from '../weight.ts';
import type { LoadOptions } from './options.ts';

const BLOCK_SIZE = 32;
const MAX_SEQUENCES = 32;
const MAX_ROWS = 512;
/** Without other word the cache takes at most this much memory, but always holds a chat of `MIN_POSITIONS`. */
const DEFAULT_BYTES = 512 * 2 ** 20;
const MIN_POSITIONS = 4096;
/** Contexts of full length that fit side by side, where memory allows. */
const DEFAULT_CONTEXTS = 4;

export interface CacheSize extends RunnerOptions {
  /** Positions of prompt and answer together. */
  readonly contextLength: number;
}

/** The caches of all layers with the element type that was asked for, or that suits the weights. */
export function cacheSpecs(
  caches: readonly KvSpec[],
  weights: Iterable<Weight>,
  options: Pick<LoadOptions, 'pagedAttn'>,
): readonly KvSpec[] {
  const { cacheType = 'auto' } = options.pagedAttn ?? {};
  const dtype = cacheType === 'auto' ? (hasBlocks(weights) ? 'f16' : 'f32') : cacheType;
  return caches.map((c) => ({ ...c, dtype }));
}

function hasBlocks(weights: Iterable<Weight>): boolean {
  for (const w of weights) {
    if (w.data.formats.some((f) => STORAGE_TYPES.get(f)?.blockSize !== 1)) return true;
  }
  return false;
}

/** Bytes of one position in the caches of all layers. */
export function bytesPerPosition(caches: readonly KvSpec[]): number {
  const entries = (c: KvSpec) => c.keyDim + (c.valuesInKeys ? 0 : c.valueDim);
  return caches.reduce((n, c) => n + c.kvHeads * entries(c) * DTYPE_BYTES[c.dtype], 0);
}

export function cacheSize(caches: readonly KvSpec[], maxPositions: number, options: LoadOptions): CacheSize {
  const { blockSize = BLOCK_SIZE, memory } = options.pagedAttn ?? {};
  const limit = Math.min(maxPositions, options.maxModelLen ?? maxPositions);
  const perPosition = Math.max(1, bytesPerPosition(caches));
  const positions = budget(memory, limit, perPosition);
  const blocks = Math.floor(positions / blockSize);
  if (blocks < 1) {
    throw new ConfigError(
      `pagedAttn.memory: expected room for one block of ${blockSize} positions (${blockSize * perPosition} bytes), got less`,
    );
  }
  const contextLength = Math.min(limit, blocks * blockSize);
  return {
    blocks,
    blockSize,
    contextLength,
    maxBlocks: Math.ceil(contextLength / blockSize),
    maxRows: options.maxBatchTokens ?? MAX_ROWS,
    maxSequences: Math.min(options.maxNumSeqs ?? MAX_SEQUENCES, options.maxBatchTokens ?? MAX_ROWS),
  };
}

function budget(
  memory: { readonly mb?: number; readonly contextSize?: number } | undefined,
  limit: number,
  perPosition: number,
): number {
  if (memory?.contextSize !== undefined) return memory.contextSize;
  if (memory?.mb !== undefined) return Math.floor((memory.mb * 2 ** 20) / perPosition);
  const wanted = Math.min(limit * DEFAULT_CONTEXTS, Math.floor(DEFAULT_BYTES / perPosition));
  // A whole number of blocks of any size.
  return Math.ceil(Math.max(wanted, Math.min(limit, MIN_POSITIONS)) / BLOCK_SIZE) * BLOCK_SIZE;
}
