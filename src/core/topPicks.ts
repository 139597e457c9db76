/** The largest logits of a step, found and packed by the back-end, so that the host reads a few numbers a row. */
import type { Backend } from './backend.ts';
import type { TopLogits } from './engine/types.ts';
import { Tensor } from './tensor.ts';

/** Largest `k`; sampling rarely asks for more. */
export const MAX_TOP = 64;

/** Where one count of rows and one `k` keep their results. */
interface Slot {
  /** Indices, then values, as words. */
  readonly words: Tensor;
  readonly ids: Tensor;
  readonly values: Tensor;
  /** The ids as one row, and the tokens they become in the step that follows. */
  readonly line: Tensor;
  tokens: Tensor | undefined;
  /** What the host reads, over the array that the back-end gives out again and again. */
  array: Int32Array | undefined;
  result: TopLogits | undefined;
}

export class TopPicks {
  readonly #backend: Backend;
  /** Two, since one step may run while the last one is being read. */
  readonly #memory: readonly Tensor[];
  readonly #slots: readonly Map<number, Slot>[] = [new Map(), new Map()];
  #turn = 0;

  constructor(backend: Backend, maxRows: number) {
    this.#backend = backend;
    const words = 2 * maxRows * MAX_TOP;
    this.#memory = [backend.persistent([words], 'i32'), backend.persistent([words], 'i32')];
  }

  /** Enqueues the search in `logits` `[rows, vocab]` and returns where the result will be. */
  pick(logits: Tensor, k: number): Slot {
    this.#turn = 1 - this.#turn;
    const slot = this.#slot(logits.shape[0] as number, k);
    this.#backend.ops.topk(slot.values, slot.ids, logits, k);
    return slot;
  }

  /** Enqueues the copy of what the last `pick` with `k` 1 found: the tokens of the step that follows it. */
  takeTokens(tokens: Tensor, rows: number): void {
    const slot = this.#slot(rows, 1);
    slot.tokens ??= tokens.rows(0, rows);
    this.#backend.ops.slice(slot.tokens, slot.line, 0, 0, 1);
  }

  /** Runs what is enqueued; the arrays are valid until the call after the next. */
  async read(slot: Slot, k: number): Promise<TopLogits> {
    const words = (await this.#backend.view(slot.words)) as Int32Array;
    if (slot.result === undefined || slot.array !== words) {
      const half = words.length / 2;
      const values = new Float32Array(words.buffer, words.byteOffset + half * 4, half);
      slot.array = words;
      slot.result = { k, ids: words.subarray(0, half), values };
    }
    return slot.result;
  }

  dispose(): void {
    for (const t of this.#memory) t.dispose();
  }

  #slot(rows: number, k: number): Slot {
    const slots = this.#slots[this.#turn] as Map<number, Slot>;
    const key = rows * (MAX_TOP + 1) + k;
    let slot = slots.get(key);
    if (slot === undefined) {
      const memory = this.#memory[this.#turn] as Tensor;
      const n = rows * k;
      const { storage } = memory;
      slot = {
        words: new Tensor(this.#backend, storage, [2 * n], 'i32'),
        ids: new Tensor(this.#backend, storage, [rows, k], 'i32'),
        values: new Tensor(this.#backend, storage, [rows, k], 'f32', n),
        line: new Tensor(this.#backend, storage, [n], 'i32'),
        tokens: undefined,
        array: undefined,
        result: undefined,
      };
      slots.set(key, slot);
    }
    return slot;
  }
}
