/** One view per row of a result, kept while the model returns the same memory. */
export class RowViews {
  readonly #width: number;
  readonly #views: Float32Array[] = [];
  #buffer: ArrayBufferLike | undefined;
  #offset = 0;

  constructor(width: number) {
    this.#width = width;
  }

  at(rows: Float32Array, row: number): Float32Array {
    if (rows.buffer !== this.#buffer || rows.byteOffset !== this.#offset) {
      this.#views.length = 0;
      this.#buffer = rows.buffer;
      this.#offset = rows.byteOffset;
    }
    return (this.#views[row] ??= rows.subarray(row * this.#width, (row + 1) * this.#width));
  }
}
