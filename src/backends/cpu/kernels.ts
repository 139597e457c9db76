import { UnsupportedError } from '../../core/errors.ts';
import { bundle, TABLE_SIZE } from './bundle.ts';
import type { Executor } from './executor.ts';
import { FIRST_ENTRY } from './interpreter.ts';
import type { Kernel, Variant } from './kernel.ts';
import type { CpuMemory } from './memory.ts';
import { POOL_BASE, POOL_BYTES } from './memoryMap.ts';
import { ConstantPool } from './wasm/constants.ts';

/**
 * Gives kernels their table entries, and compiles each when its first command is written: a model uses a fraction of all
 * kernels, and each takes about a millisecond.
 */
export class Kernels {
  /** By table entry, for the twins. */
  readonly table: (Kernel | undefined)[] = new Array(FIRST_ENTRY).fill(undefined);
  readonly variant: Variant;
  readonly #shared: boolean;
  readonly #pool = new ConstantPool(POOL_BASE, POOL_BYTES);
  readonly #memories: readonly CpuMemory[];
  /** Entries by memory. */
  readonly #entries: Map<Kernel, number>[] = [];
  readonly #modules = new Map<Kernel, WebAssembly.Module>();
  /** By entry: number of the memory, and whether it can be called. */
  readonly #memoryOf = new Uint8Array(TABLE_SIZE);
  readonly #ready = new Uint8Array(TABLE_SIZE);
  #executor: Executor | undefined;

  /** Without `compile` only the twins are used. `memories` may grow. */
  constructor(options: { variant: Variant; shared: boolean; compile: boolean; memories: readonly CpuMemory[] }) {
    this.variant = options.variant;
    this.#shared = options.shared;
    this.#memories = options.memories;
    if (options.compile) this.#ready.fill(1, 0, FIRST_ENTRY);
    else this.#ready.fill(1);
  }

  attach(executor: Executor): void {
    this.#executor = executor;
  }

  /** The table entry of a kernel on one of the memories, always the same. */
  entry(kernel: Kernel, memory = 0): number {
    this.#entries[memory] ??= new Map();
    const known = this.#entries[memory].get(kernel);
    if (known !== undefined) return known;
    const entry = this.table.push(kernel) - 1;
    if (entry >= TABLE_SIZE) {
      throw new UnsupportedError(`cpu: more than ${TABLE_SIZE} kernels; use fewer formats or memories`);
    }
    this.#entries[memory].set(kernel, entry);
    this.#memoryOf[entry] = memory;
    return entry;
  }

  /** Makes an entry callable by the commands that follow. */
  require(entry: number): void {
    if (!this.#ready[entry]) this.#compile(entry);
  }

  #compile(entry: number): void {
    const kernel = this.table[entry];
    if (!kernel) throw new UnsupportedError(`cpu: no kernel has the number ${entry}`);
    let module = this.#modules.get(kernel);
    if (!module) {
      module = new WebAssembly.Module(bundle([kernel], this.variant, this.#shared, this.#pool));
      this.#modules.set(kernel, module);
    }
    const memory = this.#memoryOf[entry]!;
    this.#pool.write(this.#memories[memory]!.wasm.buffer);
    this.#executor!.install({ module, memory, tableBase: entry });
    this.#ready[entry] = 1;
  }
}
