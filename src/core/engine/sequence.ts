/** What the scheduler knows about an answer: its tokens, how far they are computed, and the blocks they lie in. */

export type SequenceStatus = 'queued' | 'reserved' | 'running' | 'preempted' | 'parked' | 'finished';

const INITIAL_SPACE = 64;

/**
 * One answer. `tokens` are known up to `length`; keys and values of the first `computed` of them are in the cache. All
 * work is to raise `computed` to `length`; then the next token can be sampled.
 */
export class Sequence {
  readonly group: SequenceGroup;
  readonly index: number;
  readonly promptLength: number;
  tokens: Int32Array;
  length: number;
  computed = 0;

  /** The length it is computed for: that of the prompt, until the answer outgrows what the model sees alike. */
  base: number;
  /** Sequences of equal salt may share blocks. */
  salt: number;

  /** Cache blocks in order of position. */
  blocks: Int32Array;
  blockCount = 0;
  /** Leading blocks that the pool knows. */
  published = 0;

  /** Where the states of recurrent layers lie; -1 for none. */
  slot = -1;
  /** Where the state stands as it was behind the first `guarded` tokens, before drafts ran over it; -1 for none. */
  guard = -1;
  guarded = 0;
  /** Position up to which blocks are known beyond any snapshot of the state: one there would serve others. */
  branch = 0;
  /** Block whose snapshot gives way to the next one of this sequence; -1 for none. */
  passing = -1;

  /** `reserved`: holds a slot until the prompt, computed by the first choice, can be shared. */
  status: SequenceStatus = 'queued';
  /** Steps in a row in which it could have run and did not. */
  passedOver = 0;
  /** In the plan of the current step. */
  planned = false;

  constructor(group: SequenceGroup, index: number, prompt: ArrayLike<number>, blockSize: number) {
    this.group = group;
    this.index = index;
    this.promptLength = this.length = this.base = prompt.length;
    this.salt = group.salt;
    this.tokens = new Int32Array(prompt.length + INITIAL_SPACE);
    this.tokens.set(prompt);
    this.blocks = new Int32Array(Math.ceil(this.tokens.length / blockSize));
  }

  /** Known tokens that are not in the cache. */
  get pending(): number {
    return this.length - this.computed;
  }

  /** Waits for its next token alone, or for it behind a few that run again since the state went back. */
  get decodes(): boolean {
    return (this.pending === 1 || this.guard >= 0) && !this.group.raw;
  }

  append(token: number): void {
    if (this.length === this.tokens.length) this.tokens = grown(this.tokens);
    this.tokens[this.length++] = token;
  }

  /** Guesses at the tokens behind the known ones, which stand behind them in `tokens`. */
  draftCount = 0;

  propose(token: number): void {
    while (this.length + this.draftCount >= this.tokens.length) this.tokens = grown(this.tokens);
    this.tokens[this.length + this.draftCount++] = token;
  }

  pushBlock(block: number): void {
    if (this.blockCount === this.blocks.length) this.blocks = grown(this.blocks);
    this.blocks[this.blockCount++] = block;
  }
}

/** What a sequence has computed so far, and computes on top of it, stays its own. */
export function withhold(sequence: Sequence): void {
  if (sequence.computed > 0) sequence.published = Number.MAX_SAFE_INTEGER;
}

function grown(array: Int32Array): Int32Array {
  const larger = new Int32Array(array.length * 2);
  larger.set(array);
  return larger;
}

/** The choices of one request. They share the prompt, which the first one computes. */
export class SequenceGroup {
  /** Place in the order of arrival. */
  readonly arrival: number;
  /** Wants the logits of every prompt position and runs in batches of its own. */
  readonly raw: boolean;
  /** Of the prompt: other requests share its blocks only under the same one. */
  readonly salt: number;
  /** Number of the adapter generation it runs with; 0 for none. */
  readonly adapter: number;
  readonly sequences: readonly Sequence[];

  constructor(
    arrival: number,
    prompt: ArrayLike<number>,
    blockSize: number,
    options: {
      readonly choices: number;
      readonly raw: boolean;
      readonly salt?: number | undefined;
      readonly adapter?: number | undefined;
    },
  ) {
    this.arrival = arrival;
    this.raw = options.raw;
    this.salt = options.salt ?? 0;
    this.adapter = options.adapter ?? 0;
    this.sequences = Array.from(
      { length: options.choices },
      (_, index) => new Sequence(this, index, prompt, blockSize),
    );
  }

  get size(): number {
    return this.sequences.length;
  }
}
