import type { Tensor } from '../../core/tensor.ts';
import type { GpuDevice } from './device.ts';
import { Kernel, type KernelSource } from './kernel.ts';
import type { Recorder } from './recorder.ts';
import type { GpuStorage } from './storage.ts';

/** What the op families get from the back-end. */
export interface OpHost {
  readonly gpu: GpuDevice;
  readonly recorder: Recorder;
  /** Whether many rows of `x` are multiplied with block formats as 8-bit integers. */
  readonly int8: boolean;
  /** Scratch memory `[rows, width]` in f32 that lives until the scope ends (outside of scopes, until the step ends). */
  scratch(rows: number, width: number): Tensor;
  /** The same for `count` integers. */
  integers(count: number): Tensor;
  /** A buffer of its own, for weights and caches; `release` it when done. */
  create(bytes: number, label: string): GpuStorage;
  release(storage: GpuStorage): void;
}

/** Kernels made when they are first asked for. `key` must be cheap to look up: a string constant or an options object. */
export function kernels<K>(host: OpHost, write: (key: K) => KernelSource): (key: K) => Kernel {
  const made = new Map<K, Kernel>();
  return (key) => {
    let kernel = made.get(key);
    if (kernel === undefined) {
      kernel = new Kernel(host.gpu, write(key));
      made.set(key, kernel);
    }
    return kernel;
  };
}

/** A kernel made at its first use. */
export function lazy(host: OpHost, write: () => KernelSource): () => Kernel {
  let kernel: Kernel | undefined;
  return () => (kernel ??= new Kernel(host.gpu, write()));
}
