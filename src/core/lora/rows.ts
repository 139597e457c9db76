/** Which rows of a step belong to which adapter. */
import type { Backend } from '../backend.ts';
import type { PackedBatch } from '../engine/batch.ts';
import { InferenceError } from '../errors.ts';
import type { Tensor } from '../tensor.ts';

/** The rows of one adapter in a step. */
export interface RowGroup {
  /** Number of the generation. */
  serial: number;
  /** How many rows, and their numbers, among all rows and among those whose logits are wanted. */
  count: number;
  wanted: number;
  readonly ids: Tensor;
  readonly wantedIds: Tensor;
}

interface HostGroup extends RowGroup {
  readonly host: Int32Array;
  readonly wantedHost: Int32Array;
}

/** Reads the adapters of each batch. Without any, `groups` is 0 and nothing is written. */
export class AdapterRows {
  groups = 0;
  rows = 0;
  logitCount = 0;
  readonly #backend: Backend;
  readonly #maxRows: number;
  /** Grown with the most adapters that met in one step, and kept. */
  readonly #groups: HostGroup[] = [];
  readonly #groupOf: Int32Array;

  constructor(backend: Backend, maxRows: number) {
    this.#backend = backend;
    this.#maxRows = maxRows;
    this.#groupOf = new Int32Array(maxRows);
  }

  at(group: number): RowGroup {
    return this.#groups[group]!;
  }

  /** Whether `count` rows of an op are all rows of the step, and not only the wanted ones. */
  isWhole(count: number): boolean {
    if (count === this.rows) return true;
    if (count === this.logitCount) return false;
    throw new InferenceError(`adapter: expected products of ${this.rows} or ${this.logitCount} rows, got ${count}`);
  }

  begin(batch: PackedBatch): void {
    this.groups = 0;
    this.rows = batch.rows;
    this.logitCount = batch.logitCount;
    for (let s = 0; s < batch.sequences; s++) {
      const serial = batch.adapters[s]!;
      const index = serial === 0 ? -1 : this.#groupFor(serial);
      for (let r = batch.seqStart[s]!; r < batch.seqStart[s + 1]!; r++) {
        this.#groupOf[r] = index;
        if (index < 0) continue;
        const group = this.#groups[index]!;
        group.host[group.count++] = r;
      }
    }
    if (this.groups === 0) return;
    for (let i = 0; i < batch.logitCount; i++) {
      const index = this.#groupOf[batch.logitRows[i]!]!;
      if (index < 0) continue;
      const group = this.#groups[index]!;
      group.wantedHost[group.wanted++] = i;
    }
    for (let g = 0; g < this.groups; g++) {
      const group = this.#groups[g]!;
      if (group.count < batch.rows) this.#backend.write(group.ids, group.host, group.count);
      if (group.wanted < batch.logitCount) this.#backend.write(group.wantedIds, group.wantedHost, group.wanted);
    }
  }

  dispose(): void {
    for (const { ids, wantedIds } of this.#groups) {
      ids.dispose();
      wantedIds.dispose();
    }
    this.#groups.length = 0;
  }

  #groupFor(serial: number): number {
    for (let g = 0; g < this.groups; g++) if (this.#groups[g]!.serial === serial) return g;
    const index = this.groups++;
    const group = (this.#groups[index] ??= this.#make());
    group.serial = serial;
    group.count = group.wanted = 0;
    return index;
  }

  #make(): HostGroup {
    const n = this.#maxRows;
    const numbers = () => this.#backend.persistent([n], 'i32');
    return {
      serial: 0,
      count: 0,
      wanted: 0,
      ids: numbers(),
      wantedIds: numbers(),
      host: new Int32Array(n),
      wantedHost: new Int32Array(n),
    };
  }
}
