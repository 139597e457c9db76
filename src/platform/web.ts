/** The platform of browsers: no files, no environment. */
import { UnsupportedError } from '../core/errors.ts';
import type { MemoryInfo, Platform } from '../core/platform.ts';

interface PerformanceMemory {
  readonly memory?: { readonly jsHeapSizeLimit?: number; readonly usedJSHeapSize?: number };
}

export interface DetectOptions {
  /** Whether a browser's origin private file system serves as files. */
  readonly opfs?: boolean;
}

/** The platform of browsers: without files, or with those of the origin private file system. */
export async function browserPlatform({ opfs = false }: DetectOptions): Promise<Platform> {
  return opfs ? (await import('./opfs.ts')).opfsPlatform(webPlatform()) : webPlatform();
}

/** The platform of a runtime that offers only web-standard globals. */
export function webPlatform(): Platform {
  const refuse = async (): Promise<never> => {
    throw new UnsupportedError('file access: this runtime has no file system; pass a URL, a Blob or bytes', {
      feature: 'files',
    });
  };
  return {
    runtime: 'browser',
    hasFiles: false,
    openFile: refuse,
    stat: refuse,
    exists: refuse,
    listDir: refuse,
    readText: refuse,
    writeFile: refuse,
    openWriter: refuse,
    rename: refuse,
    remove: refuse,
    link: refuse,
    freeSpace: refuse,
    realPath: refuse,
    hasher: async (algorithm) => (await import('./sha.ts')).shaHasher(algorithm),
    env: () => undefined,
    homeDir: () => undefined,
    hardwareConcurrency: () => globalThis.navigator?.hardwareConcurrency ?? 1,
    memory,
    gpu: async () => (globalThis.navigator as { readonly gpu?: unknown } | undefined)?.gpu,
    isTerminal: () => false,
  };
}

/** Chromium alone tells anything, in rounded numbers. */
function memory(): MemoryInfo {
  const gib = (globalThis.navigator as { deviceMemory?: number } | undefined)?.deviceMemory;
  const heap = (globalThis.performance as PerformanceMemory | undefined)?.memory;
  return {
    totalBytes: gib === undefined ? undefined : gib * 2 ** 30,
    freeBytes: undefined,
    rssBytes: heap?.usedJSHeapSize,
    peakRssBytes: undefined,
  };
}
