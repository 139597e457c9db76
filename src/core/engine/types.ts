/** What goes into the engine and what comes out. Types only. */
import type { PackedBatch } from './batch.ts';
import type { Plan } from './plan.ts';
import type { Sequence } from './sequence.ts';

// ---------------------------------------------------------------------------------------------------------------- //
// Requests

/** Penalty on continuing a repetition ("don't repeat yourself"); `multiplier` 0 switches it off. */
export interface DryParams {
  readonly multiplier?: number | undefined;
  /** 1.75 when absent. */
  readonly base?: number | undefined;
  /** Repetitions up to this length are free; 2 when absent. */
  readonly allowedLength?: number | undefined;
  /** Texts no repetition reaches across; newline, colon, double quote and asterisk when absent. */
  readonly sequenceBreakers?: readonly string[] | undefined;
}

/** How tokens are chosen and when an answer ends. An absent field is off, except where said. */
export interface SamplingParams {
  /** The engine takes 1 when absent; below 1e-7 the most likely token is taken. */
  readonly temperature?: number | undefined;
  /** Keeps the `k` most likely tokens; 0 or less is off, 1 is greedy. */
  readonly topK?: number | undefined;
  /** Keeps the most likely tokens that together reach this share; active inside (0, 1). */
  readonly topP?: number | undefined;
  /** Keeps tokens more likely than this share of the most likely one; active inside (0, 1). */
  readonly minP?: number | undefined;
  /** Alternatives reported with each token when log-probabilities are asked for. */
  readonly topNLogprobs?: number | undefined;
  /** Subtracted once per earlier occurrence among the generated tokens. */
  readonly frequencyPenalty?: number | undefined;
  /** Subtracted once from tokens that were generated before. */
  readonly presencePenalty?: number | undefined;
  /** Divides positive and multiplies other logits of tokens in the prompt or the answer; 1 is off. */
  readonly repetitionPenalty?: number | undefined;
  readonly stopToks?: { readonly seqs: readonly string[] } | { readonly ids: readonly number[] } | undefined;
  /** Goes on after an end-of-sequence token. */
  readonly ignoreEos?: boolean | undefined;
  /** Most tokens generated; absent: until the end token or the context limit. */
  readonly maxLen?: number | undefined;
  /** Added to logits after the penalties; ids beyond the vocabulary are ignored. */
  readonly logitsBias?: ReadonlyMap<number, number> | undefined;
  /** Answers to one prompt; 1 when absent. */
  readonly nChoices?: number | undefined;
  readonly dryParams?: DryParams | undefined;
}

/** The tokens a choice is made after. */
export interface TokenContext {
  readonly prompt: ArrayLike<number>;
  readonly generated: ArrayLike<number>;
}

/** Changes `logits` in place, after penalties and bias and before the temperature. */
export type LogitsProcessor = (logits: Float32Array, context: TokenContext) => void;

/** Turns tokens into text as they come; text is withheld while a character is incomplete. */
export interface TokenDecoder {
  push(id: number): string | undefined;
  /** What is still withheld; incomplete characters become U+FFFD. */
  flush(): string | undefined;
}

/** A LoRA adapter: by alias, or one exact generation of it. */
export type AdapterSelection = string | { readonly generation: string };

/** An adapter held for one request. */
export interface AdapterLease {
  /** Number of the generation, above 0; none is given twice. */
  readonly serial: number;
  /** SHA-256 of its contents, in hexadecimal. */
  readonly generation: string;
  /** Further calls do nothing. */
  release(): void;
}

/** The adapters that requests can choose from. */
export interface AdapterPool {
  /** Throws `LoraAdapterError` where there is no such adapter. */
  acquire(selection: AdapterSelection): AdapterLease;
}

