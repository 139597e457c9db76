import type { Installation } from './worker.ts';

/** Runs the commands of the ring. */
export interface Executor {
  readonly threads: number;
  /** Instantiates a module before it runs any command published later. */
  install(installation: Installation): void;
  /** A further memory; its number is its place in the order of adding. */
  addMemory(memory: WebAssembly.Memory): void;
  /** Commands before `position` may run from now on. */
  publish(position: number): void;
  /** Number of commands that every thread has finished: slots of earlier ones can be written again. */
  finished(): number;
  /**
   * Resolves when everything published has run. The last published command must carry `FLAG.signal`.
   * @throws InferenceError when a kernel failed; the executor is of no use from then on.
   */
  signalled(): Promise<void>;
  /** Blocks the calling thread for a moment while the ring is full. */
  pause(): void;
  dispose(): Promise<void>;
}
