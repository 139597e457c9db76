/** A growing list of token ids. */
export class IdList {
  #ids = new Uint32Array(64);
  length = 0;

  push(id: number): void {
    if (this.length === this.#ids.length) this.#grow(this.length + 1);
    this.#ids[this.length++] = id;
  }

  append(ids: ArrayLike<number>, start: number, end: number): void {
    const count = end - start;
    if (this.length + count > this.#ids.length) this.#grow(this.length + count);
    for (let i = 0; i < count; i++) this.#ids[this.length + i] = ids[start + i]!;
    this.length += count;
  }

  at(index: number): number {
    return this.#ids[index]!;
  }

  /** The ids in an array of their own. */
  toArray(): Uint32Array {
    return this.#ids.slice(0, this.length);
  }

  #grow(least: number): void {
    const larger = new Uint32Array(Math.max(least, 2 * this.#ids.length));
    larger.set(this.#ids.subarray(0, this.length));
    this.#ids = larger;
  }
}