export interface GenerationRequest {
  readonly prompt: ArrayLike<number>;
  readonly sampling?: SamplingParams | undefined;
  /** Reports the log-probability of each token, and `sampling.topNLogprobs` alternatives. */
  readonly logprobs?: boolean | undefined;
  readonly logitsProcessors?: readonly LogitsProcessor[] | undefined;
  /** Any safe integer. Same request and seed give the same tokens, whatever else runs. */
  readonly seed?: number | undefined;
  /** Drops tokens from the front of a prompt that is too long, instead of refusing it. */
  readonly truncateSequence?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  /** One decoder for each choice. Without it, texts are empty and stop strings cannot match. */
  readonly createDecoder?: (() => TokenDecoder) | undefined;
  /** Token ids of `dryParams.sequenceBreakers`: the last token of encoding "a" + breaker. */
  readonly dryBreakers?: readonly number[] | undefined;
  /** Ends the answer like an id of `sampling.stopToks`; for stop strings that are one special token. */
  readonly stopIds?: readonly number[] | undefined;
  /** Texts lose leading white space; true when absent. */
  readonly trimStart?: boolean | undefined;
  /** The base model alone when absent. */
  readonly adapter?: AdapterSelection | undefined;
}

/** Logits of every prompt position; nothing is sampled. */
export interface RawLogitsRequest {
  readonly prompt: ArrayLike<number>;
  readonly truncateSequence?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly adapter?: AdapterSelection | undefined;
  /** Takes the rows as they are computed; the result keeps none then. What it throws ends the request. */
  readonly onRows?: LogitRows | undefined;
}

/** Rows of logits of consecutive positions, the first of them `first`; they are overwritten when the call returns. */
export type LogitRows = (rows: Float32Array, first: number) => void;

// ---------------------------------------------------------------------------------------------------------------- //
// Responses

/**
 * `stop`: end token, stop id or stop string. `length`: `maxLen` or the context limit. `error` is only found in the
 * partial result of a `ModelError`.
 */
export type FinishReason = 'stop' | 'length' | 'canceled' | 'error';

export interface TopLogprob {
  readonly token: number;
  readonly logprob: number;
}

/** Natural logarithms of the distribution after penalties, bias and temperature, before top-k, top-p and min-p. */
export interface TokenLogprobs {
  readonly token: number;
  readonly logprob: number;
  /** The most likely tokens, falling; as many as `topNLogprobs`. */
  readonly top: readonly TopLogprob[];
}

/** One generated token. `text` is what became certain with it and may be empty. An end token is reported too. */
export interface TokenEvent {
  readonly kind: 'token';
  readonly index: number;
  readonly token: number;
  readonly text: string;
  readonly logprobs: TokenLogprobs | undefined;
}

/** The last event of a choice; `text` is what had been withheld. */
export interface FinishEvent {
  readonly kind: 'finish';
  readonly index: number;
  readonly finishReason: FinishReason;
  readonly text: string;
}

/** The last event of a request. */
export interface DoneEvent {
  readonly kind: 'done';
  readonly usage: Usage;
}

export type EngineEvent = TokenEvent | FinishEvent | DoneEvent;

/** Tokens and seconds of one request. Rates are tokens per second, 0 when the time is 0. */
export interface Usage {
  /** Sum over all choices, end tokens included. */
  readonly completionTokens: number;
  readonly promptTokens: number;
  readonly totalTokens: number;
  readonly avgTokPerSec: number;
  readonly avgPromptTokPerSec: number;
  readonly avgComplTokPerSec: number;
  /** From submission to the last token. */
  readonly totalTimeSec: number;
  /** From the first step that ran a prompt token to the first generated token. */
  readonly totalPromptTimeSec: number;
  /** From the first generated token to the last. */
  readonly totalCompletionTimeSec: number;
}

/** Events of one request, in order. Leaving the loop early (`return`) cancels the request at the next step. */
export interface GenerationStream extends AsyncIterableIterator<EngineEvent> {
  /** The prompt as it runs, after truncation. */
  readonly promptTokens: Uint32Array;
  /** Of the adapter it runs with. */
  readonly adapterGeneration?: string | undefined;
  /** Ends the request at the next step; its choices finish with `canceled`. */
  cancel(): void;
  return(): Promise<IteratorResult<EngineEvent>>;
}

