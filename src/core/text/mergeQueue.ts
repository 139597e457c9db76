/** A binary heap of possible merges: lowest priority number first, then leftmost. */
export class MergeQueue {
  #priorities: Float64Array;
  #positions: Int32Array;
  #tags: Int32Array;
  length = 0;
  /** Of the last entry taken. */
  position = 0;
  tag = 0;

  constructor(capacity: number) {
    this.#priorities = new Float64Array(capacity);
    this.#positions = new Int32Array(capacity);
    this.#tags = new Int32Array(capacity);
  }

  push(priority: number, position: number, tag: number): void {
    if (this.length === this.#positions.length) this.#grow();
    let at = this.length++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#isBefore(priority, position, parent)) break;
      this.#move(parent, at);
      at = parent;
    }
    this.#put(at, priority, position, tag);
  }

  /** Takes the first entry into `position` and `tag`. */
  pop(): void {
    this.position = this.#positions[0]!;
    this.tag = this.#tags[0]!;
    const last = --this.length;
    const priority = this.#priorities[last]!;
    const position = this.#positions[last]!;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= last) break;
      if (child + 1 < last && !this.#isBefore(this.#priorities[child]!, this.#positions[child]!, child + 1)) {
        child++;
      }
      if (this.#isBefore(priority, position, child)) break;
      this.#move(child, at);
      at = child;
    }
    this.#put(at, priority, position, this.#tags[last]!);
  }

  #isBefore(priority: number, position: number, other: number): boolean {
    const theirs = this.#priorities[other]!;
    return priority < theirs || (priority === theirs && position < this.#positions[other]!);
  }

  #move(from: number, to: number): void {
    this.#put(to, this.#priorities[from]!, this.#positions[from]!, this.#tags[from]!);
  }

  #put(at: number, priority: number, position: number, tag: number): void {
    this.#priorities[at] = priority;
    this.#positions[at] = position;
    this.#tags[at] = tag;
  }

  #grow(): void {
    const capacity = Math.max(16, 2 * this.#positions.length);
    const priorities = new Float64Array(capacity);
    const positions = new Int32Array(capacity);
    const tags = new Int32Array(capacity);
    priorities.set(this.#priorities);
    positions.set(this.#positions);
    tags.set(this.#tags);
    this.#priorities = priorities;
    this.#positions = positions;
    this.#tags = tags;
  }
}
