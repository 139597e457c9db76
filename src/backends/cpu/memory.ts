import { InferenceError, messageOf } from '../../core/errors.ts';
import { Heap } from './heap.ts';
import { type Views, viewsOf } from './kernel.ts';
import { HEAP_BASE, PAGE_BYTES } from './memoryMap.ts';
import { MAX_PAGES } from './wasm/module.ts';

/** Smallest step by which a memory grows; pages that nobody touches cost nothing. */
const GROWTH_BYTES = 16 << 20;

/** One WebAssembly memory with its heap. */
export class CpuMemory {
  readonly wasm: WebAssembly.Memory;
  readonly heap: Heap;
  readonly shared: boolean;
  /** Bytes it can grow to. */
  readonly maxBytes: number;
  #views: Views;

  /** @throws InferenceError where the runtime gives no memory at all. */
  constructor(options: { readonly shared: boolean }) {
    this.shared = options.shared;
    const { wasm, maximum } = reserve(options.shared);
    this.wasm = wasm;
    this.maxBytes = maximum * PAGE_BYTES;
    this.#views = viewsOf(wasm.buffer);
    this.heap = new Heap(HEAP_BASE, HEAP_BASE, (bytes) => this.#grow(bytes, maximum));
  }

  /** Views of all bytes. They stay valid until the memory grows (views of shared memory, of the old part, even then). */
  get views(): Views {
    return this.#views;
  }

  #grow(bytes: number, maximum: number): number | undefined {
    const pages = this.wasm.buffer.byteLength / PAGE_BYTES;
    const needed = Math.ceil(bytes / PAGE_BYTES);
    const wished = Math.min(Math.max(needed, GROWTH_BYTES / PAGE_BYTES), maximum - pages);
    if (pages + needed > maximum || !(this.#tryGrow(wished) || this.#tryGrow(needed))) return undefined;
    this.#views = viewsOf(this.wasm.buffer);
    return this.wasm.buffer.byteLength;
  }

  #tryGrow(pages: number): boolean {
    try {
      this.wasm.grow(pages);
      return true;
    } catch (error) {
      if (error instanceof RangeError) return false;
      throw new InferenceError(`memory: growing failed: ${messageOf(error)}`, { cause: error });
    }
  }
}

/** The largest memory that the runtime is willing to set aside addresses for: phones and small containers want less. */
function reserve(shared: boolean): { readonly wasm: WebAssembly.Memory; readonly maximum: number } {
  const initial = HEAP_BASE / PAGE_BYTES;
  for (let maximum = MAX_PAGES; ; maximum /= 2) {
    try {
      return { wasm: new WebAssembly.Memory({ initial, maximum, ...(shared ? { shared } : {}) }), maximum };
    } catch (error) {
      if (!(error instanceof RangeError) || maximum / 2 < initial) {
        throw new InferenceError(`memory: expected room for a WebAssembly memory, got none: ${messageOf(error)}`, {
          cause: error,
        });
      }
    }
  }
}