export interface ChoiceResult {
  readonly index: number;
  readonly text: string;
  /** Every generated token, an end token included. */
  readonly tokens: Uint32Array;
  readonly finishReason: FinishReason;
  /** One entry per token when asked for. */
  readonly logprobs: readonly TokenLogprobs[] | undefined;
}

/** A whole request. `ModelError.partialResponse` is one too, with `finishReason: 'error'` where a choice was cut. */
export interface GenerationResult {
  readonly choices: readonly ChoiceResult[];
  readonly usage: Usage;
  /** Of the adapter it ran with. */
  readonly adapterGeneration?: string | undefined;
}

export interface RawLogits {
  /** Consecutive rows of logits, `rows * vocabSize` floats in each chunk; none where `onRows` took them. */
  readonly chunks: readonly Float32Array[];
  readonly vocabSize: number;
  readonly tokens: Uint32Array;
  readonly usage: Usage;
}

// ---------------------------------------------------------------------------------------------------------------- //
// The model behind the engine

/** Runs packed batches. The engine awaits one `forward` at a time and never touches a tensor itself. */
export interface ModelRunner {
  readonly vocabSize: number;
  /** Positions the model can take. */
  readonly contextLength: number;
  /** Positions in one block of the key/value cache. */
  readonly blockSize: number;
  /** Blocks of the key/value cache. */
  readonly blocks: number;
  /** Largest batch accepted: rows, sequences, rows whose logits are wanted. */
  readonly maxRows: number;
  readonly maxSequences: number;
  readonly maxLogitRows: number;
  /** Slots for states of recurrent layers; absent or 0 for models without. Every running sequence needs one. */
  readonly stateSlots?: number | undefined;
  /** A sequence that grows beyond one of these lengths is computed again from its first token. */
  readonly recomputeAt?: readonly number[] | undefined;
  /** A prompt longer than this is computed in a way of its own for each length: others cannot share its blocks. */
  readonly growsBeyond?: number | undefined;
  /**
   * First copies the cache blocks of `batch.copies` and the states of `batch.stateCopies`, then runs the batch. The result
   * is `[batch.logitCount, vocabSize]`, valid until the next call. The batch's arrays belong to the engine and are reused
   * after the promise settles.
   */
  forward(batch: PackedBatch): Promise<Float32Array>;
  /** Steps of another runner come in between: a batch may be read late, and its arrays must stay as they are until then. */
  readonly contended?: boolean | undefined;
  /** Present where reading whole rows costs more than finding their largest entries. */
  readonly top?: TopRunner | undefined;
  /** Present where the model has a head that guesses further tokens. */
  readonly predictor?: PredictorRunner | undefined;
}

/** Runs the head that guesses tokens behind the next one, between two calls of `ModelRunner.forward`. */
export interface PredictorRunner {
  /** Blocks of its cache beyond those of the model, from number `ModelRunner.blocks` on: for rows that are guesses. */
  readonly extraBlocks: number;
  /**
   * Each row has the position of a final row of the model, and the token behind it. `sources[r]` says which final row:
   * of the last `forward`, in the order of its batch, or with `own` of the last `predict`, in the order of its wanted
   * rows. The result holds the wanted rows, whole or their largest logit alone, valid until the next call.
   */
  predict(batch: PackedBatch, sources: Int32Array, own: boolean): Promise<Float32Array | TopLogits>;
}

export interface TopRunner {
  /** Largest `k`. */
  readonly maxK: number;
  /**
   * Like `ModelRunner.forward`, but returns the `k` largest logits of each wanted row. A batch that `follows` takes its
   * tokens from a call with `k` 1 that need not have settled. The batch is read before the call returns, unless the runner
   * is `contended`; the results of two calls are valid at a time.
   */
  forward(batch: PackedBatch, k: number): Promise<TopLogits>;
}

/** The largest logits of some rows, `k` for each, in falling order and by lower id among equals. */
export interface TopLogits {
  readonly k: number;
  readonly ids: Int32Array;
  readonly values: Float32Array;
}

