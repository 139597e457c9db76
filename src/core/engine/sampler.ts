/**
 * Chooses the next token. Order: DRY, frequency and presence, repetition, bias, processors, temperature, top-k, top-p,
 * min-p, draw. One uniform number per token, addressed by the seed and the token's place in the answer.
 */
import { InferenceError } from '../errors.ts';
import { ExpTable } from './sampling/exp.ts';
import { tokenLogprobs } from './sampling/logprobs.ts';
import {
  applyDry,
  applyFrequencyPresence,
  applyRepetition,
  type DryRule,
  type TokenHistory,
} from './sampling/penalties.ts';
import { CounterRng } from './sampling/rng.ts';
import {
  argmax,
  type Candidates,
  createCandidates,
  keepLargest,
  keepMass,
  NONE,
  selectTop,
} from './sampling/select.ts';
import type { LogitsProcessor, SamplingParams, TokenContext, TokenLogprobs, TopRow } from './types.ts';

/** Below it, the most likely token is taken. */
const MIN_TEMPERATURE = 1e-7;
/** Up to this many, one pass with a small heap is faster than weighing every token. */
const MAX_HEAP = 512;

/** Buffers of the size of the vocabulary, shared by samplers that never run at the same time. */
export class SamplerWorkspace {
  readonly vocabSize: number;
  #logits: Float32Array | undefined;
  #counts: Int32Array | undefined;
  #all: Candidates | undefined;
  #few: Candidates | undefined;
  #exp: ExpTable | undefined;

