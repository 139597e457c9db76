/** Streams of chunks over the events of one request. */
import type {
  EngineEvent,
  FinishReason,
  GenerationResult,
  GenerationStream,
  TokenLogprobs,
  Usage,
} from '../engine/types.ts';
import { ChannelError } from '../errors.ts';

/**
 * Chunks of one request as they come. Nothing runs before the first `next`, which also reports bad requests. Leaving a
 * `for await` loop early cancels the request.
 */
export interface ResponseStream<Chunk, Final> extends AsyncIterableIterator<Chunk> {
  /** Ends the answer at the next step; its last chunk has the finish reason `canceled`. */
  cancel(): void;
  /** Reads the rest; the text of the first choice, chunks read before included. */
  toText(): Promise<string>;
  /** Reads the rest; the whole response, chunks read before included. */
  final(): Promise<Final>;
}

/** What one chunk says about one choice. */
export interface Piece {
  readonly index: number;
  readonly text: string;
  readonly tokenIds: Uint32Array;
  readonly logprobs: TokenLogprobs | undefined;
  readonly finishReason: FinishReason | undefined;
  readonly usage: Usage | undefined;
}

export interface StreamParts<Chunk, Final> {
  /** Validates, encodes and submits the request. */
  open(): Promise<GenerationStream>;
  readonly choices: number;
  /** A chunk for every token, also while no text is certain: without a tokenizer, or with log-probabilities. */
  readonly everyToken: boolean;
  chunk(piece: Piece, generation: string | undefined): Chunk;
  final(result: GenerationResult): Final;
  text(final: Final): string;
  /** Rewrites an error of the engine. */
  error(error: unknown): unknown;
}

interface Collected {
  text: string;
  readonly tokens: number[];
  readonly logprobs: TokenLogprobs[];
  /** Tokens that no chunk has carried yet. */
  pending: number[];
  finishReason: FinishReason | undefined;
}

/** Implements `ResponseStream` over the engine's events. */
export class EventStream<Chunk, Final> implements ResponseStream<Chunk, Final> {
  readonly #parts: StreamParts<Chunk, Final>;
  readonly #collected: Collected[];
  #events: Promise<GenerationStream> | undefined;
  /** The chunk that ends the last choice waits for the usage, which comes right behind it. */
  #last: Omit<Piece, 'usage'> | undefined;
  #usage: Usage | undefined;
  #ended = false;
  #canceled = false;

  constructor(parts: StreamParts<Chunk, Final>) {
    this.#parts = parts;
    this.#collected = Array.from({ length: parts.choices }, () => ({
      text: '',
      tokens: [],
      logprobs: [],
      pending: [],
      finishReason: undefined,
    }));
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<Chunk>> {
    if (this.#ended) return { done: true, value: undefined };
    try {
      const events = await this.#open();
      for (;;) {
        const { done, value } = await events.next();
        if (done) {
          this.#ended = true;
          return { done: true, value: undefined };
        }
        const piece = this.#take(value);
        if (piece) return { done: false, value: this.#parts.chunk(piece, events.adapterGeneration) };
      }
    } catch (error) {
      this.#ended = true;
      throw this.#parts.error(error);
    }
  }

  async return(): Promise<IteratorResult<Chunk>> {
    this.#ended = true;
    const events = await this.#events?.catch(() => undefined);
    await events?.return();
    return { done: true, value: undefined };
  }

  cancel(): void {
    this.#canceled = true;
    this.#events?.then(
      (events) => events.cancel(),
      () => undefined,
    );
  }

  async toText(): Promise<string> {
    return this.#parts.text(await this.final());
  }

  async final(): Promise<Final> {
    for (;;) {
      const { done } = await this.next();
      if (done) break;
    }
    if (!this.#usage)
      throw new ChannelError('stream: the answer was left before its end; read it to the end for the whole');
    const generation = (await this.#events)?.adapterGeneration;
    return this.#parts.final({
      ...(generation === undefined ? {} : { adapterGeneration: generation }),
      usage: this.#usage,
      choices: this.#collected.map((c, index) => ({
        index,
        text: c.text,
        tokens: Uint32Array.from(c.tokens),
        finishReason: c.finishReason ?? 'canceled',
        logprobs: c.logprobs.length > 0 ? c.logprobs : undefined,
      })),
    });
  }

  #open(): Promise<GenerationStream> {
    this.#events ??= this.#parts.open().then((events) => {
      if (this.#canceled) events.cancel();
      return events;
    });
    return this.#events;
  }

  #take(event: EngineEvent): Piece | undefined {
    if (event.kind === 'done') {
      this.#usage = event.usage;
      const last = this.#last;
      this.#last = undefined;
      return last && { ...last, usage: event.usage };
    }
    const c = this.#collected[event.index];
    if (!c) return undefined;
    c.text += event.text;
    if (event.kind === 'token') {
      c.tokens.push(event.token);
      c.pending.push(event.token);
      if (event.logprobs) c.logprobs.push(event.logprobs);
      if (event.text === '' && !this.#parts.everyToken) return undefined;
      return { ...this.#piece(c, event), logprobs: event.logprobs, finishReason: undefined, usage: undefined };
    }
    c.finishReason = event.finishReason;
    const piece = { ...this.#piece(c, event), logprobs: undefined, finishReason: event.finishReason };
    if (this.#collected.some((other) => other.finishReason === undefined)) return { ...piece, usage: undefined };
    this.#last = piece;
    return undefined;
  }

  #piece(c: Collected, event: { readonly index: number; readonly text: string }) {
    const tokenIds = Uint32Array.from(c.pending);
    c.pending = [];
    return { index: event.index, text: event.text, tokenIds };
  }
}
