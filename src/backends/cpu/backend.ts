import { Arena } from '../../core/arena.ts';
import type { Backend, BackendInfo, Ops, RawWeight, WeightData } from '../../core/backend.ts';
import { DTYPE_BYTES, type DType, type TypedArray } from '../../core/dtype.ts';
import { InferenceError, ShapeError } from '../../core/errors.ts';
import { describe, type Shape, sizeOf, Tensor } from '../../core/tensor.ts';
import { Turns } from '../../core/turns.ts';
import type { Executor } from './executor.ts';
import type { OpHost } from './host.ts';
import type { Kernel } from './kernel.ts';
import { CHUNK } from './kernels/attention/layout.ts';
import type { Kernels } from './kernels.ts';
import { WeightLoader } from './linear/load.ts';
import { LinearOps } from './linear/ops.ts';
import { CpuMemory } from './memory.ts';
import { createOps } from './ops.ts';
import type { Ring } from './ring.ts';
import { addressOf, CpuStorage, dtypeOf, elementsOf } from './storage.ts';

const ARENA_CHUNK_BYTES = 4 << 20;
/** Part of the main memory that weights may take; the rest of it is for caches and activations. */
const MAIN_WEIGHTS = 5 / 8;
/** Larger matrices are kept in pieces, so that they fit into what is left of a memory. */
const PIECE_BYTES = 2 ** 30;
/** 128 GiB: more than WebAssembly will soon be asked to hold. */
const MAX_MEMORIES = 32;

/** The parts that `createCpuBackend` has put together. */
export interface CpuParts {
  /** The main memory first. */
  readonly memories: CpuMemory[];
  readonly ring: Ring;
  readonly kernels: Kernels;
  readonly executor: Executor;
  readonly info: BackendInfo;
  /** Expand every weight to floats: there is no SIMD for anything else. */
  readonly expand: boolean;
  /** Most bytes of weights in the main memory, and of any further memory (tests lower them). */
  readonly limits?: { readonly main: number; readonly further: number } | undefined;
}

/** WebAssembly kernels on threads. See `index.ts`. */
export class CpuBackend implements Backend {
  readonly name = 'cpu';
  readonly kvBlockStep = CHUNK;
  readonly info: BackendInfo;
  readonly ops: Ops;
  readonly turns = new Turns();
  readonly #memories: CpuMemory[];
  readonly #main: CpuMemory;
  readonly #ring: Ring;
  readonly #kernels: Kernels;
  readonly #executor: Executor;
  readonly #limits: { readonly main: number; readonly further: number };
  readonly #arena: Arena<CpuStorage>;
  readonly #loader: WeightLoader;
  readonly #linear: LinearOps;
  readonly #views = new WeakMap<Tensor, TypedArray>();
  /** Freed while commands were pending: number of the memory and address. */
  readonly #freed: [memory: number, address: number][] = [];
  /** Scratch taken outside of scopes. */
  readonly #loose: number[] = [];
  #scratchBytes = 0;
  #disposed = false;

