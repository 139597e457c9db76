import type { Executor } from './executor.ts';
import { FLAG, NOP } from './interpreter.ts';
import { COMMAND_BYTES, COMMAND_FLAGS, COMMAND_KERNEL } from './kernel.ts';
import type { Kernels } from './kernels.ts';
import type { CpuMemory } from './memory.ts';
import { RING_BASE, RING_COMMANDS } from './memoryMap.ts';

/** Commands after which what has been written becomes visible to the threads. */
const PUBLISH_EVERY = 16;
const COMMAND_WORDS = COMMAND_BYTES / 4;

/**
 * Writes commands. `begin` gives the word index of a record; its arguments go to `words[at + kernel.at.field]`, floats to
 * `floats[…]`. A command is complete when the next one begins, or at `publish`.
 */
export class Ring {
  words: Int32Array;
  floats: Float32Array;
  readonly #memories: readonly CpuMemory[];
  #executor: Executor | undefined;
  #kernels: Kernels | undefined;
  #position = 0;
  #published = 0;
  /** Position behind the last signal, and what waits for it. */
  #settled = 0;
  #tail: Promise<void> = Promise.resolve();
  #running = 0;
  readonly #onSignal = (): void => {
    this.#running--;
  };
  /** Positions before this one may be written. */
  #limit = RING_COMMANDS;

  /** `memories` may grow. */
  constructor(memories: readonly CpuMemory[]) {
    this.#memories = memories;
    this.words = memories[0]!.views.i32;
    this.floats = memories[0]!.views.f32;
  }

  attach(executor: Executor, kernels: Kernels): void {
    this.#executor = executor;
    this.#kernels = kernels;
  }

  /** Takes new views after the memory has grown. */
  refresh(): void {
    this.words = this.#memories[0]!.views.i32;
    this.floats = this.#memories[0]!.views.f32;
  }

  /** Where the arguments of a command go whose kernel works on memory `memory`: the same place there. */
  wordsOf(memory: number): Int32Array {
    return memory ? this.#memories[memory]!.views.i32 : this.words;
  }

  /** Whether nothing was written since the last signal. */
  get #complete(): boolean {
    return this.#position === this.#settled;
  }

  /** Whether everything written has run. */
  get idle(): boolean {
    return this.#complete && this.#running === 0;
  }

  /**
   * Starts a command for the kernel of table entry `kernel`. `independent`: the command behind it may run at the same
   * time.
   */
  begin(kernel: number, independent = false): number {
    this.#kernels!.require(kernel);
    return this.#begin(kernel, independent ? FLAG.independent : 0);
  }

  /** Makes everything written so far run. */
  publish(): void {
    if (this.#published === this.#position) return;
    this.#published = this.#position;
    this.#executor!.publish(this.#position);
  }

  /** Runs everything written and resolves when it is done, as everything before it. */
  finish(): Promise<void> {
    if (!this.#complete) {
      this.#begin(NOP, FLAG.signal);
      this.#settled = this.#position;
      this.#running++;
      this.#tail = this.#executor!.signalled().then(this.#onSignal);
      this.publish();
    }
    return this.#tail;
  }

  /** Makes all threads leave WebAssembly behind what has been written; returns the position where they go on. */
  leave(): number {
    const settled = this.#complete;
    // No barrier: a thread that is about to be stopped for good may not come to it.
    this.#begin(NOP, FLAG.leave | FLAG.independent);
    if (settled) this.#settled = this.#position;
    this.publish();
    return this.#position;
  }

  #begin(kernel: number, flags: number): number {
    if (((this.#position - this.#published) | 0) >= PUBLISH_EVERY) this.publish();
    if (this.#position === this.#limit) this.#waitForRoom();
    const at = (RING_BASE >>> 2) + (this.#position & (RING_COMMANDS - 1)) * COMMAND_WORDS;
    this.#position = (this.#position + 1) | 0;
    this.words[at + COMMAND_KERNEL] = kernel;
    this.words[at + COMMAND_FLAGS] = flags;
    return at;
  }

  #waitForRoom(): void {
    this.publish();
    const executor = this.#executor!;
    for (;;) {
      this.#limit = (executor.finished() + RING_COMMANDS) | 0;
      if (this.#limit !== this.#position) return;
      executor.pause();
    }
  }
}
