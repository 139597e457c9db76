/** The device: what it can do, its memory, and the errors it reports behind our back. */
import { DeviceError, UnsupportedError } from '../../core/errors.ts';
import { GpuStorage } from './storage.ts';

/** Numbers of the WebGPU specification, which Node has no global names for. */
export const USAGE = {
  mapRead: 0x1,
  copySource: 0x4,
  copyTarget: 0x8,
  uniform: 0x40,
  storage: 0x80,
  queryResolve: 0x200,
} as const;
export const MAP_READ = 0x1;
export const COMPUTE_STAGE = 0x4;

/** What kernels may make use of. */
export interface DeviceFacts {
  readonly name: string;
  /** A processor that plays a GPU. */
  readonly software: boolean;
  /** 16-bit floats in shaders. */
  readonly f16: boolean;
  /** Subgroup operations; lanes of a subgroup are between the two sizes. */
  readonly subgroups: boolean;
  readonly subgroupMin: number;
  readonly subgroupMax: number;
  /** Dot products of four packed 8-bit integers. */
  readonly dot8: boolean;
  readonly timestamps: boolean;
  /** Largest buffer that one binding may cover. */
  readonly maxBinding: number;
  readonly maxBuffer: number;
  readonly maxBindings: number;
  readonly maxWorkgroups: number;
  readonly maxInvocations: number;
  /** Bytes of workgroup memory. */
  readonly sharedBytes: number;
  readonly uniformAlignment: number;
}

/** How long a rejection may come before the news of the loss behind it. */
const LOSS_MS = 100;
/** Where a buffer does not fit, this helps. */
const ADVICE = 'choose a smaller context or model, or the cpu back-end';

export class GpuDevice {
  readonly device: GPUDevice;
  readonly facts: DeviceFacts;
  /** Bytes of all live buffers. */
  bytes = 0;
  #failure: DeviceError | undefined;
  #disposed = false;

  constructor(device: GPUDevice, facts: DeviceFacts) {
    this.device = device;
    this.facts = facts;
    device.addEventListener('uncapturederror', (event) => {
      event.preventDefault?.();
      this.#report(event.error);
    });
    void device.lost.then(({ reason, message }) => {
      if (this.#disposed) return;
      this.#failure = new DeviceError(
        'lost',
        `webgpu: the device was lost (${reason}: ${message.trim() || 'no details'}); dispose the model and load it again`,
      );
    });
  }

  /** Throws what the device has reported since the last look. A lost device stays lost. */
  check(): void {
    const failure = this.#failure;
    if (failure === undefined) return;
    if (failure.reason !== 'lost') this.#failure = undefined;
    throw failure;
  }

  /** The error to throw in place of a rejection of the device's own; the news of a loss may come a moment later. */
  async failureOf(error: unknown): Promise<unknown> {
    if (this.#failure === undefined && !this.#disposed) {
      await Promise.race([this.device.lost, new Promise((done) => setTimeout(done, LOSS_MS))]);
    }
    return this.#failure ?? error;
  }

  /** A zeroed buffer of at least `bytes`, in whole words. */
  create(bytes: number, label: string, usage = USAGE.storage | USAGE.copySource | USAGE.copyTarget): GpuStorage {
    const rounded = Math.max(16, Math.ceil(bytes / 4) * 4);
    const limit = usage & USAGE.storage ? Math.min(this.facts.maxBuffer, this.facts.maxBinding) : this.facts.maxBuffer;
    if (rounded > limit) {
      throw new DeviceError(
        'outOfMemory',
        `${label}: expected at most ${mib(limit)} MiB in one buffer of ${this.facts.name}, got ${mib(rounded)}; ${ADVICE}`,
      );
    }
    const storage = new GpuStorage(this.device.createBuffer({ size: rounded, usage, label }), rounded);
    this.bytes += rounded;
    return storage;
  }

  destroy(storage: GpuStorage): void {
    if (storage.dead) return;
    storage.dead = true;
    this.bytes -= storage.bytes;
    storage.buffer.destroy();
  }

  /** Runs `work` and rejects with a `DeviceError` when the device ran out of memory in it. */
  async guarded<T>(what: string, work: () => Promise<T>): Promise<T> {
    this.device.pushErrorScope('out-of-memory');
    let result: T;
    try {
      result = await work();
    } catch (error) {
      await this.device.popErrorScope().catch(() => null);
      throw await this.failureOf(error);
    }
    const error = await this.device.popErrorScope().catch(() => null);
    if (error)
      throw new DeviceError('outOfMemory', `${what}: the device is out of memory; ${ADVICE}`, { cause: error });
    this.check();
    return result;
  }

