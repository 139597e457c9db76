/** Times of kernels, by timestamps that the device takes around each dispatch. */
import type { GpuDevice } from './device.ts';
import { MAP_READ, USAGE } from './device.ts';

export interface KernelTime {
  readonly label: string;
  readonly count: number;
  readonly ms: number;
}

/** Two timestamps each; WebGPU allows 4096 in a set. */
const MAX_DISPATCHES = 2048;

export class Profile {
  readonly #gpu: GpuDevice;
  readonly #set: GPUQuerySet;
  readonly #labels: string[] = [];

  constructor(gpu: GpuDevice) {
    this.#gpu = gpu;
    this.#set = gpu.device.createQuerySet({ type: 'timestamp', count: 2 * MAX_DISPATCHES });
  }

  /** A pass for one dispatch; `undefined` when no more can be timed. */
  pass(encoder: GPUCommandEncoder, label: string): GPUComputePassEncoder | undefined {
    const i = this.#labels.length;
    if (i === MAX_DISPATCHES) return undefined;
    this.#labels.push(label);
    return encoder.beginComputePass({
      timestampWrites: { querySet: this.#set, beginningOfPassWriteIndex: 2 * i, endOfPassWriteIndex: 2 * i + 1 },
    });
  }

  /** What was timed so far, by label and falling time; nothing may be left to submit. */
  async result(): Promise<readonly KernelTime[]> {
    const { device } = this.#gpu;
    const bytes = 16 * this.#labels.length;
    if (bytes === 0) return [];
    const resolved = this.#gpu.create(bytes, 'timestamps', USAGE.queryResolve | USAGE.copySource);
    const staging = this.#gpu.create(bytes, 'timestamps', USAGE.mapRead | USAGE.copyTarget);
    const encoder = device.createCommandEncoder();
    encoder.resolveQuerySet(this.#set, 0, 2 * this.#labels.length, resolved.buffer, 0);
    encoder.copyBufferToBuffer(resolved.buffer, 0, staging.buffer, 0, bytes);
    device.queue.submit([encoder.finish()]);
    await staging.buffer.mapAsync(MAP_READ);
    const times = new BigUint64Array(staging.buffer.getMappedRange().slice(0));
    this.#gpu.destroy(staging);
    this.#gpu.destroy(resolved);
    const all = new Map<string, { label: string; count: number; ms: number }>();
    for (const [i, label] of this.#labels.entries()) {
      const entry = all.get(label) ?? { label, count: 0, ms: 0 };
      all.set(label, entry);
      entry.count++;
      entry.ms += Number((times[2 * i + 1] as bigint) - (times[2 * i] as bigint)) / 1e6;
    }
    return [...all.values()].sort((a, b) => b.ms - a.ms);
  }

  dispose(): void {
    this.#set.destroy();
  }
}
