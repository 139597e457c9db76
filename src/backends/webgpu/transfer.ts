/** Results on their way to the host: buffers that can be mapped, kept for the next step. */
import type { TypedArray } from '../../core/dtype.ts';
import type { Tensor } from '../../core/tensor.ts';
import { type GpuDevice, MAP_READ, USAGE } from './device.ts';
import type { Recorder } from './recorder.ts';
import { type GpuStorage, narrow, storageOf, WORD } from './storage.ts';

/** Mappable buffers kept at hand; each read in flight holds one. */
const KEPT = 4;

export class Readback {
  readonly #gpu: GpuDevice;
  readonly #recorder: Recorder;
  readonly #free: GpuStorage[] = [];
  readonly #views = new WeakMap<Tensor, TypedArray>();

  constructor(gpu: GpuDevice, recorder: Recorder) {
    this.#gpu = gpu;
    this.#recorder = recorder;
  }

  /** Runs what is recorded and copies a tensor to the host; with `reuse`, into the array of the last time. */
  async read(t: Tensor, reuse: boolean): Promise<TypedArray> {
    const bytes = t.size * WORD;
    const staging = this.#take(bytes);
    if (t.size > 0) this.#recorder.copy(storageOf(t), t.offset, staging, 0, t.size);
    this.#recorder.endStep();
    this.#recorder.counters.readbacks++;
    try {
      await staging.buffer.mapAsync(MAP_READ, 0, Math.max(bytes, WORD));
      this.#gpu.check();
      const view = narrow(
        staging.buffer.getMappedRange(0, bytes),
        t.dtype,
        t.size,
        reuse ? this.#views.get(t) : undefined,
      );
      if (reuse) this.#views.set(t, view);
      staging.buffer.unmap();
      this.#give(staging);
      return view;
    } catch (error) {
      this.#gpu.destroy(staging);
      throw await this.#gpu.failureOf(error);
    }
  }

  /** Runs what is recorded and waits for it. */
  async finish(): Promise<void> {
    this.#recorder.endStep();
    try {
      await this.#gpu.device.queue.onSubmittedWorkDone();
    } catch (error) {
      throw await this.#gpu.failureOf(error);
    }
    this.#gpu.check();
  }

  get bytes(): number {
    return this.#free.reduce((n, s) => n + s.bytes, 0);
  }

  dispose(): void {
    for (const storage of this.#free.splice(0)) this.#gpu.destroy(storage);
  }

  #take(bytes: number): GpuStorage {
    const at = this.#free.findIndex((s) => s.bytes >= bytes);
    if (at >= 0) return this.#free.splice(at, 1)[0] as GpuStorage;
    return this.#gpu.create(Math.max(2 * bytes, 1 << 12), 'readback', USAGE.mapRead | USAGE.copyTarget);
  }

  #give(storage: GpuStorage): void {
    if (this.#free.length === KEPT) this.#gpu.destroy(this.#free.shift() as GpuStorage);
    this.#free.push(storage);
  }
}
