/**
 * The WebGPU back-end: Dawn in Node and Bun, `navigator.gpu` in browsers and Deno. Ops are recorded in one pass and
 * submitted once per step; weights stay in their stored formats; every tensor has a buffer of its own.
 */
import type { BackendOptions } from '../../core/backend.ts';
import { UnsupportedError } from '../../core/errors.ts';
import { WebGpuBackend } from './backend.ts';
import { isSoftware, nameOf, openDevice } from './device.ts';

export { WebGpuBackend } from './backend.ts';
export type { KernelTime } from './profile.ts';

export interface WebGpuOptions extends BackendOptions {
  /** `navigator.gpu` or its like; `undefined` where the runtime has none. */
  readonly gpu: GPU | undefined;
  /** Refuses adapters that only play a GPU on the processor. */
  readonly hardwareOnly?: boolean | undefined;
  /**
   * Multiplies many rows with block formats as 8-bit integers where the adapter can: by default on hardware (software
   * gains nothing), and never with `strict`.
   */
  readonly int8?: boolean | undefined;
}

/**
 * Opens the adapter (`options.adapter`: part of the name of the one to take).
 * @throws UnsupportedError where there is none, or none of that name.
 */
export async function createWebGpuBackend(options: WebGpuOptions): Promise<WebGpuBackend> {
  const { gpu, adapter: wanted, hardwareOnly, strict = false, int8, why } = options;
  const refuse = (why: string): never => {
    throw new UnsupportedError(`webgpu: ${why}; use the cpu back-end`, { feature: 'webgpu' });
  };
  if (gpu === undefined) return refuse('this runtime has no WebGPU (in Node and Bun, install the package "webgpu")');
  const adapter = await pickAdapter(gpu, wanted);
  if (adapter === undefined) {
    return refuse(wanted === undefined ? 'the runtime found no adapter' : `no adapter is called "${wanted}"`);
  }
  const software = isSoftware(adapter);
  if (software && hardwareOnly) return refuse(`the only adapter is software (${nameOf(adapter)})`);
  const device = await openDevice(adapter, gpu.wgslLanguageFeatures ?? new Set());
  const { facts } = device;
  const features = [facts.f16 && 'f16', facts.subgroups && 'subgroups', facts.dot8 && 'dot8'].filter(Boolean);
  const integers = facts.dot8 && !strict && (int8 ?? !software);
  const products = integers ? '; prompts multiply block formats as 8-bit integers' : '';
  const kind = `${software ? 'software adapter' : 'adapter'} with ${features.join(', ') || 'core features only'}${products}`;
  const reason = why === undefined ? kind : `${why}; ${kind}`;
  return new WebGpuBackend(device, { name: 'webgpu', threads: 1, simd: facts.name, reason }, integers);
}

async function pickAdapter(gpu: GPU, wanted: string | undefined): Promise<GPUAdapter | undefined> {
  const tries: GPURequestAdapterOptions[] = [
    { powerPreference: 'high-performance' },
    { powerPreference: 'low-power' },
    { forceFallbackAdapter: true },
  ];
  for (const options of tries) {
    const adapter = await gpu.requestAdapter(options).catch(() => null);
    if (!adapter) continue;
    if (wanted === undefined || matches(adapter, wanted)) return adapter;
  }
  return undefined;
}

function matches(adapter: GPUAdapter, wanted: string): boolean {
  if (wanted === 'software') return isSoftware(adapter);
  return nameOf(adapter).toLowerCase().includes(wanted.toLowerCase());
}
