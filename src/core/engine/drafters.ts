/** Two drafters as one: the second guesses where the first knew nothing. */
import type { Sequence } from './sequence.ts';
import type { Drafter } from './types.ts';

export class EitherDrafter implements Drafter {
  readonly maxDraft: number;
  readonly #first: Drafter;
  readonly #second: Drafter;

  constructor(first: Drafter, second: Drafter) {
    this.maxDraft = Math.max(first.maxDraft, second.maxDraft);
    this.#first = first;
    this.#second = second;
  }

  draft(sequences: readonly Sequence[], limits: Int32Array): Promise<void> | undefined {
    const drafting = this.#first.draft(sequences, limits);
    return drafting === undefined
      ? this.#others(sequences, limits)
      : drafting.then(() => this.#others(sequences, limits));
  }

  #others(sequences: readonly Sequence[], limits: Int32Array): Promise<void> | undefined {
    for (const [i, sequence] of sequences.entries()) if (sequence.draftCount > 0) limits[i] = 0;
    return this.#second.draft(sequences, limits);
  }
}