  dispose(): void {
    this.#disposed = true;
    this.device.destroy();
  }

  /** Whether `dispose` was called. */
  get disposed(): boolean {
    return this.#disposed;
  }

  #report(error: GPUError): void {
    if (this.#failure !== undefined) return;
    const memory = error.constructor.name === 'GPUOutOfMemoryError';
    this.#failure = memory
      ? new DeviceError('outOfMemory', `webgpu: the device is out of memory; ${ADVICE}`, { cause: error })
      : new DeviceError('invalid', `webgpu: the device refused a command: ${error.message}`, { cause: error });
  }
}

const mib = (bytes: number) => Math.ceil(bytes / 2 ** 20);

/** Asks an adapter for its device with everything that kernels can use. */
export async function openDevice(adapter: GPUAdapter, language: ReadonlySet<string>): Promise<GpuDevice> {
  const wanted: GPUFeatureName[] = ['shader-f16', 'subgroups' as GPUFeatureName, 'timestamp-query'];
  const requiredFeatures = wanted.filter((feature) => adapter.features.has(feature));
  const { limits } = adapter;
  const requiredLimits = {
    maxBufferSize: limits.maxBufferSize,
    maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
    maxStorageBuffersPerShaderStage: limits.maxStorageBuffersPerShaderStage,
    maxComputeWorkgroupStorageSize: limits.maxComputeWorkgroupStorageSize,
    maxComputeInvocationsPerWorkgroup: limits.maxComputeInvocationsPerWorkgroup,
    maxComputeWorkgroupSizeX: limits.maxComputeWorkgroupSizeX,
    maxComputeWorkgroupsPerDimension: limits.maxComputeWorkgroupsPerDimension,
  };
  let device: GPUDevice;
  try {
    device = await adapter.requestDevice({ requiredFeatures, requiredLimits, label: 'tramontane' });
  } catch (error) {
    throw new UnsupportedError(`webgpu: the adapter "${nameOf(adapter)}" gave no device; use the cpu back-end`, {
      cause: error,
      feature: 'webgpu',
    });
  }
  const info = adapter.info as GPUAdapterInfo & {
    readonly subgroupMinSize?: number;
    readonly subgroupMaxSize?: number;
  };
  const facts: DeviceFacts = {
    name: nameOf(adapter),
    software: isSoftware(adapter),
    f16: device.features.has('shader-f16'),
    subgroups: device.features.has('subgroups' as GPUFeatureName),
    subgroupMin: info.subgroupMinSize ?? 4,
    subgroupMax: info.subgroupMaxSize ?? 128,
    dot8: language.has('packed_4x8_integer_dot_product'),
    timestamps: device.features.has('timestamp-query'),
    // Bindings are described by 32-bit numbers in places, and indices of words are 32-bit: stay below.
    maxBinding: Math.min(device.limits.maxStorageBufferBindingSize, 2 ** 32 - 2 ** 16),
    maxBuffer: device.limits.maxBufferSize,
    maxBindings: device.limits.maxStorageBuffersPerShaderStage,
    maxWorkgroups: device.limits.maxComputeWorkgroupsPerDimension,
    maxInvocations: Math.min(device.limits.maxComputeInvocationsPerWorkgroup, device.limits.maxComputeWorkgroupSizeX),
    sharedBytes: device.limits.maxComputeWorkgroupStorageSize,
    uniformAlignment: device.limits.minUniformBufferOffsetAlignment,
  };
  return new GpuDevice(device, facts);
}

export function nameOf(adapter: GPUAdapter): string {
  const { vendor, architecture, device, description } = adapter.info;
  return description || [vendor, architecture, device].filter(Boolean).join(' ') || 'unnamed adapter';
}

/** Adapters that compute on the processor: slower than the cpu back-end, good for tests. */
export function isSoftware(adapter: GPUAdapter): boolean {
  const info = adapter.info as GPUAdapterInfo & { readonly isFallbackAdapter?: boolean };
  const all = `${info.vendor} ${info.architecture} ${info.device} ${info.description}`;
  return info.isFallbackAdapter === true || /swiftshader|llvmpipe|lavapipe|software|basic render/i.test(all);
}