  constructor(parts: CpuParts) {
    this.info = parts.info;
    this.#memories = parts.memories;
    this.#main = parts.memories[0]!;
    this.#ring = parts.ring;
    this.#kernels = parts.kernels;
    this.#executor = parts.executor;
    this.#limits = parts.limits ?? {
      main: MAIN_WEIGHTS * this.#main.maxBytes,
      further: this.#main.maxBytes,
    };
    this.#arena = new Arena<CpuStorage>(
      {
        chunk: (bytes) => new CpuStorage(this.#allocate(bytes, 'scratch memory'), bytes),
        release: (storage) => this.#release(0, storage.address),
        tensor: (storage, shape, dtype, offset) => new Tensor(this, storage, shape, dtype, offset),
      },
      ARENA_CHUNK_BYTES,
    );
    this.#loader = new WeightLoader({
      ring: this.#ring,
      kernels: this.#kernels,
      memories: this.#memories,
      expand: parts.expand,
      pieceBytes: Math.min(PIECE_BYTES, this.#limits.further),
      place: (bytes, what) => this.#place(bytes, what),
      allocate: (memory, bytes, what) => this.#allocate(bytes, what, memory),
      release: (memory, address) => this.#release(memory, address),
    });
    const host = this.#host();
    this.#linear = new LinearOps(host);
    this.ops = createOps(host, this.#linear);
  }

  alloc(shape: Shape, dtype: DType = 'f32'): Tensor {
    this.#check();
    return this.#arena.active ? this.#arena.take(shape, dtype) : this.persistent(shape, dtype);
  }

  allocRows(rows: number, width: number): Tensor {
    this.#check();
    return this.#arena.active ? this.#arena.rows(rows, width) : this.persistent([rows, width]);
  }

  persistent(shape: Shape, dtype: DType = 'f32'): Tensor {
    this.#check();
    const bytes = sizeOf(shape) * DTYPE_BYTES[dtype];
    const storage = new CpuStorage(this.#allocate(bytes, `tensor ${dtype}[${shape}]`), bytes);
    return new Tensor(this, storage, [...shape], dtype);
  }

  upload(data: TypedArray, shape: Shape, dtype: DType = dtypeOf(data)): Tensor {
    const t = this.persistent(shape, dtype);
    this.write(t, data);
    return t;
  }

  write(target: Tensor, data: TypedArray, count = data.length): void {
    const to = this.#elements(target);
    if (count > to.length || count > data.length || to.constructor !== data.constructor) {
      throw new ShapeError(
        `write: expected up to ${Math.min(to.length, data.length)} elements of ${describe(target)}, got ${count} of ${data.constructor.name}`,
      );
    }
    if (count === data.length) to.set(data);
    else for (let i = 0; i < count; i++) to[i] = data[i]!;
  }

  scope(body: () => void): void {
    this.#check();
    this.#arena.scope(body);
  }

  async read(t: Tensor): Promise<TypedArray> {
    return (await this.view(t)).slice();
  }

  async view(t: Tensor): Promise<TypedArray> {
    await this.flush();
    return this.#elements(t);
  }

  async flush(): Promise<void> {
    this.#check();
    await this.#ring.finish();
    if (this.#ring.idle && this.#freed.length + this.#loose.length) this.#collect();
  }

  free(t: Tensor): void {
    if (!this.#disposed) this.#release(0, (t.storage as CpuStorage).address);
  }

  async loadWeight(raw: RawWeight): Promise<WeightData> {
    this.#check();
    return this.#loader.load(raw);
  }

  memory(): { readonly persistent: number; readonly arena: number } {
    const used = this.#memories.reduce((n, m) => n + m.heap.usedBytes, 0);
    const arena = this.#arena.bytes + this.#loader.bufferBytes + this.#linear.bufferBytes + this.#scratchBytes;
    return { persistent: used - arena, arena };
  }

  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    await this.#executor.dispose();
  }

  #host(): OpHost {
    const ring = this.#ring;
    return {
      threads: this.#executor.threads,
      entry: (kernel: Kernel) => this.#kernels.entry(kernel),
      require: (entry: number) => this.#kernels.require(entry),
      begin: (entry: number, independent?: boolean) => ring.begin(entry, independent),
      get words() {
        return ring.words;
      },
      get floats() {
        return ring.floats;
      },
      address: addressOf,
      scratch: (bytes: number) => this.#scratch(bytes),
      allocate: (bytes: number, what: string, memory = 0) => this.#allocate(bytes, what, memory),
      release: (address: number, memory = 0) => this.#release(memory, address),
      wordsOf: (memory: number) => ring.wordsOf(memory),
    };
  }

  #elements(t: Tensor): TypedArray {
    const buffer = this.#main.wasm.buffer;
    const seen = this.#views.get(t);
    if (seen && seen.buffer === buffer) return seen;
    const view = elementsOf(t, buffer);
    this.#views.set(t, view);
    return view;
  }

  #scratch(bytes: number): number {
    if (this.#arena.active) return addressOf(this.#arena.rows(1, Math.ceil(bytes / 4)));
    const address = this.#allocate(bytes, 'scratch memory');
    this.#scratchBytes += bytes;
    this.#loose.push(address);
    return address;
  }

  #allocate(bytes: number, what: string, memory = 0): number {
    const address = this.#tryAllocate(bytes, memory);
    if (address !== undefined) return address;
    throw new InferenceError(
      `${what}: expected ${Math.ceil(bytes / 2 ** 20)} MiB of free memory, got none beside ` +
        `${Math.round(this.#memories[memory]!.heap.usedBytes / 2 ** 20)} MiB in use; choose a smaller context or model`,
    );
  }

  #tryAllocate(bytes: number, memory: number): number | undefined {
    const from = this.#memories[memory]!;
    const { views } = from;
    const address = from.heap.allocate(bytes);
    if (memory === 0 && from.views !== views) this.#ring.refresh();
    return address;
  }

  #release(memory: number, address: number): void {
    if (this.#disposed) return;
    if (this.#ring.idle) this.#memories[memory]!.heap.free(address);
    else this.#freed.push([memory, address]);
  }

  /** Returns what was freed while commands were pending. */
  #collect(): void {
    for (const [memory, address] of this.#freed.splice(0)) this.#memories[memory]!.heap.free(address);
    for (const address of this.#loose.splice(0)) this.#main.heap.free(address);
    this.#scratchBytes = 0;
  }

  /** Room for a weight: in the main memory up to its limit, then in one of the further memories, the last one new. */
  async #place(bytes: number, what: string): Promise<{ memory: number; address: number }> {
    const { main, further } = this.#limits;
    const mayAdd = this.#memories.length < MAX_MEMORIES && this.info.simd !== 'off';
    for (let memory = 0; memory < this.#memories.length; memory++) {
      const { heap } = this.#memories[memory]!;
      if (mayAdd && heap.usedBytes + bytes > (memory ? further : main)) continue;
      const address = this.#tryAllocate(bytes, memory);
      if (address !== undefined) return { memory, address };
    }
    if (!mayAdd) return { memory: 0, address: this.#allocate(bytes, what) };
    const added = new CpuMemory({ shared: this.#main.shared });
    const memory = this.#memories.push(added) - 1;
    this.#executor.addMemory(added.wasm);
    return { memory, address: this.#allocate(bytes, what, memory) };
  }

  #check(): void {
    if (this.#disposed) throw new InferenceError('cpu: expected a live back-end, got a disposed one; create another');
  }
}
