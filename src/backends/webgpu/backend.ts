import type { Backend, BackendInfo, Ops, RawWeight, WeightData } from '../../core/backend.ts';
import type { DType, TypedArray } from '../../core/dtype.ts';
import { DTYPE_BYTES } from '../../core/dtype.ts';
import { InferenceError, ShapeError, UnsupportedError } from '../../core/errors.ts';
import { describe, type Shape, sizeOf, Tensor } from '../../core/tensor.ts';
import { Turns } from '../../core/turns.ts';
import { GpuArena } from './arena.ts';
import type { GpuDevice } from './device.ts';
import type { OpHost } from './host.ts';
import { createOps } from './ops.ts';
import { type KernelTime, Profile } from './profile.ts';
import { Recorder, type RecorderCounters } from './recorder.ts';
import { type GpuStorage, storageOf, WORD, widen } from './storage.ts';
import { Readback } from './transfer.ts';

/** Kernels in WGSL, recorded and submitted once per step. See `index.ts`. */
export class WebGpuBackend implements Backend {
  readonly name = 'webgpu';
  readonly remote = true;
  readonly info: BackendInfo;
  readonly ops: Ops;
  readonly turns = new Turns();
  readonly gpu: GpuDevice;
  readonly #recorder: Recorder;
  readonly #arena: GpuArena;
  readonly #readback: Readback;
  readonly #loadWeight: (raw: RawWeight) => Promise<WeightData>;
  #persistent = 0;

  /** `int8`: block formats multiply many rows as 8-bit integers, which needs `facts.dot8`. */
  constructor(gpu: GpuDevice, info: BackendInfo, int8 = false) {
    this.gpu = gpu;
    this.info = info;
    this.#recorder = new Recorder(gpu);
    this.#readback = new Readback(gpu, this.#recorder);
    this.#arena = new GpuArena({
      backend: this,
      create: (bytes) => gpu.create(bytes, 'scratch memory'),
      retire: (storage) => this.#recorder.retire(storage),
    });
    const host: OpHost = {
      gpu,
      recorder: this.#recorder,
      int8,
      scratch: (rows, width) => this.#arena.rows(rows, width),
      integers: (count) => this.#arena.take([count], 'i32'),
      create: (bytes, label) => this.#create(bytes, label),
      release: (storage) => this.#release(storage),
    };
    const { ops, loadWeight } = createOps(host);
    this.ops = ops;
    this.#loadWeight = loadWeight;
  }

  /** Submits, dispatches and readbacks so far. */
  get counters(): Readonly<RecorderCounters> {
    return this.#recorder.counters;
  }

  /**
   * Times every kernel that `work` runs, by timestamps of the device.
   * @throws UnsupportedError where it has none.
   */
  async profile(work: () => Promise<void>): Promise<readonly KernelTime[]> {
    this.#check();
    if (!this.gpu.facts.timestamps) {
      throw new UnsupportedError('profile: this adapter takes no timestamps', { feature: 'timestamp-query' });
    }
    await this.flush();
    const profile = new Profile(this.gpu);
    this.#recorder.profile = profile;
    try {
      await work();
      await this.flush();
      return await profile.result();
    } finally {
      this.#recorder.profile = undefined;
      profile.dispose();
    }
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
    const storage = this.#create(sizeOf(shape) * WORD, `tensor ${dtype}[${shape}]`);
    return new Tensor(this, storage, [...shape], dtype);
  }

  upload(data: TypedArray, shape: Shape, dtype: DType = dtypeOf(data)): Tensor {
    const t = this.persistent(shape, dtype);
    this.write(t, data);
    return t;
  }

  write(target: Tensor, data: TypedArray, count = data.length): void {
    if (count > target.size || count > data.length || data.BYTES_PER_ELEMENT !== DTYPE_BYTES[target.dtype]) {
      throw new ShapeError(
        `write: expected up to ${Math.min(target.size, data.length)} elements of ${describe(target)}, got ${count} of ${data.constructor.name}`,
      );
    }
    if (count === 0) return;
    const words = widen(data, count);
    const { buffer } = storageOf(target);
    this.gpu.device.queue.writeBuffer(
      buffer,
      target.offset * WORD,
      words.buffer as ArrayBuffer,
      words.byteOffset,
      count * WORD,
    );
  }

  scope(body: () => void): void {
    this.#check();
    this.#arena.scope(body);
  }

  read(t: Tensor): Promise<TypedArray> {
    this.#check();
    this.#arena.settle();
    return this.#readback.read(t, false);
  }

  view(t: Tensor): Promise<TypedArray> {
    this.#check();
    this.#arena.settle();
    return this.#readback.read(t, true);
  }

  flush(): Promise<void> {
    this.#check();
    this.#arena.settle();
    return this.#readback.finish();
  }

  free(t: Tensor): void {
    this.#release(storageOf(t));
  }

  loadWeight(raw: RawWeight): Promise<WeightData> {
    this.#check();
    return this.gpu.guarded(`weight "${raw.name}"`, () => this.#loadWeight(raw));
  }

  memory(): { readonly persistent: number; readonly arena: number } {
    return { persistent: this.#persistent, arena: this.#arena.bytes + this.#readback.bytes };
  }

  async dispose(): Promise<void> {
    if (this.gpu.disposed) return;
    this.#recorder.submit();
    this.#arena.dispose();
    this.#readback.dispose();
    this.gpu.dispose();
  }

  #create(bytes: number, label: string): GpuStorage {
    const storage = this.gpu.create(bytes, label);
    this.#persistent += storage.bytes;
    return storage;
  }

  #release(storage: GpuStorage): void {
    if (storage.dead || this.gpu.disposed) return;
    this.#persistent -= storage.bytes;
    this.#recorder.retire(storage);
  }

  #check(): void {
    if (this.gpu.disposed) {
      throw new InferenceError('webgpu: expected a live back-end, got a disposed one; create another');
    }
  }
}

function dtypeOf(data: TypedArray): DType {
  if (data instanceof Float32Array) return 'f32';
  if (data instanceof Int32Array) return 'i32';
  return data instanceof Uint8Array ? 'u8' : 'f16';
}
