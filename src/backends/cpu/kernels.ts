import { UnsupportedError } from '../../core/errors.ts';
import { bundle, interpreterModule, TABLE_SIZE } from './bundle.ts';
import type { Executor } from './executor.ts';
import { FIRST_ENTRY } from './interpreter.ts';
import type { Kernel, Variant } from './kernel.ts';
import type { CpuMemory } from './memory.ts';
import { POOL_BASE, POOL_BYTES } from './memoryMap.ts';
import { ConstantPool } from './wasm/constants.ts';
import type { Installation } from './worker.ts';

interface Bundle {
  readonly kernels: readonly Kernel[];
  readonly module: WebAssembly.Module | undefined;
  /** First table entry, by number of the memory; `undefined` where it has no instance. */
  readonly bases: (number | undefined)[];
}

/** Compiles kernels in bundles, on demand, and knows their table entries. */
export class Kernels {
  /** By table entry, for the twins. */
  readonly table: (Kernel | undefined)[] = new Array(FIRST_ENTRY).fill(undefined);
  readonly variant: Variant;
  readonly #shared: boolean;
  readonly #compile: boolean;
  readonly #pool = new ConstantPool(POOL_BASE, POOL_BYTES);
  readonly #memories: CpuMemory[];
  readonly #bundles = new Map<readonly Kernel[], Promise<Bundle>>();
  readonly #entries = new Map<Kernel, { readonly bundle: Bundle; readonly place: number }>();
  #executor: Executor | undefined;

  /** `compile: false` uses the twins only. `memories` grows with the back-end. */
  constructor(options: { variant: Variant; shared: boolean; compile: boolean; memories: CpuMemory[] }) {
    this.variant = options.variant;
    this.#shared = options.shared;
    this.#compile = options.compile;
    this.#memories = options.memories;
  }

  async attach(executor: Executor): Promise<void> {
    this.#executor = executor;
    if (!this.#compile) return;
    const module = await WebAssembly.compile(interpreterModule(this.#shared));
    await executor.install([{ module, memory: 0, tableBase: 0 }]);
  }

  /** Makes the kernels of one list (always the same array) callable on memory `memory`. */
  async install(kernels: readonly Kernel[], memory = 0): Promise<void> {
    let found = this.#bundles.get(kernels);
    if (!found) {
      found = this.#build(kernels);
      this.#bundles.set(kernels, found);
    }
    const ready = await found;
    if (ready.bases[memory] !== undefined) return;
    const tableBase = this.table.length;
    if (tableBase + kernels.length > TABLE_SIZE) {
      throw new UnsupportedError(`cpu: more than ${TABLE_SIZE} kernels; use fewer formats or memories`);
    }
    ready.bases[memory] = tableBase;
    this.table.push(...kernels);
    this.#pool.write(this.#memories[memory]!.wasm.buffer);
    if (ready.module) {
      const installation: Installation = { module: ready.module, memory, tableBase };
      await this.#executor!.install([installation]);
    }
  }

  /** The table entry of an installed kernel. */
  entry(kernel: Kernel, memory = 0): number {
    const found = this.#entries.get(kernel);
    const base = found?.bundle.bases[memory];
    if (!found || base === undefined) throw new UnsupportedError(`kernel ${kernel.name}: not installed`);
    return base + found.place;
  }

  async #build(kernels: readonly Kernel[]): Promise<Bundle> {
    const module = this.#compile
      ? await WebAssembly.compile(bundle(kernels, this.variant, this.#shared, this.#pool))
      : undefined;
    const built: Bundle = { kernels, module, bases: [] };
    kernels.forEach((kernel, place) => {
      this.#entries.set(kernel, { bundle: built, place });
    });
    return built;
  }
}
