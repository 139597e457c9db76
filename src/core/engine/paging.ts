/** Which blocks (and state slot) a sequence holds: reuse of known ones, slots for the next rows, sharing among choices. */
import type { BlockPool } from './blocks.ts';
import type { Plan } from './plan.ts';
import type { Sequence } from './sequence.ts';
import type { StatePool } from './states.ts';

export class Paging {
  readonly #pool: BlockPool;
  readonly #prefixCache: boolean;
  readonly #states: StatePool | undefined;

  /** `states`: of models with recurrent layers. */
  constructor(pool: BlockPool, options: { readonly prefixCache: boolean }, states?: StatePool) {
    this.#pool = pool;
    this.#states = states;
    if (states) pool.onForget = (block) => states.forget(block);
    this.#prefixCache = options.prefixCache;
  }

  /**
   * Takes known blocks in place of computing them, while the sequence stands at the end of its last block. At least one
   * token is left to compute, for its logits.
   */
  reuse(sequence: Sequence): void {
    if (!this.#caches(sequence) || sequence.computed !== sequence.blockCount * this.#pool.blockSize) return;
    if (this.#states) this.#resume(sequence, this.#states);
    else while (this.#reuseNext(sequence));
  }

  #reuseNext(sequence: Sequence): boolean {
    const { blockSize } = this.#pool;
    if (sequence.computed + blockSize >= sequence.length) return false;
    const block = this.#pool.reuse(lastBlock(sequence), sequence.tokens, sequence.computed, sequence.salt);
    if (block < 0) return false;
    sequence.pushBlock(block);
    sequence.published++;
    sequence.computed += blockSize;
    return true;
  }

  /** Known blocks up to the last one with a snapshot of the state, which the sequence goes on from. */
  #resume(sequence: Sequence, states: StatePool): void {
    const { block, position, known } = this.#deepest(sequence, states);
    if (known > Math.max(position, sequence.computed)) sequence.branch = known;
    if (block < 0) {
      this.#pool.lookups++;
      return;
    }
    states.touch(block);
    if (sequence.slot < 0) sequence.slot = states.take();
    // The last snapshot of all may have made room for the slot.
    if (sequence.slot < 0 || !states.has(block)) return;
    while (sequence.computed < position) this.#reuseNext(sequence);
    states.restore(block, sequence.slot);
  }

  /** The last known block with a snapshot, the position behind it, and the one up to which blocks are known. */
  #deepest(sequence: Sequence, states: StatePool): { block: number; position: number; known: number } {
    const { blockSize } = this.#pool;
    let [block, position, known] = [-1, 0, sequence.computed];
    for (let parent = lastBlock(sequence); known + blockSize < sequence.length; ) {
      parent = this.#pool.find(parent, sequence.tokens, known, sequence.salt);
      if (parent < 0) break;
      known += blockSize;
      if (states.has(parent)) [block, position] = [parent, known];
    }
    return { block, position, known };
  }

