/** Perplexity of a text under a model, and how far the model's logits are from those of a reference model. */
import { ConfigError, InferenceError } from '../errors.ts';
import type { DivergenceSummary, PerplexitySummary } from './divergence.ts';
import { crossEntropy, Divergence, Mean, perplexityOf } from './divergence.ts';
import type { Model } from './model.ts';

const DEFAULT_CHUNK = 1024;

export interface PerplexityOptions {
  /** Tokens of one window, those of `prefix` not counted; 1024 when absent. */
  readonly chunk?: number | undefined;
  /**
   * From the beginning of one window to that of the next: each foretells the tokens that no earlier window did, so that
   * below `chunk` they have more text before them. `chunk` when absent.
   */
  readonly stride?: number | undefined;
  /** Windows to look at; all when absent. */
  readonly maxWindows?: number | undefined;
  /**
   * Stands before every window, such as a token that begins a text. Without it no loss is counted for the first token of a
   * window, unless an earlier window holds it too.
   */
  readonly prefix?: ArrayLike<number> | undefined;
  /** A model with the same tokens, such as the same one before quantization. */
  readonly reference?: Model | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onWindow?: ((window: WindowReport, done: number, total: number) => void) | undefined;
}

export interface WindowReport {
  /** Tokens that were foretold. */
  readonly count: number;
  readonly perplexity: number;
}

export interface PerplexityReport extends PerplexitySummary {
  readonly windows: readonly WindowReport[];
  /** Positions that the model computed, overlaps and prefixes included, per second of its own time. */
  readonly tokensPerSecond: number;
  readonly seconds: number;
  /** Of the reference model on the same tokens. */
  readonly reference?: PerplexitySummary | undefined;
  /** From the reference model. */
  readonly divergence?: DivergenceSummary | undefined;
}

/** A run of tokens, and where in it the tokens begin that are foretold. */
interface Window {
  readonly ids: Uint32Array;
  readonly from: number;
}

/**
 * Runs a text through the model in windows, with the logits of every position. Of a reference, the rows of one window are
 * kept; the model's own are compared as they come.
 * @throws ConfigError where the windows do not fit the model, ShapeError where the vocabularies differ, InferenceError for
 * logits that are not numbers.
 */
export async function measurePerplexity(
  model: Model,
  ids: ArrayLike<number>,
  options: PerplexityOptions = {},
): Promise<PerplexityReport> {
  const { reference, onWindow } = options;
  const windows = windowsOf(ids, options, roomOf(model, reference));
  const losses = new Mean();
  const referenceLosses = new Mean();
  const divergence = reference ? new Divergence() : undefined;
  const reports: WindowReport[] = [];
  const runner = new WindowRunner(model, options.signal);
  const keeper = reference && new RowKeeper(reference, options.signal);
  for (const { ids: tokens, from } of windows) {
    await keeper?.keep(tokens, from);
    const own = new Mean();
    await runner.run(tokens, from, (row, target, index) => {
      const token = tokens[target]!;
      const kept = keeper?.row(index);
      let loss: number;
      if (kept && divergence) {
        const { logSum, referenceLogSum } = divergence.add(kept, row, token);
        loss = logSum - row[token]!;
        referenceLosses.add(finite(referenceLogSum - kept[token]!));
      } else {
        loss = crossEntropy(row, token);
      }
      losses.add(finite(loss));
      own.add(loss);
    });
    const report = { count: own.count, perplexity: Math.exp(own.mean) };
    reports.push(report);
    onWindow?.(report, reports.length, windows.length);
  }
  return {
    ...perplexityOf(losses),
    windows: reports,
    tokensPerSecond: runner.positions / runner.seconds,
    seconds: runner.seconds,
    ...(divergence && { reference: perplexityOf(referenceLosses), divergence: divergence.summary() }),
  };
}

function finite(loss: number): number {
  // Infinite for a token that is ruled out: a result, if a sad one.
  if (!Number.isNaN(loss)) return loss;
  throw new InferenceError('perplexity: expected logits that are numbers, got NaN');
}

