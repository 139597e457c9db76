import type { PackedBatch } from '../../src/core/engine/batch.ts';
import type { ModelRunner, PredictorRunner, TopLogits, TopRunner } from '../../src/core/engine/types.ts';

const START = 0x1234567;

function mix(state: number, token: number): number {
  let h = Math.imul(state ^ (token + 0x9e3779b9), 0x85ebca6b);
  h ^= h >>> 13;
  h = Math.imul(h, 0xc2b2ae35);
  return h ^ (h >>> 16);
}

/** Logits of the state after some tokens: distinct numbers that depend on every one of them. */
function logitsOf(state: number, out: Float32Array, at: number, vocab: number): void {
  for (let i = 0; i < vocab; i++) out[at + i] = ((mix(state, i * 7919 + 13) >>> 0) / 2 ** 32) * 8 - 4;
}

/** How the position of a row is rotated in a sequence computed for a length; 0 is the plain way. */
export type Rotation = (length: number) => number;

/** One row: what came before it, its token, and its rotation, which every later logit depends on too. */
function rowAfter(state: number, token: number, rotation: number): number {
  return rotation === 0 ? mix(state, token) : mix(mix(state, token), rotation);
}

/** `lengthAt` gives the length for which a position is computed. */
export function logitsAfter(
  tokens: Iterable<number>,
  vocab: number,
  rotation: Rotation = () => 0,
  lengthAt: (position: number) => number = (position) => position + 1,
): Float32Array {
  let state = START;
  let position = 0;
  for (const token of tokens) state = rowAfter(state, token, rotation(lengthAt(position++)));
  const out = new Float32Array(vocab);
  logitsOf(state, out, 0, vocab);
  return out;
}

/** What greedy decoding must give, without any engine. */
export function greedyAfter(prompt: readonly number[], count: number, vocab: number): number[] {
  const tokens = [...prompt];
  for (let i = 0; i < count; i++) {
    const logits = logitsAfter(tokens, vocab);
    tokens.push(logits.indexOf(Math.max(...logits)));
  }
  return tokens.slice(prompt.length);
}

export interface FakeOptions {
  readonly vocabSize?: number;
  readonly contextLength?: number;
  readonly blockSize?: number;
  readonly blocks?: number;
  readonly maxRows?: number;
  readonly maxSequences?: number;
  readonly maxLogitRows?: number;
  readonly recomputeAt?: readonly number[];
  readonly growsBeyond?: number;
  /** Slots of recurrent states; a model with some needs the right state for every row. */
  readonly stateSlots?: number;
  readonly rotation?: Rotation;
  /** Looks at each batch; throwing makes the step fail. */
  readonly onForward?: (batch: PackedBatch, step: number) => void;
  /** Changes the logits of a step. */
  readonly onLogits?: (logits: Float32Array, batch: PackedBatch) => void;
  /** Gives the largest logits of rows, and runs steps in order while earlier ones are still to be read. */
  readonly remote?: boolean;
  /** Blocks for guesses of a head that is always right; without them there is none. */
  readonly extraBlocks?: number;
  /** Waits for a turn of the event loop in each step, as a real device would. */
  readonly realTime?: boolean;
}

function largest(logits: Float32Array, at: number, n: number, k: number): { ids: number[]; values: number[] } {
  const ids = Array.from({ length: n }, (_, i) => i).sort((a, b) => logits[at + b]! - logits[at + a]! || a - b);
  return { ids: ids.slice(0, k), values: ids.slice(0, k).map((i) => logits[at + i]!) };
}

/**
 * A model whose key/value cache holds, in each slot, a digest of all tokens up to it. It reads the digest of the position
 * before through the block table, so a wrong block, slot, position or length gives wrong logits.
 */
export class FakeModel implements ModelRunner {
  readonly vocabSize: number;
  readonly contextLength: number;
  readonly blockSize: number;
  readonly blocks: number;
  readonly maxRows: number;
  readonly maxSequences: number;
  readonly maxLogitRows: number;
  readonly recomputeAt: readonly number[] | undefined;
  readonly growsBeyond: number | undefined;
  readonly stateSlots: number;
  readonly #options: FakeOptions;
  readonly #memory: Float64Array;
  /** Digest of all tokens of the sequence that a slot belongs to. */
  readonly #states: Float64Array;
  #logits = new Float32Array(0);
  steps = 0;
  rows = 0;
  busy = false;
  /** Steps that were started before the one before them had been read. */
  followed = 0;
  readonly top: TopRunner | undefined;
  readonly predictor: PredictorRunner | undefined;
  /** Digests behind the rows of the last step, and behind the wanted rows of the last guesses. */
  #kept: number[] = [];
  #keptOwn: number[] = [];
  /** What the head has in each slot: the digest behind the token that follows the position. */
  readonly #headMemory: Float64Array;
  /** Rows of the head, and those before which the head had other tokens in its cache, or none. */
  headRows = 0;
  headGaps = 0;
  /** The end of the last step, and what it chose for each row. */
  #last: Promise<unknown> = Promise.resolve();
  #chosen: readonly number[] = [];

