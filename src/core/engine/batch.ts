/** One step for the model, as packed rows in arrays that are reused. Mirrors the host side of `Batch` in `backend.ts`. */

/**
 * Sequence `s` owns rows `[seqStart[s], seqStart[s + 1])`, the last positions of its `kvLen[s]` cached ones. Entries past
 * the counts are stale.
 */
export interface PackedBatch {
  rows: number;
  sequences: number;
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
  /** Rows whose logits are wanted, rising. */
  readonly logitRows: Int32Array;
  /** Tokens each sequence is known to have, computed or not. */
  readonly knownLen: Int32Array;
  /** Pairs `(from, to)` of blocks to copy before the rows run. */
  readonly copies: Int32Array;
}