  constructor(vocabSize: number) {
    this.vocabSize = vocabSize;
  }
  get logits(): Float32Array {
    return (this.#logits ??= new Float32Array(this.vocabSize));
  }
  /** All zero between uses. */
  get counts(): Int32Array {
    return (this.#counts ??= new Int32Array(this.vocabSize));
  }
  get all(): Candidates {
    return (this.#all ??= createCandidates(this.vocabSize));
  }
  get exp(): ExpTable {
    return (this.#exp ??= new ExpTable());
  }
  few(capacity: number): Candidates {
    if (this.#few === undefined || this.#few.ids.length < capacity) this.#few = createCandidates(capacity);
    return this.#few;
  }
}

export interface SamplerOptions {
  readonly vocabSize: number;
  /** Any safe integer; 0 when absent. */
  readonly seed?: number | undefined;
  /** Tells apart the choices of one request, which share a seed; 0 when absent. */
  readonly stream?: number | undefined;
  /** Token ids of the DRY sequence breakers. */
  readonly breakers?: Iterable<number> | undefined;
  readonly processors?: readonly LogitsProcessor[] | undefined;
  /** Reports log-probabilities, with `topNLogprobs` alternatives. */
  readonly logprobs?: boolean | undefined;
  readonly workspace?: SamplerWorkspace | undefined;
}

export interface Sample {
  readonly token: number;
  /** Present when log-probabilities were asked for. */
  readonly logprob?: number;
  readonly topLogprobs?: TokenLogprobs['top'];
}

/** What a token is drawn from: the tokens that passed every filter, and their probabilities. */
export interface Distribution {
  readonly ids: Int32Array;
  readonly probabilities: Float64Array;
}

/**
 * Chooses tokens of one sequence. An absent `temperature` is greedy here. Logits that are NaN, +∞ or all -∞ throw
 * `InferenceError`.
 *
 * ```ts
 * const sampler = new Sampler({ temperature: 0.8, topP: 0.95 }, { vocabSize, seed: 7 });
 * const { token } = sampler.sample(logits, { prompt, generated });
 * ```
 */
export class Sampler {
  readonly #temperature: number;
  readonly #topK: number;
  readonly #topP: number;
  readonly #minP: number;
  readonly #greedy: boolean;
  readonly #frequency: number;
  readonly #presence: number;
  readonly #repetition: number;
  readonly #dry: DryRule | undefined;
  readonly #biasIds: Int32Array;
  readonly #biases: Float64Array;
  readonly #processors: readonly LogitsProcessor[];
  readonly #edits: boolean;
  readonly #logprobs: boolean;
  readonly #topCount: number;
  readonly #rng: CounterRng;
  readonly #workspace: SamplerWorkspace;

  // Results of the last `#filter`.
  #row: Float32Array;
  #max = 0;
  #survivors: Candidates;

  constructor(params: SamplingParams, options: SamplerOptions) {
    const { vocabSize } = options;
    const temperature = params.temperature ?? 0;
    const greedyTemperature = temperature < MIN_TEMPERATURE;
    this.#workspace = options.workspace ?? new SamplerWorkspace(vocabSize);
    this.#temperature = greedyTemperature ? 1 : temperature;
    this.#topK = params.topK !== undefined && params.topK > 0 ? Math.min(params.topK, vocabSize) : vocabSize;
    this.#topP = insideUnit(params.topP) ? params.topP : 1;
    this.#minP = insideUnit(params.minP) ? params.minP : 0;
    this.#greedy = greedyTemperature || this.#topK === 1;
    this.#frequency = params.frequencyPenalty ?? 0;
    this.#presence = params.presencePenalty ?? 0;
    this.#repetition = params.repetitionPenalty ?? 1;
    const dry = params.dryParams;
    this.#dry = dry?.multiplier
      ? {
          multiplier: dry.multiplier,
          base: dry.base ?? 1.75,
          allowedLength: dry.allowedLength ?? 2,
          breakers: new Set(options.breakers),
        }
      : undefined;
    const biases = [...(params.logitsBias ?? [])].filter(([id]) => id >= 0 && id < vocabSize);
    this.#biasIds = Int32Array.from(biases, ([id]) => id);
    this.#biases = Float64Array.from(biases, ([, bias]) => bias);
    this.#processors = options.processors ?? [];
    this.#edits =
      this.#dry !== undefined ||
      this.#frequency !== 0 ||
      this.#presence !== 0 ||
      this.#repetition !== 1 ||
      this.#biasIds.length > 0 ||
      this.#processors.length > 0;
    this.#logprobs = options.logprobs ?? false;
    this.#topCount = params.topNLogprobs ?? 0;
    this.#rng = new CounterRng(options.seed ?? 0, options.stream ?? 0);
    this.#row = new Float32Array(0);
    this.#survivors = createCandidates(0);
  }

  /** The next token after `context`. `logits` (`[vocabSize]`) is not changed. */
  sample(logits: Float32Array, context: TokenContext): Sample {
    const token = this.next(logits, historyOf(context));
    if (!this.#logprobs) return { token };
    const { logprob, top } = this.describe(token);
    return { token, logprob, topLogprobs: top };
  }

  /** How many of the largest logits `nextOf` needs; all of them where it cannot take the place of `next`. */
  get need(): number {
    if (this.#edits || this.#logprobs) return this.#workspace.vocabSize;
    return this.#greedy ? 1 : this.#topK <= MAX_HEAP ? this.#topK : this.#workspace.vocabSize;
  }

  /** `sample` without allocating: the token alone. */
  next(logits: Float32Array, history: TokenHistory): number {
    this.#filter(logits, history);
    return this.#draw(history);
  }

  /** `next` from the `need` largest logits. */
  nextOf(top: TopRow, history: TokenHistory): number {
    const few = this.#workspace.few(MAX_HEAP);
    few.count = 0;
    for (let i = 0; i < this.need; i++) {
      const value = top.values[top.at + i]!;
      if (value === Number.NEGATIVE_INFINITY) break;
      if (!(value < Number.POSITIVE_INFINITY)) throw badLogits(`${value} for token ${top.ids[top.at + i]}`, history);
      few.ids[i] = top.ids[top.at + i]!;
      few.values[i] = value;
      few.count++;
    }
    if (few.count === 0) throw badLogits(ALL_IMPOSSIBLE, history);
    this.#weighTop(few);
    return this.#draw(history);
  }

  #draw(history: TokenHistory): number {
    const { ids, values, count } = this.#survivors;
    if (count === 1) return ids[0]!;
    let total = 0;
    for (let i = 0; i < count; i++) total += values[i]!;
    let left = total * this.#rng.uniform(history.length - history.promptLength);
    let chosen = 0;
    for (let i = 0; i < count && left >= 0; i++) {
      // Rounding may leave a rest at the end: it must not fall on a token without weight.
      if (values[i]! > 0) chosen = i;
      left -= values[i]!;
    }
    return ids[chosen]!;
  }

  /** Log-probabilities of a token under the logits of the last `next`, which must still be unchanged. */
  describe(token: number): TokenLogprobs {
    const { exp, all } = this.#workspace;
    const logSum = Math.log(exp.weigh(this.#row, this.#max, this.#temperature, all));
    const scratch = this.#workspace.few(this.#topCount);
    return tokenLogprobs(this.#row, this.#max, this.#temperature, logSum, token, this.#topCount, scratch);
  }

  /** What `sample` would draw from. */
  distribution(logits: Float32Array, context: TokenContext): Distribution {
    this.#filter(logits, historyOf(context));
    const { ids, values, count } = this.#survivors;
    const probabilities = values.slice(0, count);
    const total = probabilities.reduce((sum, value) => sum + value, 0);
    for (let i = 0; i < count; i++) probabilities[i]! /= total;
    return { ids: ids.slice(0, count), probabilities };
  }

  /** Leaves the surviving tokens and their weights, relative to the most likely token, in `#survivors`. */
  #filter(logits: Float32Array, history: TokenHistory): void {
    if (logits.length !== this.#workspace.vocabSize) {
      throw new InferenceError(`logits: expected ${this.#workspace.vocabSize} values, got ${logits.length}`);
    }
    const row = this.#edits ? this.#edit(logits, history) : logits;
    this.#row = row;
    if (this.#greedy) this.#filterGreedy(row, history);
    else if (this.#topK <= MAX_HEAP) this.#filterTopK(row, history);
    else this.#filterAll(row, history);
  }

  #edit(logits: Float32Array, history: TokenHistory): Float32Array {
    const { logits: row, counts } = this.#workspace;
    row.set(logits);
    if (this.#dry !== undefined) applyDry(row, history, this.#dry, counts);
    if (this.#frequency !== 0 || this.#presence !== 0) {
      applyFrequencyPresence(row, history, this.#frequency, this.#presence, counts);
    }
    if (this.#repetition !== 1) applyRepetition(row, history, this.#repetition, counts);
    for (let i = 0; i < this.#biasIds.length; i++) row[this.#biasIds[i]!]! += this.#biases[i]!;
    if (this.#processors.length > 0) {
      const { tokens, promptLength, length } = history;
      const context = { prompt: tokens.subarray(0, promptLength), generated: tokens.subarray(promptLength, length) };
      for (const process of this.#processors) process(row, context);
    }
    return row;
  }

  #filterGreedy(row: Float32Array, history: TokenHistory): void {
    const best = checked(argmax(row), row, history);
    const one = this.#workspace.few(1);
    one.ids[0] = best;
    one.values[0] = 1;
    one.count = 1;
    this.#max = row[best]!;
    this.#survivors = one;
  }

  #filterTopK(row: Float32Array, history: TokenHistory): void {
    const few = this.#workspace.few(MAX_HEAP);
    const bad = selectTop(row, this.#topK, few);
    checked(bad === NONE && few.count > 0 ? 0 : bad, row, history);
    this.#weighTop(few);
  }

  /** Top-p and min-p on candidates in falling order. */
  #weighTop(few: Candidates): void {
    const { values } = few;
    const max = values[0]!;
    let total = 0;
    for (let i = 0; i < few.count; i++) total += values[i] = Math.exp((values[i]! - max) / this.#temperature);
    const mass = this.#topP * total;
    let kept = 0;
    // The order is falling: both filters keep a run from the start.
    for (let sum = 0; kept < few.count; kept++) {
      if (kept > 0 && ((this.#topP < 1 && sum >= mass) || values[kept]! <= this.#minP)) break;
      sum += values[kept]!;
    }
    few.count = kept;
    this.#max = max;
    this.#survivors = few;
  }

  #filterAll(row: Float32Array, history: TokenHistory): void {
    const max = row[checked(argmax(row), row, history)]!;
    const all = this.#workspace.all;
    this.#max = max;
    this.#survivors = all;
    if (this.#minP > 0 && this.#topK === row.length && this.#topP === 1) {
      weighLikely(row, max, this.#temperature, this.#minP, all);
      return;
    }
    const { values } = all;
    let total = this.#workspace.exp.weigh(row, max, this.#temperature, all);
    if (this.#topK < row.length) {
      keepLargest(all, this.#topK);
      total = 0;
      for (let i = 0; i < all.count; i++) total += values[i]!;
    }
    if (this.#topP < 1) {
      // Together, entries below this floor weigh less than what top-p drops: none of them can be kept.
      keepAbove(all, (((1 - this.#topP) * total) / all.count) * (1 - 1e-9));
      keepMass(all, this.#topP * total);
    }
    if (this.#minP > 0) keepAbove(all, this.#minP);
  }
}

function insideUnit(value: number | undefined): value is number {
  return value !== undefined && value > 0 && value < 1;
}

/** The weights above `minP` alone: the others are told by their logits, without an exponential. */
function weighLikely(row: Float32Array, max: number, temperature: number, minP: number, out: Candidates): void {
  const floor = max + temperature * (Math.log(minP) - 1e-6);
  let count = 0;
  for (let i = 0; i < row.length; i++) {
    if (row[i]! < floor) continue;
    const weight = Math.exp((row[i]! - max) / temperature);
    if (weight <= minP) continue;
    out.ids[count] = i;
    out.values[count] = weight;
    count++;
  }
  out.count = count;
}

/** Drops entries that are not above `floor`; keeps the order. */
function keepAbove(c: Candidates, floor: number): void {
  const { ids, values } = c;
  let kept = 0;
  for (let i = 0; i < c.count; i++) {
    const value = values[i]!;
    if (value <= floor) continue;
    ids[kept] = ids[i]!;
    values[kept] = value;
    kept++;
  }
  c.count = kept;
}

function historyOf(context: TokenContext): TokenHistory {
  const promptLength = context.prompt.length;
  const tokens = new Int32Array(promptLength + context.generated.length);
  tokens.set(context.prompt);
  tokens.set(context.generated, promptLength);
  return { tokens, promptLength, length: tokens.length };
}

/** Passes an index through; throws for what `argmax` returns when a row cannot be sampled from. */
function checked(found: number, row: Float32Array, history: TokenHistory): number {
  if (found >= 0 && found !== NONE) return found;
  throw badLogits(found === NONE ? ALL_IMPOSSIBLE : `${row[-1 - found]} for token ${-1 - found}`, history);
}

const ALL_IMPOSSIBLE = 'only -Infinity';

function badLogits(got: string, history: TokenHistory): InferenceError {
  return new InferenceError(
    `logits after ${history.length} tokens: expected finite numbers, got ${got}; ` +
      'the weights or a logits processor produce values that are not numbers',
  );
}