  constructor(options: FakeOptions = {}) {
    this.#options = options;
    this.vocabSize = options.vocabSize ?? 32;
    this.contextLength = options.contextLength ?? 1024;
    this.blockSize = options.blockSize ?? 4;
    this.blocks = options.blocks ?? 1024;
    this.maxRows = options.maxRows ?? 512;
    this.maxSequences = options.maxSequences ?? 32;
    this.maxLogitRows = options.maxLogitRows ?? 512;
    this.recomputeAt = options.recomputeAt;
    this.growsBeyond = options.growsBeyond;
    if (options.remote) {
      this.top = { maxK: 8, forward: (batch, k) => this.#enqueue(structuredClone(batch), k) };
    }
    const { extraBlocks } = options;
    this.#headMemory = new Float64Array((this.blocks + (extraBlocks ?? 0)) * this.blockSize).fill(Number.NaN);
    if (extraBlocks !== undefined) {
      this.predictor = { extraBlocks, predict: async (batch, sources, own) => this.#predict(batch, sources, own) };
    }
    this.stateSlots = options.stateSlots ?? 0;
    this.#states = new Float64Array(this.stateSlots).fill(Number.NaN);
    this.#memory = new Float64Array(this.blocks * this.blockSize).fill(Number.NaN);
  }

  async forward(batch: PackedBatch): Promise<Float32Array> {
    if (this.busy) throw new Error('forward was called while another one runs');
    this.busy = true;
    try {
      this.#check(batch);
      const step = this.steps++;
      this.rows += batch.rows;
      if (this.#options.realTime) await new Promise((resolve) => setImmediate(resolve));
      this.#options.onForward?.(batch, step);
      return this.#run(batch);
    } finally {
      this.busy = false;
    }
  }

  /** As on a device: steps run one behind the other, and the host hears of each some time later. */
  #enqueue(batch: PackedBatch, k: number): Promise<TopLogits> {
    const before = this.#last;
    const step = before.then(async () => {
      if (batch.follows) {
        this.followed++;
        for (let r = 0; r < batch.rows; r++) batch.tokens[r] = this.#chosen[r]!;
      }
      const logits = await this.forward(batch);
      const rows = Array.from({ length: batch.logitCount }, (_, r) =>
        largest(logits, r * this.vocabSize, this.vocabSize, k),
      );
      this.#chosen = rows.map(({ ids }) => ids[0]!);
      return {
        k,
        ids: Int32Array.from(rows.flatMap(({ ids }) => ids)),
        values: Float32Array.from(rows.flatMap(({ values }) => values)),
      };
    });
    this.#last = step.catch(() => undefined);
    return step.then(async (result) => {
      await new Promise((resolve) => setImmediate(resolve));
      return result;
    });
  }

  #check(batch: PackedBatch): void {
    const fail = (what: string) => {
      throw new Error(`bad batch: ${what}`);
    };
    if (batch.rows < 1 || batch.rows > this.maxRows) fail(`${batch.rows} rows`);
    if (batch.sequences < 1 || batch.sequences > this.maxSequences) fail(`${batch.sequences} sequences`);
    if (batch.logitCount > this.maxLogitRows) fail(`${batch.logitCount} logit rows`);
    const written = new Set<number>();
    for (let s = 0; s < batch.sequences; s++) {
      const first = batch.seqStart[s]!;
      const end = batch.seqStart[s + 1]!;
      if (end <= first) fail('a sequence without rows');
      for (let r = first; r < end; r++) {
        const position = batch.positions[r]!;
        if (position !== batch.kvLen[s]! - (end - r)) fail('position');
        if (batch.slots[r] !== this.#slot(batch, s, position)) fail('slot');
        if (written.has(batch.slots[r]!)) fail('two rows in one slot');
        written.add(batch.slots[r]!);
      }
      if (batch.kvLen[s]! > this.contextLength || batch.baseLen[s]! > this.contextLength) fail('length');
    }
    if (batch.seqStart[batch.sequences] !== batch.rows) fail('row count');
    const slots = new Set(batch.stateSlots.subarray(0, batch.sequences));
    if (this.stateSlots > 0 && slots.size !== batch.sequences) fail('two sequences in one state slot');
    for (let i = 1; i < batch.logitCount; i++) if (batch.logitRows[i]! <= batch.logitRows[i - 1]!) fail('logit rows');
  }

  #predict(batch: PackedBatch, sources: Int32Array, own: boolean): Float32Array | TopLogits {
    const from = own ? this.#keptOwn : this.#kept;
    const after: number[] = [];
    const memory = this.#headMemory;
    for (let s = 0; s < batch.sequences; s++) {
      for (let r = batch.seqStart[s]!; r < batch.seqStart[s + 1]!; r++) {
        const position = batch.positions[r]!;
        if (batch.slots[r] !== this.#slot(batch, s, position)) throw new Error('bad guess: slot');
        const state = from[sources[r]!]!;
        if (!own && this.#memory[batch.slots[r]!] !== state) throw new Error('bad guess: row of other tokens');
        if (position > 0 && memory[this.#slot(batch, s, position - 1)] !== state) this.headGaps++;
        this.headRows++;
        after[r] = rowAfter(state, batch.tokens[r]!, 0);
        memory[batch.slots[r]!] = after[r]!;
      }
    }
    this.#keptOwn = Array.from({ length: batch.logitCount }, (_, i) => after[batch.logitRows[i]!]!);
    const logits = new Float32Array(batch.logitCount * this.vocabSize);
    for (const [i, state] of this.#keptOwn.entries()) logitsOf(state, logits, i * this.vocabSize, this.vocabSize);
    if (!this.#options.remote || batch.logitCount === 0) return logits;
    const best = this.#keptOwn.map((_, i) => largest(logits, i * this.vocabSize, this.vocabSize, 1));
    return {
      k: 1,
      ids: Int32Array.from(best.flatMap(({ ids }) => ids)),
      values: Float32Array.from(best.flatMap(({ values }) => values)),
    };
  }

  #slot(batch: PackedBatch, s: number, position: number): number {
    const block = batch.blockTable[s * batch.blocksPerSequence + Math.floor(position / this.blockSize)]!;
    return block * this.blockSize + (position % this.blockSize);
  }

  #run(batch: PackedBatch): Float32Array {
    const memory = this.#memory;
    for (let i = 0; i < batch.copyCount; i++) {
      const from = batch.copies[2 * i]! * this.blockSize;
      memory.copyWithin(batch.copies[2 * i + 1]! * this.blockSize, from, from + this.blockSize);
    }
    const states = this.#states;
    for (let i = 0; i < batch.stateCopyCount; i++)
      states[batch.stateCopies[2 * i + 1]!] = states[batch.stateCopies[2 * i]!]!;
    const { rotation = () => 0 } = this.#options;
    for (let s = 0; s < batch.sequences; s++) {
      for (let r = batch.seqStart[s]!; r < batch.seqStart[s + 1]!; r++) {
        const position = batch.positions[r]!;
        const length = Math.max(batch.baseLen[s]!, position + 1);
        const state = position === 0 ? START : memory[this.#slot(batch, s, position - 1)]!;
        const after = rowAfter(state, batch.tokens[r]!, rotation(length));
        memory[batch.slots[r]!] = after;
        if (this.stateSlots === 0) continue;
        const slot = batch.stateSlots[s]!;
        if (!(slot >= 0 && slot < this.stateSlots)) throw new Error('bad batch: state slot');
        if (position > 0 && states[slot] !== state) throw new Error('bad batch: state of other tokens');
        states[slot] = after;
      }
    }
    this.#kept = Array.from({ length: batch.rows }, (_, r) => memory[batch.slots[r]!]!);
    const size = batch.logitCount * this.vocabSize;
    if (this.#logits.length < size) this.#logits = new Float32Array(size);
    // Valid until the next call only: what was there before is overwritten.
    const logits = this.#logits.subarray(0, size);
    for (let i = 0; i < batch.logitCount; i++) {
      logitsOf(memory[batch.slots[batch.logitRows[i]!]!]!, logits, i * this.vocabSize, this.vocabSize);
    }
    this.#options.onLogits?.(logits, batch);
    return logits;
  }
}
