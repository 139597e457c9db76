/** Makes back-ends by name. Code of a back-end is loaded when it is asked for. */
import type { Backend, BackendOptions } from './core/backend.ts';
import { ConfigError, UnsupportedError } from './core/errors.ts';
import type { Platform } from './core/platform.ts';
import { detectPlatform } from './platform/detect.ts';

export type BackendName = 'reference' | 'cpu' | 'webgpu';

/**
 * Creates a back-end; `dispose` it when done. Options left out come from `TRAMONTANE_THREADS` and `TRAMONTANE_SIMD`.
 * @throws UnsupportedError where this version or runtime lacks the back-end.
 */
export async function createBackend(
  name: BackendName | 'auto' = 'auto',
  options: BackendOptions = {},
  platform?: Platform,
): Promise<Backend> {
  const { env, gpu } = platform ?? (await detectPlatform());
  const chosen = name === 'auto' ? env('TRAMONTANE_BACKEND') || 'auto' : name;
  const full = {
    ...options,
    threads: options.threads ?? threadsOf(env('TRAMONTANE_THREADS')),
    simd: options.simd ?? simdOf(env('TRAMONTANE_SIMD')),
  };
  switch (chosen) {
    case 'reference': {
      const { ReferenceBackend } = await import('./backends/reference/index.ts');
      return new ReferenceBackend();
    }
    case 'cpu':
      return cpu(full);
    case 'auto': {
      const found = await hardware(full, await gpu({ quick: true }));
      return typeof found === 'string' ? cpu({ ...full, why: `auto: ${found}` }) : found;
    }
    case 'webgpu': {
      const { createWebGpuBackend } = await import('./backends/webgpu/index.ts');
      return createWebGpuBackend({ ...full, gpu: (await gpu()) as GPU | undefined });
    }
    default:
      throw new ConfigError(`back-end: expected auto, cpu, webgpu or reference, got ${JSON.stringify(chosen)}`);
  }
}

async function cpu(options: BackendOptions): Promise<Backend> {
  const { createCpuBackend } = await import('./backends/cpu/index.ts');
  return createCpuBackend(options);
}

/** The back-end of a real GPU, or why there is none. A processor that plays one is slower than the cpu back-end. */
async function hardware(options: BackendOptions, gpu: unknown): Promise<Backend | string> {
  if (gpu === undefined) return 'no GPU here';
  const { createWebGpuBackend } = await import('./backends/webgpu/index.ts');
  try {
    return await createWebGpuBackend({ ...options, gpu: gpu as GPU, hardwareOnly: true, why: 'auto: a GPU is faster' });
  } catch (error) {
    if (error instanceof UnsupportedError) return error.message;
    throw error;
  }
}

function threadsOf(text: string | undefined): number | 'auto' | undefined {
  if (text === undefined || text === '' || text === 'auto') return undefined;
  const threads = Number(text);
  if (!Number.isInteger(threads) || threads < 1 || threads > 1024) {
    throw new ConfigError(`TRAMONTANE_THREADS: expected a whole number from 1 to 1024, got ${JSON.stringify(text)}`);
  }
  return threads;
}

function simdOf(text: string | undefined): BackendOptions['simd'] {
  switch (text) {
    case undefined:
    case '':
      return undefined;
    case 'auto':
    case 'relaxed':
    case 'simd':
    case 'off':
      return text;
    default:
      throw new ConfigError(`TRAMONTANE_SIMD: expected auto, relaxed, simd or off, got ${JSON.stringify(text)}`);
  }
}
