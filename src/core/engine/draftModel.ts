/** Drafts by a smaller model with the same tokens: it runs ahead of the large one, in a cache of its own. */
import { ConfigError } from '../errors.ts';
import { BatchBuilder } from './batch.ts';
import { BlockPool } from './blocks.ts';
import { resolveLimits } from './limits.ts';
import { Paging } from './paging.ts';
import { Plan } from './plan.ts';
import { argmax } from './sampling/select.ts';
import { Sequence, SequenceGroup } from './sequence.ts';
import type { Drafter, ModelRunner, TopLogits } from './types.ts';

const DEFAULT_DRAFT = 4;

export interface ModelDrafterOptions {
  /** Of the large model. */
  readonly vocabSize: number;
  /** Ids below this mean the same token in both models, and no others are proposed. Without it, sizes must be equal. */
  readonly sharedIds?: number | undefined;
  /** Most tokens of a draft; 4 when absent. */
  readonly maxDraft?: number | undefined;
}

export class ModelDrafter implements Drafter {
  readonly maxDraft: number;
  readonly #shared: number;
  readonly #runner: ModelRunner;
  readonly #pool: BlockPool;
  readonly #paging: Paging;
  readonly #plan: Plan;
  readonly #batches: BatchBuilder;
  /** What the small model has seen of each sequence. */
  readonly #tracks = new Map<Sequence, Sequence>();

  constructor(runner: ModelRunner, options: ModelDrafterOptions) {
    const { vocabSize, sharedIds } = options;
    if (runner.vocabSize !== vocabSize && sharedIds === undefined) {
      throw new ConfigError(
        `draft model: expected the ${vocabSize} tokens of the model it drafts for, got ${runner.vocabSize}; take one of the same family`,
      );
    }
    if (runner.stateSlots) {
      throw new ConfigError('draft model: expected one without recurrent layers, whose states cannot go back; got one');
    }
    this.maxDraft = options.maxDraft ?? DEFAULT_DRAFT;
    this.#shared = Math.min(sharedIds ?? vocabSize, vocabSize, runner.vocabSize);
    this.#runner = runner;
    const limits = resolveLimits({ maxNumSeqs: runner.maxSequences, maxBatchTokens: runner.maxRows }, runner);
    this.#pool = new BlockPool(runner.blocks, runner.blockSize);
    this.#paging = new Paging(this.#pool, { prefixCache: false });
    this.#plan = new Plan(limits);
    this.#batches = new BatchBuilder(limits);
  }

  async draft(sequences: readonly Sequence[], limits: Int32Array): Promise<void> {
    this.#forgetOthers(sequences);
    const open: { readonly target: Sequence; readonly track: Sequence; readonly limit: number }[] = [];
    for (const [i, target] of sequences.entries()) {
      const limit = Math.min(limits[i]!, this.#runner.contextLength - target.length - 1);
      if (limit < 1 || open.length >= this.#plan.limits.maxSequences) continue;
      const track = this.#follow(target);
      if (track.length === target.length) open.push({ target, track, limit });
    }
    for (let round = 0; round < this.maxDraft; round++) {
      const going = open.filter(({ target, limit }) => target.draftCount === round && round < limit);
      if (going.length === 0) return;
      const tokens = await this.#advance(going.map(({ track }) => track));
      for (const [i, { target, track }] of going.entries()) {
        const token = tokens[i];
        if (token === undefined) continue;
        target.propose(token);
        track.append(token);
      }
    }
  }

  #forgetOthers(sequences: readonly Sequence[]): void {
    const wanted = new Set(sequences);
    for (const [target, track] of this.#tracks) {
      if (wanted.has(target)) continue;
      this.#paging.release(track);
      this.#tracks.delete(target);
    }
  }

  /** The track of a sequence, with its tokens up to one unknown here; what was computed for wrong guesses is dropped. */
  #follow(target: Sequence): Sequence {
    let track = this.#tracks.get(target);
    if (track === undefined) {
      track = new Sequence(new SequenceGroup(0, [], 1, { choices: 0, raw: false }), 0, [], this.#runner.blockSize);
      this.#tracks.set(target, track);
    }
    let right = 0;
    while (right < track.computed && right < target.length - 1 && track.tokens[right] === target.tokens[right]) right++;
    track.computed = right;
    track.length = right;
    for (let i = right; i < target.length && target.tokens[i]! < this.#shared; i++) track.append(target.tokens[i]!);
    track.base = track.length;
    return track;
  }

  /** The most likely next token of each track; none where the cache is full. */
  async #advance(tracks: readonly Sequence[]): Promise<(number | undefined)[]> {
    const found = new Array<number | undefined>(tracks.length).fill(undefined);
    const { maxRows, maxSequences } = this.#plan.limits;
    for (;;) {
      const plan = this.#plan;
      plan.clear();
      const planned: number[] = [];
      for (const [i, track] of tracks.entries()) {
        if (track.pending === 0 || plan.rows >= maxRows || plan.count >= maxSequences) continue;
        const rows = this.#paging.reserve(track, Math.min(track.pending, maxRows - plan.rows), plan);
        if (rows === 0) continue;
        plan.add(track, rows, rows === track.pending ? 1 : 0);
        planned.push(i);
      }
      if (plan.count === 0) return found;
      const batch = this.#batches.build(plan);
      const { top } = this.#runner;
      const logits = await (top && batch.logitCount > 0 ? top.forward(batch, 1) : this.#runner.forward(batch));
      let row = 0;
      for (const [j, i] of planned.entries()) {
        tracks[i]!.computed += plan.rowCounts[j]!;
        if (plan.wanted[j] === 1) found[i] = this.#best(logits, row++);
      }
      plan.settle();
    }
  }

  #best(logits: Float32Array | TopLogits, row: number): number | undefined {
    const at = row * this.#runner.vocabSize;
    const best = logits instanceof Float32Array ? argmax(logits.subarray(at, at + this.#shared)) : logits.ids[row]!;
    return best >= 0 && best < this.#shared ? best : undefined;
  }
}
