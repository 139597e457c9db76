import { InferenceError, messageOf } from '../../core/errors.ts';
import { interpreterModule } from './bundle.ts';
import type { Executor } from './executor.ts';
import { type CallTwin, COMMAND_BYTES, COMMAND_KERNEL, type Kernel } from './kernel.ts';
import type { CpuMemory } from './memory.ts';
import { RING_BASE, RING_COMMANDS } from './memoryMap.ts';
import type { Installation } from './worker.ts';

interface InterpreterExports {
  readonly table: WebAssembly.Table;
  runInline(from: number, to: number): void;
}

/** Runs commands in the calling thread as soon as they are published. */
export class InlineExecutor implements Executor {
  readonly threads = 1;
  readonly #memories: WebAssembly.Memory[];
  readonly #interpreter: InterpreterExports;
  #position = 0;

  constructor(memory: CpuMemory) {
    const module = new WebAssembly.Module(interpreterModule(memory.shared));
    this.#memories = [memory.wasm];
    const { exports } = new WebAssembly.Instance(module, {
      env: { memory: memory.wasm, copy: this.#copy, signal: () => {} },
    });
    this.#interpreter = exports as unknown as InterpreterExports;
  }

  install({ module, memory, tableBase }: Installation): void {
    const env = { memory: this.#memories[memory]!, table: this.#interpreter.table, tableBase };
    new WebAssembly.Instance(module, { env });
  }

  addMemory(memory: WebAssembly.Memory): void {
    this.#memories.push(memory);
  }

  publish(position: number): void {
    try {
      this.#interpreter.runInline(this.#position, position);
    } catch (error) {
      throw new InferenceError(`cpu: a kernel failed: ${messageOf(error)}`, { cause: error });
    }
    this.#position = position;
  }

  finished(): number {
    return this.#position;
  }

  async signalled(): Promise<void> {}

  pause(): void {}

  async dispose(): Promise<void> {}

  readonly #copy = (to: number, target: number, from: number, source: number, bytes: number): void => {
    new Uint8Array(this.#memories[to]!.buffer, target >>> 0, bytes).set(
      new Uint8Array(this.#memories[from]!.buffer, source >>> 0, bytes),
    );
  };
}

/** Runs the twins of the kernels in the calling thread: no SIMD, no threads. */
export class TwinExecutor implements Executor {
  readonly threads = 1;
  readonly #memory: CpuMemory;
  readonly #kernels: readonly (Kernel | undefined)[];
  #position = 0;

  /** `kernels` by table index. */
  constructor(memory: CpuMemory, kernels: readonly (Kernel | undefined)[]) {
    this.#memory = memory;
    this.#kernels = kernels;
  }

  install(): void {}

  addMemory(): void {}

  publish(position: number): void {
    const { views } = this.#memory;
    const call: CallTwin = (entry, command, tid, nt) => this.#kernels[entry]!.runTwin(views, command, tid, nt, call);
    for (; this.#position !== position; this.#position = (this.#position + 1) | 0) {
      const command = RING_BASE + (this.#position & (RING_COMMANDS - 1)) * COMMAND_BYTES;
      this.#kernels[views.i32[(command >>> 2) + COMMAND_KERNEL]!]?.runTwin(views, command, 0, 1, call);
    }
  }

  finished(): number {
    return this.#position;
  }

  async signalled(): Promise<void> {}

  pause(): void {}

  async dispose(): Promise<void> {}
}
