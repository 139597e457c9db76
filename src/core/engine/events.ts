/** The events of one request on their way to its reader, who may be slow, late, or gone. */
import type { EngineEvent, GenerationStream } from './types.ts';

export interface EventQueueHooks {
  /** The reader wants no more. */
  readonly onCancel: () => void;
  /** The reader took an event. */
  readonly onTake: () => void;
}

interface Waiter {
  readonly resolve: (result: IteratorResult<EngineEvent>) => void;
  readonly reject: (error: unknown) => void;
}

/** Taken events are dropped together, this many at a time. */
const COMPACT_AT = 256;
const DONE: IteratorResult<EngineEvent> = { done: true, value: undefined };

/** Never waits for its reader: the engine looks at `size` and pauses the request instead. */
export class EventQueue implements GenerationStream {
  readonly promptTokens: Uint32Array;
  readonly adapterGeneration: string | undefined;
  readonly #hooks: EventQueueHooks;
  readonly #events: EngineEvent[] = [];
  /** Events before it are taken. */
  #first = 0;
  readonly #waiters: Waiter[] = [];
  #ended = false;
  #failure: { readonly error: unknown } | undefined;

  constructor(promptTokens: Uint32Array, hooks: EventQueueHooks, adapterGeneration?: string) {
    this.promptTokens = promptTokens;
    this.adapterGeneration = adapterGeneration;
    this.#hooks = hooks;
  }

  /** Events that wait to be taken. */
  get size(): number {
    return this.#events.length - this.#first;
  }

  push(event: EngineEvent): void {
    if (this.#ended) return;
    const waiter = this.#waiters.shift();
    if (waiter !== undefined) waiter.resolve({ done: false, value: event });
    else this.#events.push(event);
  }

  /** No event follows. */
  end(): void {
    this.#ended = true;
    for (const waiter of this.#waiters.splice(0)) waiter.resolve(DONE);
  }

  /** The reader gets what is there, then the error. */
  fail(error: unknown): void {
    if (this.#ended) return;
    this.#ended = true;
    const [waiter, ...others] = this.#waiters.splice(0);
    if (waiter === undefined) this.#failure = { error };
    else waiter.reject(error);
    for (const other of others) other.resolve(DONE);
  }

  next(): Promise<IteratorResult<EngineEvent>> {
    const event = this.#events[this.#first];
    if (event !== undefined) {
      this.#first++;
      if (this.#first === this.#events.length || this.#first === COMPACT_AT) {
        this.#events.splice(0, this.#first);
        this.#first = 0;
      }
      this.#hooks.onTake();
      return Promise.resolve({ done: false, value: event });
    }
    if (this.#failure !== undefined) {
      const { error } = this.#failure;
      this.#failure = undefined;
      return Promise.reject(error);
    }
    if (this.#ended) return Promise.resolve(DONE);
    return new Promise((resolve, reject) => this.#waiters.push({ resolve, reject }));
  }

  return(): Promise<IteratorResult<EngineEvent>> {
    this.#events.length = 0;
    this.#first = 0;
    this.#failure = undefined;
    if (!this.#ended) {
      this.end();
      this.#hooks.onCancel();
    }
    return Promise.resolve(DONE);
  }

  cancel(): void {
    if (!this.#ended) this.#hooks.onCancel();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
