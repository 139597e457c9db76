/** Which blocks a sequence holds: reuse of known ones, slots for the next rows, sharing among choices. */
import type { BlockPool } from './blocks.ts';
import type { Plan } from './plan.ts';
import type { Sequence } from './sequence.ts';

export class Paging {
  readonly #pool: BlockPool;
  readonly #prefixCache: boolean;

  constructor(pool: BlockPool, options: { readonly prefixCache: boolean }) {
    this.#pool = pool;
    this.#prefixCache = options.prefixCache;
  }

  /**
   * Takes known blocks in place of computing them, while the sequence stands at the end of its last block. At least one
   * token is left to compute, for its logits.
   */
  reuse(sequence: Sequence): void {
    if (!this.#caches(sequence)) return;
    const { blockSize } = this.#pool;
    while (sequence.computed === sequence.blockCount * blockSize && sequence.computed + blockSize < sequence.length) {
      const block = this.#pool.reuse(lastBlock(sequence), sequence.tokens, sequence.computed, sequence.salt);
      if (block < 0) return;
      sequence.pushBlock(block);
      sequence.published++;
      sequence.computed += blockSize;
    }
  }

  /** Slots for up to `rows` more tokens; returns for how many there are blocks. A shared last block is copied first. */
  reserve(sequence: Sequence, rows: number, plan: Plan): number {
    const { blockSize } = this.#pool;
    const at = Math.floor(sequence.computed / blockSize);
    if (at < sequence.blockCount && this.#pool.references(sequence.blocks[at]!) > 1) {
      const own = this.#pool.allocate();
      if (own < 0) return 0;
      plan.copy(sequence.blocks[at]!, own);
      this.#pool.release(sequence.blocks[at]!);
      sequence.blocks[at] = own;
    }
    while (sequence.blockCount * blockSize < sequence.computed + rows) {
      const block = this.#pool.allocate();
      if (block < 0) break;
      sequence.pushBlock(block);
    }
    return Math.min(rows, sequence.blockCount * blockSize - sequence.computed);
  }

  /** Makes the blocks that are full now known to the pool. */
  publish(sequence: Sequence): void {
    if (!this.#caches(sequence)) return;
    const { blockSize } = this.#pool;
    while ((sequence.published + 1) * blockSize <= sequence.computed) {
      const i = sequence.published;
      const parent = i === 0 ? -1 : sequence.blocks[i - 1]!;
      const { blocks, tokens, salt } = sequence;
      blocks[i] = this.#pool.publish(blocks[i]!, parent, tokens, i * blockSize, salt);
      sequence.published++;
    }
  }

  /** `to` continues where `from` stands, on the same blocks. */
  fork(from: Sequence, to: Sequence): void {
    for (let i = 0; i < from.blockCount; i++) {
      this.#pool.retain(from.blocks[i]!);
      to.pushBlock(from.blocks[i]!);
    }
    to.computed = from.computed;
    to.published = from.published;
  }

  /** Gives every block back; nothing of the sequence is computed any more. */
  release(sequence: Sequence): void {
    while (sequence.blockCount > 0) this.#pool.release(sequence.blocks[--sequence.blockCount]!);
    sequence.published = 0;
    sequence.computed = 0;
  }

  /** Blocks to take from the free ones until all known tokens of a sequence are computed. */
  missing(sequence: Sequence): number {
    return Math.ceil(sequence.length / this.#pool.blockSize) - sequence.blockCount;
  }

  /** Blocks that nobody else holds. */
  exclusive(sequence: Sequence): number {
    let count = 0;
    for (let i = 0; i < sequence.blockCount; i++) if (this.#pool.references(sequence.blocks[i]!) === 1) count++;
    return count;
  }

  /** How many of `missing` others hold at this moment, so that they could be shared. */
  shareable(sequence: Sequence): number {
    if (!this.#caches(sequence) || sequence.blockCount > 0) return 0;
    const { blockSize } = this.#pool;
    let count = 0;
    let parent = -1;
    for (let at = 0; at + blockSize < sequence.length; at += blockSize) {
      parent = this.#pool.find(parent, sequence.tokens, at, sequence.salt);
      if (parent < 0) break;
      if (this.#pool.references(parent) > 0) count++;
    }
    return count;
  }

  #caches(sequence: Sequence): boolean {
    return this.#prefixCache && !sequence.group.raw;
  }
}

function lastBlock(sequence: Sequence): number {
  return sequence.blockCount === 0 ? -1 : sequence.blocks[sequence.blockCount - 1]!;
}
