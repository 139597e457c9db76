/**
 * Speculation: drafts of the next tokens are run together with the last known one, and those are kept that the model itself
 * would have chosen (Leviathan et al., 2023, with each choice tied to its place by the sampler's seed). So an answer is the
 * same with and without drafts, greedy or sampled.
 */
import type { Plan } from './plan.ts';
import { GenerationRun, type RawRun } from './run.ts';
import type { Scheduler } from './scheduler.ts';
import type { Sequence, SequenceGroup } from './sequence.ts';
import type { Drafter, EngineStats } from './types.ts';

type Counters = Pick<
  EngineStats,
  'drafts' | 'draftTokensProposed' | 'draftTokensAccepted' | 'draftTokensAcceptedByPlace'
>;

export const NO_DRAFTS: Counters = {
  drafts: 0,
  draftTokensProposed: 0,
  draftTokensAccepted: 0,
  draftTokensAcceptedByPlace: [],
};

export class Speculation {
  readonly #drafter: Drafter;
  readonly #sequences: Sequence[] = [];
  #limits = new Int32Array(0);
  #drafts = 0;
  #proposed = 0;
  #accepted = 0;
  readonly #byPlace: number[];

  constructor(drafter: Drafter) {
    this.#drafter = drafter;
    this.#byPlace = new Array<number>(drafter.maxDraft).fill(0);
  }

  get counters(): Counters {
    return {
      drafts: this.#drafts,
      draftTokensProposed: this.#proposed,
      draftTokensAccepted: this.#accepted,
      draftTokensAcceptedByPlace: [...this.#byPlace],
    };
  }

  /** Lets the drafter guess for every sequence that decodes. */
  prepare(scheduler: Scheduler, runs: ReadonlyMap<SequenceGroup, GenerationRun | RawRun>): Promise<void> | undefined {
    const sequences = this.#sequences;
    scheduler.decoding(sequences);
    if (sequences.length === 0 && !this.#drafter.observe) return undefined;
    if (this.#limits.length < sequences.length) this.#limits = new Int32Array(2 * sequences.length);
    for (let i = 0; i < sequences.length; i++) {
      const sequence = sequences[i]!;
      const run = runs.get(sequence.group);
      sequence.draftCount = 0;
      // The model's own token behind the drafts is the last that fits.
      const room = run instanceof GenerationRun ? run.room(sequence) - 1 : 0;
      const { maxDraft } = this.#drafter;
      // What runs again behind a state that went back does not grow without end.
      const settled = sequence.pending <= 1 + maxDraft;
      this.#limits[i] = settled ? Math.max(0, Math.min(maxDraft, room)) : 0;
    }
    return this.#drafter.draft(sequences, this.#limits);
  }

  observe(plan: Plan): void {
    this.#drafter.observe?.(plan);
  }

  checked(sequence: Sequence, proposed: number, accepted: number): void {
    this.#drafter.checked?.(sequence, proposed, accepted);
    this.#drafts++;
    this.#proposed += proposed;
    this.#accepted += accepted;
    for (let i = 0; i < accepted; i++) this.#byPlace[i]!++;
  }
}
