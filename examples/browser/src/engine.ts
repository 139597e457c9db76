/** The page's side of the worker: calls with events on the way, cancelled by a signal. */
import type { CallName, Calls, Failure, FromWorker, ToWorker } from './protocol.ts';

/** A failure of the worker; `name` is the class of the error there. */
export class EngineError extends Error {
  constructor({ name, message }: Failure) {
    super(message);
    this.name = name;
  }
}

interface Waiting {
  event(event: unknown): void;
  resolve(result: unknown): void;
  reject(error: unknown): void;
}

export interface CallOptions<N extends CallName> {
  readonly onEvent?: (event: Calls[N]['event']) => void;
  readonly signal?: AbortSignal;
}

export class Engine {
  #worker: Worker | undefined;
  #calls = 0;
  readonly #waiting = new Map<number, Waiting>();

  call<N extends CallName>(call: N, args: Calls[N]['args'], options: CallOptions<N> = {}): Promise<Calls[N]['result']> {
    const worker = this.#start();
    const id = ++this.#calls;
    const send = (message: ToWorker): void => worker.postMessage(message);
    options.signal?.addEventListener('abort', () => send({ id, abort: true }), { once: true });
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, {
        event: (event) => options.onEvent?.(event as Calls[N]['event']),
        resolve: resolve as (result: unknown) => void,
        reject,
      });
      send({ id, call, args });
    });
  }

  /** Disposes of the model, then ends the worker: whatever the browser still held for it goes too. */
  async unload(): Promise<void> {
    await this.call('unload', undefined);
    this.#worker?.terminate();
    this.#worker = undefined;
  }

  #start(): Worker {
    if (this.#worker) return this.#worker;
    const worker = new Worker(new URL('./engine.worker.ts', import.meta.url), { type: 'module', name: 'engine' });
    worker.onmessage = ({ data }: MessageEvent<FromWorker>) => {
      const waiting = this.#waiting.get(data.id);
      if ('event' in data) {
        waiting?.event(data.event);
        return;
      }
      this.#waiting.delete(data.id);
      if ('failure' in data) waiting?.reject(new EngineError(data.failure));
      else waiting?.resolve(data.result);
    };
    worker.onerror = (event) => {
      event.preventDefault();
      const error = new EngineError({ name: 'WorkerError', message: event.message ?? 'the engine did not start' });
      for (const { reject } of this.#waiting.values()) reject(error);
      this.#waiting.clear();
      worker.terminate();
      this.#worker = undefined;
    };
    this.#worker = worker;
    return worker;
  }
}
