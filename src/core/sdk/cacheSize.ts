/** How large the key/value cache is, how many recurrent states are kept, and how long a sequence may be. */
import type { KvDType, KvSpec, StateSpec } from '../backend.ts';
import { DRAFT_HEADS } from '../draftHead.ts';
import { DTYPE_BYTES, STORAGE_TYPES } from '../dtype.ts';
import type { CacheLimit } from '../engine/types.ts';
import { ConfigError } from '../errors.ts';
import type { RunnerOptions } from '../runner.ts';
import { sizeOf } from '../tensor.ts';
import type { Weight } from '../weight.ts';
import { guessing, type LoadOptions } from './options.ts';

const BLOCK_SIZE = 32;
const MAX_SEQUENCES = 32;
const MAX_ROWS = 512;
/** Without other word the cache takes at most this much memory, but always holds a chat of `MIN_POSITIONS`. */
const DEFAULT_BYTES = 512 * 2 ** 20;
const MIN_POSITIONS = 4096;
/** Contexts of full length that fit side by side, where memory allows. */
const DEFAULT_CONTEXTS = 4;

/** Snapshots of recurrent states kept for later prompts that begin like an earlier one, where memory allows. */
const SNAPSHOTS = 32;
/** States take at most this part of the memory for caches, but there are always some. */
const STATE_SHARE = 0.5;
const MIN_STATES = 4;

export interface CacheSize extends RunnerOptions {
  /** Positions of prompt and answer together. */
  readonly contextLength: number;
  /** Present where memory, not the model, bounds the context. */
  readonly cacheLimit: CacheLimit | undefined;
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
    // What guesses are made with has no part in an answer.
    if (DRAFT_HEADS.test(w.name)) continue;
    if (w.data.formats.some((f) => STORAGE_TYPES.get(f)?.blockSize !== 1)) return true;
  }
  return false;
}

/** Bytes of one position in the caches of all layers. */
export function bytesPerPosition(caches: readonly KvSpec[]): number {
  const heads = (c: KvSpec) => rowBytes(c.dtype, c.keyDim) + (c.valuesInKeys ? 0 : rowBytes(c.dtype, c.valueDim));
  return caches.reduce((n, c) => n + c.kvHeads * heads(c), 0);
}

/** Bytes of a key or value of one head. */
function rowBytes(dtype: KvDType, dim: number): number {
  return dtype === 'q8_0' ? dim + Math.ceil(dim / 32) * DTYPE_BYTES.f32 : dim * DTYPE_BYTES[dtype];
}

/** Bytes of one sequence in the states of all layers. */
export function bytesPerState(states: readonly StateSpec[]): number {
  return states.reduce((n, { shape }) => n + sizeOf(shape) * DTYPE_BYTES.f32, 0);
}

/** Positions of a block: those asked for, in the whole steps that the back-end stores. */
export function blockSizeOf(options: Pick<LoadOptions, 'pagedAttn'>, step = 1): number {
  return Math.ceil((options.pagedAttn?.blockSize ?? BLOCK_SIZE) / step) * step;
}

/** Rows of one step. */
export function maxRowsOf(options: Pick<LoadOptions, 'maxBatchTokens'>): number {
  return options.maxBatchTokens ?? MAX_ROWS;
}

/** Sequences of one step. */
export function maxSequencesOf(options: Pick<LoadOptions, 'maxBatchTokens' | 'maxNumSeqs'>): number {
  return Math.min(options.maxNumSeqs ?? MAX_SEQUENCES, maxRowsOf(options));
}

export function cacheSize(
  caches: readonly KvSpec[],
  maxPositions: number,
  options: LoadOptions,
  states: readonly StateSpec[] = [],
  blockSize = blockSizeOf(options),
): CacheSize {
  const { memory } = options.pagedAttn ?? {};
  const limit = Math.min(maxPositions, options.maxModelLen ?? maxPositions);
  const perPosition = Math.max(1, bytesPerPosition(caches));
  const maxSequences = maxSequencesOf(options);
  const total = memory !== undefined && 'mb' in memory ? memory.mb * 2 ** 20 : DEFAULT_BYTES;
  const stateSlots = slotsOf(bytesPerState(states), maxSequences, total, options);
  const positions = budget(memory, limit, perPosition, total - stateSlots * bytesPerState(states));
  const blocks = Math.floor(positions / blockSize);
  if (blocks < 1) {
    throw new ConfigError(
      `pagedAttn.memory: expected room for one block of ${blockSize} positions (${blockSize * perPosition} bytes)${beside(stateSlots, states)}, got less`,
    );
  }
  const contextLength = Math.min(limit, blocks * blockSize);
  const allStates = slotsOf(bytesPerState(states), maxSequences, Number.POSITIVE_INFINITY, options);
  const memoryFor = (n: number) => {
    const bytes = Math.ceil(n / blockSize) * blockSize * perPosition + allStates * bytesPerState(states);
    return Math.ceil(bytes / 2 ** 20);
  };
  return {
    cacheLimit: contextLength < limit ? { modelLength: limit, memoryFor } : undefined,
    blocks,
    blockSize,
    contextLength,
    maxBlocks: Math.ceil(contextLength / blockSize),
    maxRows: maxRowsOf(options),
    maxSequences,
    stateSlots,
  };
}

function beside(slots: number, states: readonly StateSpec[]): string {
  return slots === 0 ? '' : ` beside ${slots} recurrent states of ${bytesPerState(states)} bytes`;
}

/** As many as sequences and snapshots want, within a share of the memory; at least one for each sequence asked for. */
function slotsOf(perState: number, maxSequences: number, total: number, options: LoadOptions): number {
  if (perState === 0) return 0;
  const snapshots = options.prefixCacheN === 0 || options.noKvCache ? 0 : SNAPSHOTS;
  // A sequence keeps a second state for the case that guesses are wrong.
  const held = guessing(options) === undefined ? maxSequences : 2 * maxSequences;
  const asked = options.maxNumSeqs === undefined ? 0 : held + Math.min(1, snapshots);
  const wanted = held + snapshots;
  const affordable = Math.floor((total * STATE_SHARE) / perState);
  return Math.min(wanted, Math.max(affordable, asked, MIN_STATES));
}

function budget(
  memory: { readonly mb?: number; readonly contextSize?: number } | undefined,
  limit: number,
  perPosition: number,
  bytes: number,
): number {
  if (memory?.contextSize !== undefined) return memory.contextSize;
  if (memory?.mb !== undefined) return Math.floor(bytes / perPosition);
  const wanted = Math.min(limit * DEFAULT_CONTEXTS, Math.floor(bytes / perPosition));
  // A whole number of blocks of any size.
  return Math.ceil(Math.max(wanted, Math.min(limit, MIN_POSITIONS)) / BLOCK_SIZE) * BLOCK_SIZE;
}
