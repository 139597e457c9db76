/**
 * Drafts by a head inside the model (multi-token prediction): it goes on from the final rows of the last step, each with
 * the token behind it, and then from its own. Its keys and values lie in the blocks of the sequences, so that whatever
 * happens to those happens to them; rows of guesses have blocks of their own, and are run again when their tokens are known.
 */
import { ConfigError } from '../errors.ts';
import { emptyBatch, type PackedBatch } from './batch.ts';
import type { Plan } from './plan.ts';
import { argmax } from './sampling/select.ts';
import type { Sequence } from './sequence.ts';
import type { Drafter, ModelRunner, PredictorRunner, TopLogits } from './types.ts';

const DEFAULT_DRAFT = 2;

/** Blocks for guesses that a runner with a predictor has to have. */
export function blocksForGuesses(maxSequences: number, blockSize: number, maxDraft = DEFAULT_DRAFT): number {
  return maxSequences * Math.ceil(maxDraft / blockSize);
}

/** What the last step ran of one sequence. */
interface Seen {
  sequence: Sequence | undefined;
  before: number;
  rows: number;
  /** Its first row. */
  at: number;
}

export class HeadDrafter implements Drafter {
  readonly maxDraft: number;
  readonly #runner: ModelRunner;
  readonly #predictor: PredictorRunner;
  readonly #batch: PackedBatch;
  readonly #sources: Int32Array;
  readonly #blocksPerGuess: number;
  /** Most blocks of one sequence. */
  readonly #maxBlocks: number;
  readonly #seen: Seen[];
  #seenCount = 0;
  /** Of the sequences whose logits the last pass gave, in its order: number, and place of the blocks for guesses. */
  readonly #numbers: Int32Array;
  readonly #places: Int32Array;

  /** `maxDraft`: most tokens of a draft; 2 when absent. */
  constructor(runner: ModelRunner, options: { readonly maxDraft?: number | undefined } = {}) {
    const { predictor, maxRows, maxSequences, maxLogitRows, blockSize, contextLength } = runner;
    if (!predictor) throw new ConfigError('drafts: expected a model with a head for prediction, got one without');
    this.maxDraft = options.maxDraft ?? DEFAULT_DRAFT;
    this.#runner = runner;
    this.#predictor = predictor;
    this.#blocksPerGuess = Math.ceil(this.maxDraft / blockSize);
    this.#maxBlocks = Math.ceil(contextLength / blockSize);
    this.#batch = emptyBatch({ maxRows, maxSequences, maxLogitRows, blockSize, maxBlocks: this.#maxBlocks });
    this.#sources = new Int32Array(maxRows);
    this.#numbers = new Int32Array(maxSequences);
    this.#places = new Int32Array(maxSequences);
    this.#seen = Array.from({ length: maxSequences }, () => ({ sequence: undefined, before: 0, rows: 0, at: 0 }));
    const needed = blocksForGuesses(maxSequences, blockSize, this.maxDraft);
    if (predictor.extraBlocks < needed) {
      throw new ConfigError(`drafts: expected ${needed} blocks for guesses, got ${predictor.extraBlocks}`);
    }
  }

  observe(plan: Plan): void {
    this.#seenCount = 0;
    let at = 0;
    for (let i = 0; i < plan.count; i++) {
      const sequence = plan.sequences[i]!;
      const rows = plan.rowCounts[i]!;
      if (plan.live[i] && !sequence.group.raw) {
        const seen = this.#seen[this.#seenCount++]!;
        seen.sequence = sequence;
        seen.before = plan.before[i]!;
        seen.rows = rows;
        seen.at = at;
      }
      at += rows;
    }
  }

