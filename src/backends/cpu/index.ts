/**
 * The CPU back-end: WebAssembly SIMD on threads.
 *
 * The caller's thread turns ops into **commands** (`ring.ts`); the **threads** (`threads.ts`) execute them in WebAssembly
 * (`interpreter.ts`), each its share of every command, with a barrier in between, and tell when a step is done. Where
 * there is no shared memory or no worker, the caller executes the same code itself (`inline.ts`); without SIMD it runs the
 * TypeScript twins of the kernels. **Kernels** (`kernel.ts`, `kernels/`, `linear/`) are written with the assembler in
 * `wasm/`. **Weights** are repacked while they are read (`linear/load.ts`, `linear/layout.ts`).
 */
import type { Backend, BackendOptions } from '../../core/backend.ts';
import { messageOf } from '../../core/errors.ts';
import { availableThreads, keepBestThreads } from './autoThreads.ts';
import { CpuBackend, type CpuParts } from './backend.ts';
import type { Executor } from './executor.ts';
import { InlineExecutor, TwinExecutor } from './inline.ts';
import { type Choice, chooseInstructions } from './instructions.ts';
import { baseKernels } from './kernels/index.ts';
import { Kernels } from './kernels.ts';
import { CpuMemory } from './memory.ts';
import { MAX_THREADS } from './memoryMap.ts';
import { Ring } from './ring.ts';
import { ThreadExecutor } from './threads.ts';

export interface CpuOptions extends BackendOptions {
  /** Execute in the calling thread: no workers. */
  readonly inline?: boolean | undefined;
  /** Limits of the memories, for tests. */
  readonly limits?: CpuParts['limits'];
}

/** Loads that a waiting thread does before it sleeps: a few microseconds, longer than threads of equal work differ. */
const SPIN = 2000;

/** Creates the back-end; `dispose` it when done. */
export async function createCpuBackend(options: CpuOptions = {}): Promise<Backend> {
  const choice = await chooseInstructions(options.simd ?? 'auto', options.strict ?? false);
  const reasons = [choice.reason];
  const wantThreads = choice.level !== 'off' && !options.inline && options.threads !== 0;
  const shared = wantThreads && typeof SharedArrayBuffer === 'function';
  if (wantThreads && !shared) reasons.push('no shared memory here: executed by the caller');
  const parts = await assemble(choice, shared, options, reasons);
  return new CpuBackend(parts);
}

async function assemble(choice: Choice, shared: boolean, options: CpuOptions, reasons: string[]): Promise<CpuParts> {
  const compile = choice.level !== 'off';
  const memories = [new CpuMemory({ shared })];
  const ring = new Ring(memories);
  const kernels = new Kernels({ variant: choice.variant, shared, compile, memories });
  const executor = await start(memories[0]!, ring, kernels, compile, shared, options, reasons);
  ring.attach(executor);
  await kernels.attach(executor);
  await kernels.install(baseKernels);
  if (executor instanceof ThreadExecutor && isAuto(options.threads)) {
    reasons.push(await keepBestThreads(executor, ring, kernels, memories[0]!));
  }
  return {
    ...{ memories, ring, kernels, executor },
    info: { name: 'cpu', threads: executor.threads, simd: choice.level, reason: reasons.join('; ') },
    expand: !compile,
    limits: options.limits,
  };
}

const isAuto = (threads: CpuOptions['threads']) => threads === undefined || threads === 'auto';

async function start(
  memory: CpuMemory,
  ring: Ring,
  kernels: Kernels,
  compile: boolean,
  shared: boolean,
  options: CpuOptions,
  reasons: string[],
): Promise<Executor> {
  if (!compile) return new TwinExecutor(memory, kernels.table);
  if (shared) {
    try {
      const threads = typeof options.threads === 'number' ? options.threads : await availableThreads();
      const executor = await ThreadExecutor.start(memory, Math.min(MAX_THREADS, threads), SPIN, () => ring.leave());
      executor.addMemory(memory.wasm);
      return executor;
    } catch (error) {
      reasons.push(`no workers here (${messageOf(error)}): executed by the caller`);
    }
  }
  const executor = new InlineExecutor();
  executor.addMemory(memory.wasm);
  return executor;
}
