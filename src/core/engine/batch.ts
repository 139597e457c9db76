/** One step for the model, as packed rows in arrays that are reused. Mirrors the host side of `Batch` in `backend.ts`. */
import type { Plan } from './plan.ts';
import type { Sequence } from './sequence.ts';
import type { StatePool } from './states.ts';

/**
 * Sequence `s` owns rows `[seqStart[s], seqStart[s + 1])`, the last positions of its `kvLen[s]` cached ones. Entries past
 * the counts are stale.
 */
export interface PackedBatch {
  rows: number;
  sequences: number;
  /** Row `r` runs the token chosen for row `r` of the step before, which may still run: `tokens` is not filled in. */
  follows: boolean;
  /** Entries of one row of `blockTable`. */
  blocksPerSequence: number;
  logitCount: number;
  copyCount: number;
  readonly tokens: Int32Array;
  readonly positions: Int32Array;
  /** Row → cache slot: `block * blockSize + offset`. */
  readonly slots: Int32Array;
  readonly seqStart: Int32Array;
  readonly kvLen: Int32Array;
  /** `[sequences, blocksPerSequence]` block numbers in order of position, -1 beyond a sequence's last. */
  readonly blockTable: Int32Array;
  /** Number of every sequence's adapter generation, 0 for none. */
  readonly adapters: Int32Array;
  /** Slot of every sequence in the states of recurrent layers. */
  readonly stateSlots: Int32Array;
  /** Rows whose logits are wanted, rising. */
  readonly logitRows: Int32Array;
  /** Tokens of every sequence's prompt: positions from there on are those of the answer. */
  readonly promptLengths: Int32Array;
  /** Length each sequence is computed for; positions from there on count as the end of it. */
  readonly baseLen: Int32Array;
  /** `copyCount` pairs `(from, to)` of blocks, to be copied in this order before the rows run. */
  readonly copies: Int32Array;
  /** `stateCopyCount` pairs `(from, to)` of state slots, likewise. */
  stateCopies: Int32Array;
  stateCopyCount: number;
}

export interface BatchLimits {
  readonly maxRows: number;
  readonly maxSequences: number;
  readonly maxLogitRows: number;
  /** Blocks of the longest sequence. */
  readonly maxBlocks: number;
  readonly blockSize: number;
}

/** A batch with room for what the limits allow. */
export function emptyBatch({ maxRows, maxSequences, maxLogitRows, maxBlocks }: BatchLimits): PackedBatch {
  return {
    rows: 0,
    sequences: 0,
    follows: false,
    blocksPerSequence: 0,
    logitCount: 0,
    copyCount: 0,
    tokens: new Int32Array(maxRows),
    positions: new Int32Array(maxRows),
    slots: new Int32Array(maxRows),
    seqStart: new Int32Array(maxSequences + 1),
    kvLen: new Int32Array(maxSequences),
    blockTable: new Int32Array(maxSequences * maxBlocks),
    adapters: new Int32Array(maxSequences),
    stateSlots: new Int32Array(maxSequences),
    logitRows: new Int32Array(maxLogitRows),
    promptLengths: new Int32Array(maxSequences),
    baseLen: new Int32Array(maxSequences),
    copies: new Int32Array(2 * maxSequences),
    stateCopies: new Int32Array(0),
    stateCopyCount: 0,
  };
}

/** Writes plans into one batch whose arrays it keeps. */
export class BatchBuilder {
  readonly #limits: BatchLimits;
  readonly #states: StatePool | undefined;
  readonly #batch: PackedBatch;

  /** `states`: whose queued copies go with every batch. */
  constructor(limits: BatchLimits, states?: StatePool) {
    this.#limits = limits;
    this.#states = states;
    this.#batch = emptyBatch(limits);
  }

  /** `follows`: see `PackedBatch`. */
  build(plan: Plan, follows = false): PackedBatch {
    const batch = this.#batch;
    batch.follows = follows;
    batch.rows = 0;
    batch.logitCount = 0;
    batch.sequences = plan.count;
    batch.blocksPerSequence = 0;
    for (let s = 0; s < plan.count; s++) {
      batch.blocksPerSequence = Math.max(batch.blocksPerSequence, plan.sequences[s]!.blockCount);
    }
    batch.copyCount = plan.copyCount;
    for (let i = 0; i < 2 * plan.copyCount; i++) batch.copies[i] = plan.copies[i]!;
    if (this.#states) {
      batch.stateCopies = this.#states.copies;
      batch.stateCopyCount = this.#states.copyCount;
      this.#states.copyCount = 0;
    }
    for (let s = 0; s < plan.count; s++) {
      const sequence = plan.sequences[s]!;
      const rows = plan.rowCounts[s]!;
      batch.adapters[s] = sequence.group.adapter;
      batch.stateSlots[s] = sequence.slot;
      batch.seqStart[s] = batch.rows;
      batch.kvLen[s] = sequence.computed + rows;
      batch.promptLengths[s] = sequence.promptLength;
      batch.baseLen[s] = sequence.base;
      this.#writeBlocks(s, sequence);
      this.#writeRows(sequence, rows);
      for (let r = batch.rows - plan.wanted[s]!; r < batch.rows; r++) batch.logitRows[batch.logitCount++] = r;
    }
    batch.seqStart[plan.count] = batch.rows;
    return batch;
  }

  #writeBlocks(s: number, sequence: Sequence): void {
    const { blockTable, blocksPerSequence } = this.#batch;
    const base = s * blocksPerSequence;
    for (let i = 0; i < blocksPerSequence; i++) {
      blockTable[base + i] = i < sequence.blockCount ? sequence.blocks[i]! : -1;
    }
  }

  #writeRows(sequence: Sequence, rows: number): void {
    const batch = this.#batch;
    const { blockSize } = this.#limits;
    for (let i = 0; i < rows; i++) {
      const position = sequence.computed + i;
      const row = batch.rows + i;
      batch.tokens[row] = sequence.tokens[position]!;
      batch.positions[row] = position;
      batch.slots[row] = sequence.blocks[Math.floor(position / blockSize)]! * blockSize + (position % blockSize);
    }
    batch.rows += rows;
  }
}
