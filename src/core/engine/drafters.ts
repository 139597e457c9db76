/** Two drafters as one: the second guesses where the first knew nothing. Only the second may observe steps. */
import type { Plan } from './plan.ts';
import type { Sequence } from './sequence.ts';
import type { Drafter } from './types.ts';

export class EitherDrafter implements Drafter {
  readonly maxDraft: number;
  readonly observe: ((plan: Plan) => void) | undefined;
  readonly #first: Drafter;
  readonly #second: Drafter;
  /** Whose drafts of the moment are the first one's. */
  readonly #byFirst = new Set<Sequence>();

  constructor(first: Drafter, second: Drafter) {
    this.maxDraft = Math.max(first.maxDraft, second.maxDraft);
    this.#first = first;
    this.#second = second;
    this.observe = second.observe && ((plan) => second.observe?.(plan));
  }

  draft(sequences: readonly Sequence[], limits: Int32Array): Promise<void> | undefined {
    const drafting = this.#first.draft(sequences, limits);
    return drafting === undefined
      ? this.#others(sequences, limits)
      : drafting.then(() => this.#others(sequences, limits));
  }

  checked(sequence: Sequence, proposed: number, accepted: number): void {
    (this.#byFirst.has(sequence) ? this.#first : this.#second).checked?.(sequence, proposed, accepted);
  }

  #others(sequences: readonly Sequence[], limits: Int32Array): Promise<void> | undefined {
    this.#byFirst.clear();
    for (const [i, sequence] of sequences.entries()) {
      if (sequence.draftCount === 0) continue;
      this.#byFirst.add(sequence);
      limits[i] = 0;
    }
    return this.#second.draft(sequences, limits);
  }
}
