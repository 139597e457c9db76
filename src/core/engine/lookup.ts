/** Drafts out of the text itself: what followed the last few tokens when they stood there before (prompt lookup). */
import type { Sequence } from './sequence.ts';
import type { Drafter } from './types.ts';

export interface LookupOptions {
  /** Most tokens of a draft; 16 when absent. */
  readonly maxDraft?: number | undefined;
  /** Longest and shortest run of tokens that is looked for; 4 and 2 when absent. */
  readonly maxMatch?: number | undefined;
  readonly minMatch?: number | undefined;
  /** What one more row adds to the time of a step of one row, as a share of it; 0.3 when absent. */
  readonly rowPrice?: number | undefined;
}

const DEFAULT_DRAFT = 16;
const DEFAULT_LONGEST = 4;
const DEFAULT_SHORTEST = 2;
const DEFAULT_PRICE = 0.3;

/** How likely a guess is taken to be right before there is experience: behind a long match, and behind a shorter one. */
const TRUST = 0.8;
const DOUBT = 0.5;
/** Weight of the latest guess in the moving average of right ones. */
const STEP = 0.2;
/** Steps without drafts before one token is tried again, at first and at most; each wrong trial doubles them. */
const FIRST_WAIT = 16;
const LONGEST_WAIT = 64;

/** What guesses of one sequence have been worth so far. */
interface Record {
  /** Moving average of right guesses, by length of the match behind which they were made. */
  readonly rates: Float64Array;
  /** Length of the match behind which the last draft was made, less the shortest. */
  at: number;
  /** Steps left before a trial, and how many it were. */
  left: number;
  wait: number;
}

/**
 * Helps where answers repeat parts of their prompts: summaries, corrections, code. Drafts are as long as pays: their rows
 * cost time, so many guesses are made where most of the last ones of a sequence were right, and none but rare trials where
 * they were not. That decides how fast an answer comes, never what it is.
 */
export class LookupDrafter implements Drafter {
  readonly maxDraft: number;
  readonly #longest: number;
  readonly #shortest: number;
  readonly #price: number;
  readonly #records = new WeakMap<Sequence, Record>();

  constructor(options: LookupOptions = {}) {
    this.maxDraft = options.maxDraft ?? DEFAULT_DRAFT;
    this.#longest = options.maxMatch ?? Math.max(DEFAULT_LONGEST, options.minMatch ?? 0);
    this.#shortest = options.minMatch ?? Math.min(DEFAULT_SHORTEST, this.#longest);
    this.#price = options.rowPrice ?? DEFAULT_PRICE;
  }

  draft(sequences: readonly Sequence[], limits: Int32Array): undefined {
    // Of a step that several sequences share, each one's part is less, and a further row as dear as alone.
    const price = (this.#price * sequences.length) / (1 + this.#price * (sequences.length - 1));
    for (let s = 0; s < sequences.length; s++) {
      const sequence = sequences[s]!;
      const record = this.#record(sequence);
      if (record.left > 0) record.left--;
      const limit = Math.min(limits[s]!, this.maxDraft);
      if (limit < 1) continue;
      const from = this.#find(sequence, record);
      if (from === 0) continue;
      const rate = record.rates[record.at]!;
      const worth = Math.min(limit, worthwhile(rate, price, limit) || (record.left === 0 ? 1 : 0));
      // Behind the end of the text stand the guesses themselves: a text that goes in circles is guessed on and on.
      for (let i = from; i < from + worth; i++) sequence.propose(sequence.tokens[i]!);
    }
  }

  checked(sequence: Sequence, proposed: number, accepted: number): void {
    const record = this.#record(sequence);
    const { rates, at } = record;
    for (let i = 0; i < accepted; i++) rates[at]! += STEP * (1 - rates[at]!);
    if (accepted < proposed) rates[at]! -= STEP * rates[at]!;
    record.wait = accepted > 0 ? FIRST_WAIT : Math.min(LONGEST_WAIT, 2 * record.wait);
    record.left = accepted > 0 ? 0 : record.wait;
  }

  #record(sequence: Sequence): Record {
    let record = this.#records.get(sequence);
    if (record === undefined) {
      const rates = new Float64Array(this.#longest - this.#shortest + 1).fill(DOUBT);
      rates[rates.length - 1] = TRUST;
      record = { rates, at: 0, left: FIRST_WAIT, wait: FIRST_WAIT };
      this.#records.set(sequence, record);
    }
    return record;
  }

  /** Behind the longest earlier run of tokens that is also the last one, the latest of those; 0 when there is none. */
  #find({ tokens, length }: Sequence, record: Record): number {
    let best = 0;
    let bestLength = this.#shortest - 1;
    for (let end = length - 1; end > bestLength && bestLength < this.#longest; end--) {
      let n = 0;
      while (n < this.#longest && n < end && tokens[end - 1 - n] === tokens[length - 1 - n]) n++;
      if (n <= bestLength) continue;
      best = end;
      bestLength = n;
    }
    record.at = Math.max(0, bestLength - this.#shortest);
    return best;
  }
}

/**
 * The length of draft with the most tokens for the time, when each guess is right at a `rate` and each row costs a `price`:
 * of `(1 + r + … + r^n) / (1 + n·p)` the largest, which has one peak.
 */
function worthwhile(rate: number, price: number, limit: number): number {
  let tokens = 1;
  let next = rate;
  let n = 0;
  while (n < limit && next * (1 + n * price) > price * tokens) {
    tokens += next;
    next *= rate;
    n++;
  }
  return n;
}