function roomOf(...models: readonly (Model | undefined)[]): number {
  return Math.min(...models.map((model) => model?.maxSequenceLength() ?? Number.POSITIVE_INFINITY));
}

/** Windows from the start of the text on, together foretelling each token once. */
function windowsOf(text: ArrayLike<number>, options: PerplexityOptions, room: number): Window[] {
  const prefix = Uint32Array.from(options.prefix ?? []);
  const { chunk = Math.min(DEFAULT_CHUNK, room - prefix.length), maxWindows = Number.POSITIVE_INFINITY } = options;
  const { stride = chunk } = options;
  // A window without prefix foretells nothing with its first token.
  whole('chunk', chunk, prefix.length > 0 ? 1 : 2, room - prefix.length);
  whole('stride', stride, 1, chunk);
  if (maxWindows !== Number.POSITIVE_INFINITY) whole('maxWindows', maxWindows, 1, Number.MAX_SAFE_INTEGER);
  const windows: Window[] = [];
  let done = 0;
  for (let start = 0; done < text.length && windows.length < maxWindows; start += stride) {
    const end = Math.min(start + chunk, text.length);
    const ids = new Uint32Array(prefix.length + end - start);
    ids.set(prefix);
    for (let i = start; i < end; i++) ids[prefix.length + i - start] = text[i]!;
    const from = Math.max(1, prefix.length + done - start);
    if (from < ids.length) windows.push({ ids, from });
    done = end;
  }
  if (windows.length > 0) return windows;
  throw new ConfigError(`perplexity: expected a text with a token to foretell, got ${text.length} tokens`);
}

function whole(name: string, value: number, min: number, max: number): void {
  if (Number.isInteger(value) && value >= min && value <= max) return;
  throw new ConfigError(`perplexity.${name}: expected a whole number from ${min} to ${max}, got ${value}`);
}

/** `row` foretells token `target` of the window; it is the window's `index`-th. */
type EachRow = (row: Float32Array, target: number, index: number) => void;

/** Runs windows through one model, and counts its time without what its reader takes. */
class WindowRunner {
  readonly #model: Model;
  readonly #signal: AbortSignal | undefined;
  seconds = 0;
  positions = 0;

  constructor(model: Model, signal: AbortSignal | undefined) {
    this.#model = model;
    this.#signal = signal;
  }

  /** Reads the rows of the tokens from `from` on. */
  async run(ids: Uint32Array, from: number, each: EachRow): Promise<void> {
    const { vocabSize } = this.#model.config();
    const start = performance.now();
    let reading = 0;
    await this.#model.sendRawTokens(ids, {
      ...(this.#signal && { signal: this.#signal }),
      onRows: (rows, first) => {
        const begin = performance.now();
        const end = Math.min(ids.length, first + 1 + rows.length / vocabSize);
        for (let target = Math.max(from, first + 1); target < end; target++) {
          const at = (target - 1 - first) * vocabSize;
          each(rows.subarray(at, at + vocabSize), target, target - from);
        }
        reading += performance.now() - begin;
      },
    });
    this.seconds += (performance.now() - start - reading) / 1000;
    this.positions += ids.length;
  }
}

/** The rows of one window, in memory that the next one takes again. */
class RowKeeper {
  readonly #runner: WindowRunner;
  readonly #vocabSize: number;
  #rows = new Float32Array(0);

  constructor(model: Model, signal: AbortSignal | undefined) {
    this.#runner = new WindowRunner(model, signal);
    this.#vocabSize = model.config().vocabSize;
  }

  async keep(ids: Uint32Array, from: number): Promise<void> {
    const size = (ids.length - from) * this.#vocabSize;
    if (this.#rows.length < size) this.#rows = new Float32Array(size);
    await this.#runner.run(ids, from, (row, _, index) => this.#rows.set(row, index * this.#vocabSize));
  }

  row(index: number): Float32Array {
    return this.#rows.subarray(index * this.#vocabSize, (index + 1) * this.#vocabSize);
  }
}
