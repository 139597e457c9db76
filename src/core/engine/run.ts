/** Requests while they run: from rows of logits to events. The scheduler knows their sequences, the engine the rest. */
import type { EventQueue } from './events.ts';
import type { Sampler } from './sampler.ts';
import type { Sequence, SequenceGroup } from './sequence.ts';
import type { OutputText } from './stop.ts';
import type { Timing } from './timing.ts';
import type {
  AdapterLease,
  ChoiceResult,
  FinishReason,
  GenerationResult,
  LogitRows,
  RawLogits,
  TokenLogprobs,
  TopRow,
  Usage,
} from './types.ts';

export interface Choice {
  readonly sampler: Sampler;
  readonly output: OutputText;
}

export interface GenerationSetup {
  readonly group: SequenceGroup;
  /** Held until the request ends. */
  readonly lease?: AdapterLease | undefined;
  readonly events: EventQueue;
  readonly timing: Timing;
  /** One for each sequence of the group. */
  readonly choices: readonly Choice[];
  /** Ids that end a choice: end tokens unless they are ignored, and stop ids. */
  readonly stopIds: ReadonlySet<number>;
  readonly maxLen: number;
  readonly contextLength: number;
  readonly logprobs: boolean;
}

interface ChoiceState extends Choice {
  text: string;
  readonly logprobs: TokenLogprobs[] | undefined;
  finishReason: FinishReason | undefined;
}

/** A request for tokens. */
export class GenerationRun {
  readonly group: SequenceGroup;
  readonly events: EventQueue;
  readonly timing: Timing;
  /** Called when the engine lets go of the request. */
  onEnd: (() => void) | undefined;
  readonly lease: AdapterLease | undefined;
  readonly #setup: GenerationSetup;
  readonly #choices: ChoiceState[];
  #open: number;
  #usage: Usage | undefined;

