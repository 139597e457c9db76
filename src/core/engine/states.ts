/**
 * Slots for the states of recurrent layers: one for each running sequence, the rest for snapshots. A snapshot belongs to a
 * known block of the key/value cache and holds the state behind the last position of it, so that a sequence which takes
 * that block over can go on from there. No tensor here: what to copy is queued for the next step.
 */

const NONE = -1;

export class StatePool {
  readonly total: number;
  /** Stack of slots nobody holds. */
  readonly #free: Int32Array;
  #freeCount: number;
  /** By block: slot of its snapshot. */
  readonly #slotOf: Int32Array;
  /** By slot: block of the snapshot in it. */
  readonly #blockOf: Int32Array;
  /** By slot: when its snapshot was made or used last. */
  readonly #used: Float64Array;
  #clock = 0;
  #snapshots = 0;

  /** Pairs `(from, to)`, to be copied in this order before the next rows run. */
  copies = new Int32Array(16);
  copyCount = 0;

  constructor(total: number, blocks: number) {
    this.total = total;
    this.#free = Int32Array.from({ length: total }, (_, i) => total - 1 - i);
    this.#freeCount = total;
    this.#slotOf = new Int32Array(blocks).fill(NONE);
    this.#blockOf = new Int32Array(total).fill(NONE);
    this.#used = new Float64Array(total);
  }

  /** Slots that sequences hold. */
  get held(): number {
    return this.total - this.#freeCount - this.#snapshots;
  }

  get snapshots(): number {
    return this.#snapshots;
  }

  /** A slot for a sequence, or -1. The snapshot longest unused gives its own when no other is left. */
  take(): number {
    if (this.#freeCount === 0 && !this.#evict()) return NONE;
    return this.#free[--this.#freeCount]!;
  }

  release(slot: number): void {
    this.#free[this.#freeCount++] = slot;
  }

  copy(from: number, to: number): void {
    if (2 * this.copyCount === this.copies.length) {
      const larger = new Int32Array(2 * this.copies.length);
      larger.set(this.copies);
      this.copies = larger;
    }
    this.copies[2 * this.copyCount] = from;
    this.copies[2 * this.copyCount + 1] = to;
    this.copyCount++;
  }

  has(block: number): boolean {
    return this.#slotOf[block] !== NONE;
  }

  /** Marks a snapshot as used. */
  touch(block: number): void {
    this.#used[this.#slotOf[block]!] = ++this.#clock;
  }

  /** Keeps the state in `slot` as that behind `block`, unless it is kept already or sequences hold all slots. */
  save(block: number, slot: number): void {
    if (!this.has(block)) {
      const own = this.take();
      if (own === NONE) return;
      this.#slotOf[block] = own;
      this.#blockOf[own] = block;
      this.#snapshots++;
      this.copy(slot, own);
    }
    this.touch(block);
  }

  /** Gives `slot` the state behind `block`, of which there is a snapshot. */
  restore(block: number, slot: number): void {
    this.copy(this.#slotOf[block]!, slot);
    this.touch(block);
  }

  /** Slots that could be taken, for snapshots give theirs up. */
  get spare(): number {
    return this.#freeCount + this.#snapshots;
  }

  /** Drops the snapshot of a block, if there is one. */
  forget(block: number): void {
    const slot = this.#slotOf[block]!;
    if (slot === NONE) return;
    this.#slotOf[block] = NONE;
    this.#blockOf[slot] = NONE;
    this.#snapshots--;
    this.release(slot);
  }

  /** Drops all snapshots. */
  forgetAll(): void {
    for (let slot = 0; slot < this.total; slot++) if (this.#blockOf[slot] !== NONE) this.forget(this.#blockOf[slot]!);
  }

  #evict(): boolean {
    let oldest = NONE;
    for (let slot = 0; slot < this.total; slot++) {
      if (this.#blockOf[slot] !== NONE && (oldest === NONE || this.#used[slot]! < this.#used[oldest]!)) oldest = slot;
    }
    if (oldest === NONE) return false;
    this.forget(this.#blockOf[oldest]!);
    return true;
  }
}
