/**
 * X-LoRA's two passes as one decoder: the first runs with constant scalings and a cache of its own, the classifier makes of
 * its features what each adapter counts for in each row, and the second runs with that.
 */
import type { Backend } from '../backend.ts';
import { copy } from '../composed/basics.ts';
import type { PackedBatch } from '../engine/batch.ts';
import type { RowScalings } from '../lora/scaled.ts';
import type { Decoder, Step } from '../model.ts';
import { gatherRows, permute, scatterRows } from '../ops.ts';
import type { BatchReader } from '../runner.ts';
import type { Tensor } from '../tensor.ts';
import type { Classifier } from './classifier.ts';

const SWAPPED: readonly number[] = Object.freeze([1, 0]);

export interface PassesParts {
  readonly backend: Backend;
  readonly decoder: Decoder;
  readonly classifier: Classifier;
  /** What every adapter counts for in the first pass. */
  readonly passValue: number;
  /**
   * Scalings of the token that follows so many tokens of the answer are those of all tokens behind it, which then take one
   * pass; `undefined` gives every token its own.
   */
  readonly freezeAfter: number | undefined;
  readonly maxRows: number;
  readonly maxSequences: number;
}

export class XLoraPasses implements RowScalings, BatchReader {
  /** With the caches of both passes, and a state for frozen scalings. */
  readonly decoder: Decoder;
  constant: number | undefined;
  readonly #parts: PassesParts;
  readonly #frozen: FrozenRows | undefined;
  #first: Step | undefined;
  /** Of the step at hand. */
  #step: Step | undefined;
  #scalings: Tensor | undefined;
  /** `[columns, rows]` of all rows, and of those whose logits are wanted. */
  #all: Tensor | undefined;
  #wanted: Tensor | undefined;
  readonly #lead: () => void;

  constructor(parts: PassesParts) {
    const { decoder, classifier } = parts;
    this.#parts = parts;
    this.constant = parts.passValue;
    if (parts.freezeAfter !== undefined) this.#frozen = new FrozenRows(parts, parts.freezeAfter);
    const { caches, states } = decoder;
    const both = [...states, ...states];
    this.decoder = {
      ...decoder,
      caches: [...caches, ...caches],
      states: this.#frozen ? [...both, { shape: [classifier.width] }] : both,
      forward: (step) => this.#forward(step),
    };
    this.#lead = () => {
      copy(this.#scalings!, classifier.run(decoder.features(this.#first!)));
    };
  }

  begin(batch: PackedBatch): void {
    this.#frozen?.begin(batch);
  }

  of(columns: Tensor, rows: number): Tensor {
    const table = rows === this.#step!.batch.rows ? this.#all! : this.#wanted!;
    return transposed(gatherRows(table, columns));
  }

  dispose(): void {
    this.#frozen?.dispose();
    this.#parts.classifier.dispose();
  }

  #forward(step: Step): Tensor {
    if (step !== this.#step) this.#split(step);
    const { backend, batch } = step;
    const scalings = backend.allocRows(batch.rows, this.#parts.classifier.width);
    if (this.#frozen?.all !== true) {
      this.#scalings = scalings;
      this.constant = this.#parts.passValue;
      backend.scope(this.#lead);
    }
    this.#frozen?.apply(scalings, step.states.at(-1)!);
    this.#all = transposed(scalings);
    const some = batch.logitCount < batch.rows;
    this.#wanted = some ? transposed(gatherRows(scalings, batch.logitRows, batch.logitCount)) : this.#all;
    this.constant = undefined;
    return this.#parts.decoder.forward(step);
  }

  /** Each pass sees its own half of the caches and states. */
  #split(step: Step): void {
    const { caches, states } = this.#parts.decoder;
    this.#step = step;
    this.#first = { ...step, caches: step.caches.slice(caches.length), states: step.states.slice(states.length) };
  }
}

/** `[n, m]` as `[m, n]`. */
function transposed(x: Tensor): Tensor {
  const [rows, columns] = x.shape as readonly [number, number];
  return rows === 1 || columns === 1 ? x.reshape([columns, rows]) : permute(x, SWAPPED);
}

/** Which rows take scalings that were frozen before, and which are frozen now. A sequence keeps its own in its state. */
class FrozenRows {
  /** Every row of the step takes frozen scalings: no first pass is needed. */
  all = false;
  readonly #backend: Backend;
  readonly #after: number;
  readonly #kept: IdPairs;
  readonly #taken: IdPairs;

  constructor({ backend, maxRows, maxSequences }: PassesParts, after: number) {
    this.#backend = backend;
    this.#after = after;
    this.#kept = new IdPairs(backend, maxSequences);
    this.#taken = new IdPairs(backend, maxRows);
  }

  begin(batch: PackedBatch): void {
    this.#kept.count = this.#taken.count = 0;
    for (let s = 0; s < batch.sequences; s++) {
      const slot = batch.stateSlots[s]!;
      const last = batch.promptLengths[s]! - 1 + this.#after;
      for (let r = batch.seqStart[s]!; r < batch.seqStart[s + 1]!; r++) {
        const position = batch.positions[r]!;
        if (position === last) this.#kept.add(r, slot);
        else if (position > last) this.#taken.add(r, slot);
      }
    }
    this.all = this.#taken.count === batch.rows;
    this.#kept.write(this.#backend);
    this.#taken.write(this.#backend);
  }

  /** Keeps rows of `scalings` in their sequences' slots, then replaces others by what is kept there. */
  apply(scalings: Tensor, slots: Tensor): void {
    const { rows: kept, slots: into, count } = this.#kept;
    if (count > 0) scatterRows(slots, gatherRows(scalings, kept, count), into);
    const taken = this.#taken;
    if (taken.count > 0) scatterRows(scalings, gatherRows(slots, taken.slots, taken.count), taken.rows);
  }

  dispose(): void {
    this.#kept.dispose();
    this.#taken.dispose();
  }
}

/** Pairs of a row and a slot. */
class IdPairs {
  count = 0;
  readonly rows: Tensor;
  readonly slots: Tensor;
  readonly #rows: Int32Array;
  readonly #slots: Int32Array;

  constructor(backend: Backend, most: number) {
    this.rows = backend.persistent([most], 'i32');
    this.slots = backend.persistent([most], 'i32');
    this.#rows = new Int32Array(most);
    this.#slots = new Int32Array(most);
  }

  add(row: number, slot: number): void {
    this.#rows[this.count] = row;
    this.#slots[this.count++] = slot;
  }

  write(backend: Backend): void {
    if (this.count === 0) return;
    backend.write(this.rows, this.#rows, this.count);
    backend.write(this.slots, this.#slots, this.count);
  }

  dispose(): void {
    this.rows.dispose();
    this.slots.dispose();
  }
}
