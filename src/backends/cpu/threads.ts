import { InferenceError } from '../../core/errors.ts';
import { interpreterModule } from './bundle.ts';
import type { Executor } from './executor.ts';
import type { CpuMemory } from './memory.ts';
import { CONTROL, PROGRESS_BASE, PROGRESS_STRIDE } from './memoryMap.ts';
import { type Installation, startWorker, type WorkerHandle, type WorkerReply } from './worker.ts';

/** Writes a command that makes all threads leave WebAssembly, publishes it, and returns the position behind it. */
export type LeaveCommand = () => number;

interface Waiter {
  resolve(): void;
  reject(error: Error): void;
}

/**
 * Workers that execute the ring together. The caller's thread only publishes; it is free during a step. Workers live in
 * WebAssembly and sleep there between steps, so they leave it only to receive a message: a new module, another number of
 * threads.
 */
export class ThreadExecutor implements Executor {
  readonly #control: Int32Array;
  readonly #workers: WorkerHandle[] = [];
  readonly #leave: LeaveCommand;
  /** Waits for the end of batches, in order. */
  readonly #batches: Waiter[] = [];
  /** Waits for `ready` of every worker. */
  #starting: (Waiter & { missing: number }) | undefined;
  /** Memories that the workers do not know yet. */
  readonly #newMemories: WebAssembly.Memory[] = [];
  #active = 0;
  #failure: InferenceError | undefined;

  /** `spin`: loads that a waiting thread does before it sleeps. */
  constructor(memory: CpuMemory, spin: number, leave: LeaveCommand) {
    this.#control = new Int32Array(memory.wasm.buffer);
    this.#leave = leave;
    this.#newMemories.push(memory.wasm);
    Atomics.store(this.#control, CONTROL.spin >>> 2, spin);
  }

  /**
   * Starts workers, which run commands from the first one on.
   * @throws InferenceError, or what the runtime throws, where it has no workers.
   */
  async start(threads: number): Promise<void> {
    const events = {
      onReply: (reply: WorkerReply) => this.#onReply(reply),
      onError: (message: string) => this.#fail(message),
    };
    for (let tid = 0; tid < threads; tid++) this.#workers.push(await startWorker(events));
    this.#active = threads;
    const module = new WebAssembly.Module(interpreterModule(true));
    await this.#go(this.#workers, 0, [{ module, memory: 0, tableBase: 0 }]);
  }

  get threads(): number {
    return this.#active;
  }

  addMemory(memory: WebAssembly.Memory): void {
    this.#newMemories.push(memory);
  }

  install(installation: Installation): void {
    const position = this.#leave();
    const memories = this.#newMemories.splice(0);
    for (const [tid, worker] of this.#workers.entries()) {
      const go = tid < this.#active ? position : undefined;
      worker.post({ tid, nt: this.#active, memories, install: [installation], position: go, answer: false });
    }
  }

  /** Lets only the first `threads` workers work; the others stop for good when `final`. */
  async use(threads: number, final: boolean): Promise<void> {
    const position = this.#leave();
    this.#active = threads;
    if (final) await Promise.all(this.#workers.splice(threads).map((w) => w.terminate()));
    await this.#go(this.#workers.slice(0, threads), position, []);
  }

  publish(position: number): void {
    Atomics.store(this.#control, CONTROL.published >>> 2, position);
    if (Atomics.load(this.#control, CONTROL.sleepers >>> 2)) Atomics.notify(this.#control, CONTROL.published >>> 2);
  }

  finished(): number {
    let least = Atomics.load(this.#control, PROGRESS_BASE >>> 2);
    for (let tid = 1; tid < this.#active; tid++) {
      const done = Atomics.load(this.#control, (PROGRESS_BASE + tid * PROGRESS_STRIDE) >>> 2);
      if (((done - least) | 0) < 0) least = done;
    }
    return least;
  }

  signalled(): Promise<void> {
    if (this.#failure) return Promise.reject(this.#failure);
    if (!this.#batches.length) this.#keepAlive(true);
    return new Promise((resolve, reject) => this.#batches.push({ resolve, reject }));
  }

  pause(): void {
    if (this.#failure) throw this.#failure;
    try {
      // Nobody notifies this word: it is a sleep of a millisecond.
      Atomics.wait(this.#control, CONTROL.spin >>> 2, Atomics.load(this.#control, CONTROL.spin >>> 2), 1);
    } catch {
      // The main thread of a browser may not sleep; the caller looks again at once.
    }
  }

  async dispose(): Promise<void> {
    this.#end('cpu: the back-end was disposed');
    await Promise.all(this.#workers.splice(0).map((w) => w.terminate()));
  }

  /** Sends workers into WebAssembly and waits until all are about to go. */
  async #go(workers: readonly WorkerHandle[], position: number, install: readonly Installation[]): Promise<void> {
    if (this.#failure) throw this.#failure;
    this.#keepAlive(true);
    const memories = this.#newMemories.splice(0);
    const ready = new Promise<void>((resolve, reject) => {
      this.#starting = { resolve, reject, missing: workers.length };
    });
    workers.forEach((worker, tid) => {
      // A thread that sits out starts behind what it missed.
      Atomics.store(this.#control, (PROGRESS_BASE + tid * PROGRESS_STRIDE) >>> 2, position);
      worker.post({ tid, nt: workers.length, memories, install, position, answer: true });
    });
    await ready;
    if (!this.#batches.length) this.#keepAlive(false);
  }

  #onReply(reply: WorkerReply): void {
    if (typeof reply === 'object') {
      this.#fail(reply.error);
    } else if (reply === 'ready') {
      const waiting = this.#starting;
      if (waiting && --waiting.missing === 0) {
        this.#starting = undefined;
        waiting.resolve();
      }
    } else {
      const waiter = this.#batches.shift();
      if (!this.#batches.length && !this.#starting) this.#keepAlive(false);
      waiter?.resolve();
    }
  }

  #keepAlive(yes: boolean): void {
    for (let tid = 0; tid < this.#workers.length; tid++) this.#workers[tid]!.keepAlive(yes);
  }

  #fail(message: string): void {
    this.#end(`cpu: a worker failed: ${message}; create another back-end`);
  }

  /** Rejects everything that waits and everything to come. */
  #end(message: string): void {
    this.#failure ??= new InferenceError(message);
    for (const waiter of this.#batches.splice(0)) waiter.reject(this.#failure);
    this.#starting?.reject(this.#failure);
    this.#starting = undefined;
    this.#keepAlive(false);
  }
}