  constructor(setup: GenerationSetup) {
    this.group = setup.group;
    this.events = setup.events;
    this.timing = setup.timing;
    this.lease = setup.lease;
    this.#setup = setup;
    this.#choices = setup.choices.map((choice) => ({
      ...choice,
      text: '',
      logprobs: setup.logprobs ? [] : undefined,
      finishReason: undefined,
    }));
    this.#open = this.#choices.length;
  }

  /** Every choice has its finish reason. */
  get finished(): boolean {
    return this.#open === 0;
  }

  /** How many of the largest logits every choice needs for its next token. */
  get need(): number {
    if (this.#setup.logprobs) return Number.POSITIVE_INFINITY;
    let need = 1;
    for (const { sampler } of this.#choices) need = Math.max(need, sampler.need);
    return need;
  }

  /** Tokens that a sequence may still get. */
  room(sequence: Sequence): number {
    const { maxLen, contextLength } = this.#setup;
    return Math.min(maxLen + sequence.promptLength, contextLength) - sequence.length;
  }

  /** Chooses the next token of a sequence from its logits; returns the finish reason if it is the last one. */
  advance(sequence: Sequence, logits: Float32Array | TopRow, at: number): FinishReason | undefined {
    const choice = this.#choices[sequence.index]!;
    const { sampler } = choice;
    const token = 'ids' in logits ? sampler.nextOf(logits, sequence) : sampler.next(logits, sequence);
    const logprobs = choice.logprobs && choice.sampler.describe(token);
    sequence.append(token);
    this.timing.token(at);
    const { stopIds } = this.#setup;
    let text = '';
    let reason: FinishReason | undefined;
    if (stopIds.has(token)) {
      reason = 'stop';
    } else {
      text = choice.output.push(token);
      if (choice.output.stopped) reason = 'stop';
      else if (this.#isFull(sequence)) reason = 'length';
    }
    choice.text += text;
    if (logprobs !== undefined) choice.logprobs!.push(logprobs);
    this.events.push({ kind: 'token', index: sequence.index, token, text, logprobs });
    if (reason !== undefined) this.#finish(sequence.index, reason, at);
    return reason === undefined ? undefined : choice.finishReason;
  }

  /** Ends what is still open; returns how many choices that were. */
  cancel(at: number): number {
    const open = this.#open;
    for (const sequence of this.group.sequences) {
      if (this.#choices[sequence.index]!.finishReason === undefined) this.#finish(sequence.index, 'canceled', at);
    }
    return open;
  }

  fail(error: unknown): void {
    this.#open = 0;
    this.events.fail(error);
  }

  /** What there is so far; a choice that is still open counts as cut by an error. */
  result(at: number): GenerationResult {
    const generation = this.lease?.generation;
    return {
      choices: this.group.sequences.map((s) => this.#choiceResult(s)),
      usage: this.#usage ?? this.#usageAt(at),
      ...(generation === undefined ? {} : { adapterGeneration: generation }),
    };
  }

  #isFull(sequence: Sequence): boolean {
    const { maxLen, contextLength } = this.#setup;
    return sequence.length - sequence.promptLength >= maxLen || sequence.length >= contextLength;
  }

  #finish(index: number, reason: FinishReason, at: number): void {
    const choice = this.#choices[index]!;
    const stoppedBefore = choice.output.stopped;
    const text = choice.output.finish();
    choice.text += text;
    // What the decoder releases at the end may complete a stop string.
    choice.finishReason = choice.output.stopped && !stoppedBefore ? 'stop' : reason;
    this.events.push({ kind: 'finish', index, finishReason: choice.finishReason, text });
    if (--this.#open > 0) return;
    this.#usage = this.#usageAt(at);
    this.events.push({ kind: 'done', usage: this.#usage });
    this.events.end();
  }

  #usageAt(at: number): Usage {
    const generated = this.group.sequences.reduce((sum, s) => sum + s.length - s.promptLength, 0);
    return this.timing.usage(this.events.promptTokens.length, generated, at);
  }

  #choiceResult(sequence: Sequence): ChoiceResult {
    const { text, logprobs, finishReason } = this.#choices[sequence.index]!;
    return {
      index: sequence.index,
      text,
      tokens: Uint32Array.from(sequence.tokens.subarray(sequence.promptLength, sequence.length)),
      finishReason: finishReason ?? 'error',
      logprobs,
    };
  }
}

export interface RawSetup {
  readonly group: SequenceGroup;
  readonly lease?: AdapterLease | undefined;
  readonly prompt: Uint32Array;
  readonly timing: Timing;
  readonly vocabSize: number;
  readonly onRows: LogitRows | undefined;
  readonly resolve: (result: RawLogits) => void;
  readonly reject: (error: unknown) => void;
}

/** A request for the logits of every prompt position. */
export class RawRun {
  readonly group: SequenceGroup;
  readonly timing: Timing;
  /** Called when the engine lets go of the request. */
  onEnd: (() => void) | undefined;
  readonly lease: AdapterLease | undefined;
  readonly #setup: RawSetup;
  readonly #chunks: Float32Array[] = [];
  #rows = 0;

  constructor(setup: RawSetup) {
    this.group = setup.group;
    this.timing = setup.timing;
    this.lease = setup.lease;
    this.#setup = setup;
  }

  /** The logits of the last computed tokens; true when the request has ended with them. */
  advance(sequence: Sequence, logits: Float32Array, at: number): boolean {
    const { vocabSize, prompt } = this.#setup;
    // After a preemption, rows come a second time.
    const first = sequence.computed - logits.length / vocabSize;
    const fresh = logits.subarray(Math.max(0, this.#rows - first) * vocabSize);
    try {
      if (fresh.length > 0) this.#take(fresh, sequence.computed - fresh.length / vocabSize);
    } catch (error) {
      this.fail(error);
      return true;
    }
    this.#rows = Math.max(this.#rows, sequence.computed);
    if (sequence.pending > 0) return false;
    const usage = this.timing.usage(prompt.length, 0, at);
    this.#setup.resolve({ chunks: this.#chunks, vocabSize, tokens: prompt, usage });
    return true;
  }

  #take(rows: Float32Array, first: number): void {
    const { onRows } = this.#setup;
    if (onRows) onRows(rows, first);
    else this.#chunks.push(rows.slice());
  }

  fail(error: unknown): void {
    this.#setup.reject(error);
  }
}
