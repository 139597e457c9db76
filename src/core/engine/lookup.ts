/** Drafts out of the text itself: what followed the last few tokens when they stood there before (prompt lookup). */
import type { Sequence } from './sequence.ts';
import type { Drafter } from './types.ts';

export interface LookupOptions {
  /** Most tokens of a draft; 8 when absent. */
  readonly maxDraft?: number | undefined;
  /** Longest and shortest run of tokens that is looked for; 4 and 2 when absent. */
  readonly maxMatch?: number | undefined;
  readonly minMatch?: number | undefined;
}

const DEFAULT_DRAFT = 8;
const DEFAULT_LONGEST = 4;
const DEFAULT_SHORTEST = 2;

/** Costs next to nothing; helps where answers repeat parts of their prompts: summaries, corrections, code. */
export class LookupDrafter implements Drafter {
  readonly maxDraft: number;
  readonly #longest: number;
  readonly #shortest: number;

  constructor(options: LookupOptions = {}) {
    this.maxDraft = options.maxDraft ?? DEFAULT_DRAFT;
    this.#longest = options.maxMatch ?? Math.max(DEFAULT_LONGEST, options.minMatch ?? 0);
    this.#shortest = options.minMatch ?? Math.min(DEFAULT_SHORTEST, this.#longest);
  }

  draft(sequences: readonly Sequence[], limits: Int32Array): undefined {
    for (let s = 0; s < sequences.length; s++) {
      const sequence = sequences[s]!;
      const limit = Math.min(limits[s]!, this.maxDraft);
      if (limit < 1) continue;
      const from = this.#find(sequence);
      for (let i = from; i > 0 && i < from + limit && i < sequence.length; i++) sequence.propose(sequence.tokens[i]!);
    }
  }

  /** Behind the longest earlier run of tokens that is also the last one, the latest of those; 0 when there is none. */
  #find({ tokens, length }: Sequence): number {
    let best = 0;
    let bestLength = this.#shortest - 1;
    for (let end = length - 1; end > bestLength && bestLength < this.#longest; end--) {
      let n = 0;
      while (n < this.#longest && n < end && tokens[end - 1 - n] === tokens[length - 1 - n]) n++;
      if (n <= bestLength) continue;
      best = end;
      bestLength = n;
    }
    return best;
  }
}