  /**
   * Most of the next `rows` rows that a step should run, so that it ends where a snapshot of the state is of use: where
   * other sequences left this one's tokens, at the last block that an equal prompt can take over, else at the end of any.
   */
  cut(sequence: Sequence, rows: number): number {
    if (!this.#states || !this.#caches(sequence)) return rows;
    const { computed, length, branch } = sequence;
    const end = computed + rows;
    const last = this.#wholeBlocks(length - 1);
    if (computed < branch && branch < end) return branch - computed;
    if (computed < last && last < end) return last - computed;
    const whole = this.#wholeBlocks(end);
    return end < length && whole > computed ? whole - computed : rows;
  }

  #wholeBlocks(position: number): number {
    return position - (position % this.#pool.blockSize);
  }

  /** Slots for up to `rows` more tokens; returns for how many there are blocks. A shared last block is copied first. */
  reserve(sequence: Sequence, rows: number, plan: Plan): number {
    if (this.#states && sequence.slot < 0) {
      sequence.slot = this.#states.take();
      if (sequence.slot < 0) return 0;
    }
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

  /** How many drafts may follow the pending tokens: a state is kept at the end of each block, so none runs beyond it. */
  draftRoom(sequence: Sequence): number {
    if (!this.#states || !this.#caches(sequence)) return Number.POSITIVE_INFINITY;
    return this.#wholeBlocks(sequence.computed) + this.#pool.blockSize - sequence.length;
  }

  /**
   * Keeps the state of a sequence for the case that drafts are wrong. False where that would take a slot of the
   * `waiting` sequences that have none yet.
   */
  guard(sequence: Sequence, waiting: number): boolean {
    if (!this.#states || sequence.guard >= 0) return true;
    if (this.#states.spare <= waiting) return false;
    sequence.guard = this.#states.take();
    sequence.guarded = sequence.computed;
    this.#states.copy(sequence.slot, sequence.guard);
    return true;
  }

  /** What ran is right up to the state itself, which is now the one to keep. */
  confirm(sequence: Sequence): void {
    this.publish(sequence);
    if (!this.#states) return;
    this.#dropGuard(sequence, this.#states);
    const known = sequence.published * this.#pool.blockSize;
    if (this.#caches(sequence) && sequence.computed > 0 && sequence.computed === known) {
      this.#snapshot(sequence, this.#states);
    }
  }

  /** The state ran over wrong drafts: it goes back to before the step, and the tokens behind that run again. */
  goBack(sequence: Sequence): void {
    if (!this.#states || sequence.guard < 0) return;
    this.#states.copy(sequence.guard, sequence.slot);
    sequence.computed = sequence.guarded;
  }

  #dropGuard(sequence: Sequence, states: StatePool): void {
    if (sequence.guard >= 0) states.release(sequence.guard);
    sequence.guard = -1;
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

  /** Keeps the state at the end of a block. One that is only on the way replaces the one before it. */
  #snapshot(sequence: Sequence, states: StatePool): void {
    const { computed, length, promptLength, branch } = sequence;
    const block = lastBlock(sequence);
    const lasting = computed === branch || (computed <= promptLength && computed >= this.#wholeBlocks(length - 1));
    const fresh = !states.has(block);
    if (sequence.passing >= 0 && sequence.passing !== block) states.forget(sequence.passing);
    states.save(block, sequence.slot);
    sequence.passing = lasting || !fresh ? -1 : block;
  }

  /**
   * `to` continues where `from` stands, on the same blocks and with a copy of its state. False where no slot is left for
   * one: `to` has to start over.
   */
  fork(from: Sequence, to: Sequence): boolean {
    if (this.#states) {
      to.slot = this.#states.take();
      if (to.slot < 0) return false;
      this.#states.copy(from.slot, to.slot);
    }
    for (let i = 0; i < from.blockCount; i++) {
      this.#pool.retain(from.blocks[i]!);
      to.pushBlock(from.blocks[i]!);
    }
    to.computed = from.computed;
    to.published = from.published;
    return true;
  }

  /** Gives every block back; nothing of the sequence is computed any more. */
  release(sequence: Sequence): void {
    while (sequence.blockCount > 0) this.#pool.release(sequence.blocks[--sequence.blockCount]!);
    sequence.published = 0;
    sequence.computed = 0;
    if (this.#states) this.#dropGuard(sequence, this.#states);
    if (this.#states && sequence.slot >= 0) this.#states.release(sequence.slot);
    sequence.slot = sequence.passing = -1;
    sequence.branch = 0;
  }

  /** Nothing computed so far is of use to later sequences. */
  forgetAll(): void {
    this.#pool.forgetAll();
    this.#states?.forgetAll();
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
    const end = this.#states ? this.#deepest(sequence, this.#states).position + 1 : sequence.length;
    for (let at = 0; at + blockSize < end; at += blockSize) {
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
