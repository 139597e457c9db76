import { setFlagsFromString } from 'node:v8';
import {
  COMMAND_ARGUMENTS,
  COMMAND_BYTES,
  type Kernel,
  type Variant,
  type Views,
  viewsOf,
} from '../../src/backends/cpu/kernel.ts';
import { ConstantPool } from '../../src/backends/cpu/wasm/constants.ts';
import { ModuleBuilder } from '../../src/backends/cpu/wasm/module.ts';

export const SIMD: Variant = { fma: false, dot: 'simd' };
const POOL_BYTES = 4096;
/** Where tests put their data: behind the pool and the command records. */
export const DATA = 65_536;
const PAGE = 65_536;

/** The exports of a module over a fresh unshared memory of `pages` pages. */
export function instantiate(m: ModuleBuilder, pages = 1, imports: Record<string, WebAssembly.ImportValue> = {}) {
  const memory = new WebAssembly.Memory({ initial: pages });
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(m.finish()), { env: { memory, ...imports } });
  return { memory, exports: exports as Record<string, (...args: number[]) => number> };
}

export interface Bench {
  readonly memory: WebAssembly.Memory;
  readonly views: Views;
  /** Runs one kernel as threads 0 … nt − 1 one after the other. */
  wasm<K extends Kernel>(kernel: K, args: Record<keyof K['at'], number>, nt?: number): void;
  twin<K extends Kernel>(kernel: K, args: Record<keyof K['at'], number>, nt?: number): void;
}

/** Compiles kernels over a fresh unshared memory of `bytes` bytes (from `DATA` on free for the test). */
export function bench(kernels: readonly Kernel[], variant: Variant, bytes: number): Bench {
  const pool = new ConstantPool(16, POOL_BYTES);
  const m = new ModuleBuilder({ shared: false, pool });
  for (const kernel of kernels) {
    m.function(
      kernel.name,
      { command: 'i32', tid: 'i32', nt: 'i32' },
      (f, p) => kernel.emit(f, p.command, p.tid, p.nt, variant),
      {
        export: true,
      },
    );
  }
  const { memory, exports } = instantiate(m, Math.ceil((DATA + bytes) / PAGE));
  pool.write(memory.buffer);
  const views = viewsOf(memory.buffer);
  const command = DATA - COMMAND_BYTES;
  const encode = (kernel: Kernel, args: Record<string, number>) => {
    Object.entries(kernel.fields).forEach(([name, type], i) => {
      const word = command / 4 + COMMAND_ARGUMENTS + i;
      if (type === 'f32') views.f32[word] = args[name]!;
      else views.i32[word] = args[name]!;
    });
  };
  return {
    memory,
    views,
    wasm(kernel, args, nt = 1) {
      encode(kernel, args);
      for (let tid = 0; tid < nt; tid++) exports[kernel.name]!(command, tid, nt);
    },
    twin(kernel, args, nt = 1) {
      encode(kernel, args);
      for (let tid = 0; tid < nt; tid++) kernel.runTwin(views, command, tid, nt);
    },
  };
}

/** The bits of `n` floats, for exact comparison (NaN included). */
export function bits(views: Views, address: number, n: number): Uint32Array {
  return views.u32.slice(address / 4, address / 4 + n);
}

/** A small deterministic generator of numbers in [0, 1). */
export function random(seed: number): () => number {
  let state = seed >>> 0 || 1;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** Node 20 has relaxed SIMD behind a flag. */
export function enableRelaxedSimd(): void {
  if (process.versions.node.startsWith('20.')) setFlagsFromString('--experimental-wasm-relaxed-simd');
}