  async draft(sequences: readonly Sequence[], limits: Int32Array): Promise<void> {
    this.#catchUp(sequences, limits);
    if (this.#batch.rows === 0) return;
    this.#propose(sequences, await this.#predictor.predict(this.#batch, this.#sources, false));
    while (this.#goOn(sequences, limits)) {
      this.#propose(sequences, await this.#predictor.predict(this.#batch, this.#sources, true));
    }
  }

  /** Rows for all tokens behind a final row of the last step; the last one of a sequence that decodes gives a guess. */
  #catchUp(sequences: readonly Sequence[], limits: Int32Array): void {
    let blocks = 0;
    for (let i = 0; i < this.#seenCount; i++) blocks = Math.max(blocks, this.#seen[i]!.sequence?.blockCount ?? 0);
    this.#begin(blocks);
    for (let i = 0; i < this.#seenCount; i++) {
      const { sequence, before, rows, at } = this.#seen[i]!;
      this.#seen[i]!.sequence = undefined;
      // Rows of wrong drafts, and of a sequence that has left or starts over, are of no use.
      if (sequence?.status !== 'running') continue;
      const right = Math.min(rows, sequence.length - 1 - before);
      if (right < 1 || sequence.blockCount * this.#runner.blockSize < before + right) continue;
      for (let r = 0; r < right; r++) this.#row(sequence, before + r, at + r, i);
      this.#endSequence(sequence, before + right, i);
      const number = before + right === sequence.length - 1 ? sequences.indexOf(sequence) : -1;
      if (number >= 0 && limits[number]! > 0) this.#want(number, i);
    }
    this.#seenCount = 0;
  }

  /** One more row for every sequence whose last row gave a guess and that has room for another; false for none. */
  #goOn(sequences: readonly Sequence[], limits: Int32Array): boolean {
    const { logitCount } = this.#batch;
    let blocks = 0;
    for (let row = 0; row < logitCount; row++) {
      blocks = Math.max(blocks, sequences[this.#numbers[row]!]!.blockCount + this.#blocksPerGuess);
    }
    this.#begin(blocks);
    for (let row = 0; row < logitCount; row++) {
      const number = this.#numbers[row]!;
      const place = this.#places[row]!;
      const sequence = sequences[number]!;
      const { draftCount } = sequence;
      if (draftCount < 1 || draftCount >= Math.min(limits[number]!, this.maxDraft)) continue;
      // The position of the last known token, and one more for each guess behind the first.
      const position = sequence.length - 2 + draftCount;
      if (Math.floor(position / this.#runner.blockSize) >= this.#maxBlocks) continue;
      this.#row(sequence, position, row, place);
      this.#endSequence(sequence, position + 1, place);
      this.#want(number, place);
    }
    return this.#batch.rows > 0;
  }

  #begin(blocksPerSequence: number): void {
    const batch = this.#batch;
    batch.rows = batch.sequences = batch.logitCount = 0;
    batch.blocksPerSequence = Math.min(blocksPerSequence, this.#maxBlocks);
  }

  #row(sequence: Sequence, position: number, source: number, place: number): void {
    const { blockSize } = this.#runner;
    const batch = this.#batch;
    const row = batch.rows++;
    const block = this.#block(sequence, Math.floor(position / blockSize), place);
    batch.tokens[row] = sequence.tokens[position + 1]!;
    batch.positions[row] = position;
    batch.slots[row] = block * blockSize + (position % blockSize);
    this.#sources[row] = source;
  }

  /** Behind the blocks of a sequence follow those for its guesses. */
  #block(sequence: Sequence, index: number, place: number): number {
    if (index < sequence.blockCount) return sequence.blocks[index]!;
    return this.#runner.blocks + place * this.#blocksPerGuess + index - sequence.blockCount;
  }

  #endSequence(sequence: Sequence, length: number, place: number): void {
    const batch = this.#batch;
    const s = batch.sequences++;
    const used = Math.ceil(length / this.#runner.blockSize);
    const { blocksPerSequence } = batch;
    for (let i = 0; i < blocksPerSequence; i++) {
      batch.blockTable[s * blocksPerSequence + i] = i < used ? this.#block(sequence, i, place) : -1;
    }
    batch.kvLen[s] = length;
    batch.baseLen[s] = sequence.base;
    batch.seqStart[s + 1] = batch.rows;
  }

  #want(number: number, place: number): void {
    const at = this.#batch.logitCount++;
    this.#batch.logitRows[at] = this.#batch.rows - 1;
    this.#numbers[at] = number;
    this.#places[at] = place;
  }

  #propose(sequences: readonly Sequence[], logits: Float32Array | TopLogits): void {
    const { vocabSize } = this.#runner;
    for (let row = 0; row < this.#batch.logitCount; row++) {
      const token =
        logits instanceof Float32Array
          ? argmax(logits.subarray(row * vocabSize, (row + 1) * vocabSize))
          : logits.ids[row]!;
      if (token >= 0 && token < vocabSize) sequences[this.#numbers[row]!]!.propose(token);
    }
  }
}
