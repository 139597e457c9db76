/** WebGPU outside of browsers: the runtime's own where it has one (Deno), else Dawn from the package `webgpu`. */

import { existsSync } from 'node:fs';

interface Dawn {
  create(options: readonly string[]): unknown;
}

/** Under this name the entry is kept for the life of the process: Dawn crashes when it is collected before its devices. */
const KEPT = Symbol.for('tramontane.gpu');

/** Where Linux shows graphics hardware; the last one is Windows underneath. */
const DEVICES = ['/dev/dri', '/dev/nvidia0', '/dev/nvidiactl', '/dev/kfd', '/dev/dxg'];

export async function nodeGpu(options: { readonly quick?: boolean } = {}): Promise<unknown> {
  const own = (globalThis.navigator as { readonly gpu?: unknown } | undefined)?.gpu;
  if (own) return own;
  const kept = globalThis as { [KEPT]?: unknown };
  if (kept[KEPT] !== undefined) return kept[KEPT];
  if (options.quick && globalThis.process.platform === 'linux' && !DEVICES.some((path) => existsSync(path)))
    return undefined;
  // An optional package: bundlers must not look for it.
  const name = 'webgpu';
  try {
    const { create } = (await import(/* @vite-ignore */ /* webpackIgnore: true */ name)) as Dawn;
    kept[KEPT] ??= create([]);
  } catch {
    return undefined; // not installed, or not for this system
  }
  return kept[KEPT];
}