/** One row of `TopLogits`, from index `at` on. */
export interface TopRow extends TopLogits {
  readonly at: number;
}

/** Proposes tokens of sequences that decode (`Sequence.propose`). */
export interface Drafter {
  /** Most tokens of one proposal. */
  readonly maxDraft: number;
  /** `limits[i]`: most tokens that sequence `i` can use. A promise is awaited before the step. */
  draft(sequences: readonly Sequence[], limits: Int32Array): Promise<void> | undefined;
  /** Sees each step when its tokens are known: `sequence.length` has grown by then. */
  readonly observe?: ((plan: Plan) => void) | undefined;
  /** Hears how many tokens of a proposal ran, and how many of them from the first were right. */
  checked?(sequence: Sequence, proposed: number, accepted: number): void;
}

/** What a cache would have to be for more than it holds. */
export interface CacheLimit {
  /** Positions that the model itself takes. */
  readonly modelLength: number;
  /** Megabytes of a cache of so many positions. */
  memoryFor(positions: number): number;
}

export interface EngineOptions {
  /** Given where the cache holds fewer positions than the model takes: requests beyond it are told what they need. */
  readonly cacheLimit?: CacheLimit | undefined;
  /** Ids that end an answer unless `ignoreEos`. */
  readonly eosIds?: readonly number[] | undefined;
  /** Sequences that run at the same time; 32 when absent. */
  readonly maxNumSeqs?: number | undefined;
  /** Rows of one step; 512 when absent. Long prompts run in pieces of at most this size. */
  readonly maxBatchTokens?: number | undefined;
  /** Requests waiting to start; 10,000 when absent. */
  readonly maxQueue?: number | undefined;
  /** Events kept for a reader that does not read; beyond it the request is paused. 1024 when absent. */
  readonly eventBuffer?: number | undefined;
  /** Reuses the cache of earlier prompts that start alike; true when absent. */
  readonly prefixCache?: boolean | undefined;
  /** Runs the whole sequence again for each token. For checks of the cache. */
  readonly noKvCache?: boolean | undefined;
  /** Every prompt runs in one step, since its tokens are computed by what all of them say. Longer ones are refused. */
  readonly wholePrompts?: boolean | undefined;
  /** Guesses tokens, so that a step can check several at once; answers stay the same. */
  readonly drafter?: Drafter | undefined;
  /** Adapters that requests can name; not together with `drafter`. */
  readonly adapters?: AdapterPool | undefined;
  /** Seeds the requests that bring no seed; 0 when absent. */
  readonly seed?: number | undefined;
  /** Lets timers, input and messages of the host be handled; called between steps, at most once per millisecond. */
  readonly yieldToHost?: (() => Promise<void>) | undefined;
  /** Milliseconds; `performance.now` when absent. */
  readonly now?: (() => number) | undefined;
}

/** Counters since the engine started, and gauges of the moment. */
export interface EngineStats {
  readonly running: number;
  readonly waiting: number;
  /** Prompt tokens that ran through the model; those found in the prefix cache did not. */
  readonly promptTokensComputed: number;
  readonly promptTokens: number;
  readonly generatedTokens: number;
  readonly steps: number;
  /** Proposals of several tokens, their tokens, and those that were right, also by their place in the proposal. */
  readonly drafts: number;
  readonly draftTokensProposed: number;
  readonly draftTokensAccepted: number;
  readonly draftTokensAcceptedByPlace: readonly number[];
  readonly preemptions: number;
  /** Full blocks looked up in the prefix cache, found there, and dropped from it. */
  readonly prefixLookups: number;
  readonly prefixHits: number;
  readonly prefixEvictions: number;
  readonly blocksUsed: number;
  readonly blocksTotal: number;
  /** State slots that sequences of a recurrent model hold, of all; those for snapshots count as free. */
  readonly statesUsed: number;
  readonly statesTotal: number;
  readonly completed: Readonly<Record<FinishReason, number>>;
}

/** Runs a task while no step of the model does. */
export type BetweenSteps = <T>(task: () => Promise<T>) => Promise<T>;
