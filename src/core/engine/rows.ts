import type { TopLogits, TopRow } from './types.ts';

/** One view per row of a result, kept while the model returns the same memory. */
export class RowViews {
  readonly #width: number;
  readonly #views: Float32Array[] = [];
  #buffer: ArrayBufferLike | undefined;
  #offset = 0;
  /** The one row of largest logits that is looked at. */
  readonly #top: { -readonly [K in keyof TopRow]: TopRow[K] } = {
    k: 0,
    ids: new Int32Array(0),
    values: new Float32Array(0),
    at: 0,
  };

  constructor(width: number) {
    this.#width = width;
  }

  at(rows: Float32Array | TopLogits, row: number): Float32Array | TopRow {
    if (!(rows instanceof Float32Array)) {
      const top = this.#top;
      top.k = rows.k;
      top.ids = rows.ids;
      top.values = rows.values;
      top.at = row * rows.k;
      return top;
    }
    if (rows.buffer !== this.#buffer || rows.byteOffset !== this.#offset) {
      this.#views.length = 0;
      this.#buffer = rows.buffer;
      this.#offset = rows.byteOffset;
    }
    return (this.#views[row] ??= rows.subarray(row * this.#width, (row + 1) * this.#width));
  }
}
