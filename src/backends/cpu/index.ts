/**
 * The CPU back-end: WebAssembly SIMD on threads.
 *
 * The caller's thread turns ops into **commands** (`ring.ts`); the **threads** (`threads.ts`) execute them in WebAssembly
 * (`interpreter.ts`), each its share of every command, with a barrier in between, and tell when a step is done. Where
 * there is no shared memory or no worker, the caller executes the same code itself (`inline.ts`); without SIMD it runs the
 * TypeScript twins of the kernels. **Kernels** (`kernel.ts`, `kernels/`, `linear/`) are written with the assembler in
 * `wasm/`, and compiled when they are first used (`kernels.ts`). **Weights** are repacked while they are read
 * (`linear/load.ts`, `linear/layout.ts`).
 */
import type { Backend, BackendOptions } from '../../core/backend.ts';
import { ConfigError, messageOf } from '../../core/errors.ts';
import { availableThreads, keepBestThreads } from './autoThreads.ts';
import { CpuBackend, type CpuParts } from './backend.ts';
import type { Executor } from './executor.ts';
import { InlineExecutor, TwinExecutor } from './inline.ts';
import { chooseInstructions } from './instructions.ts';
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

/**
 * Loads that a waiting thread does before it sleeps: some tens of microseconds. Threads of equal work meet sooner than
 * that; waking one that sleeps costs more, and a step has hundreds of meetings.
 */
const SPIN = 20_000;

/** Creates the back-end; `dispose` it when done. */
export async function createCpuBackend(options: CpuOptions = {}): Promise<Backend> {
  const { simd = 'auto', strict = false, threads = 'auto', inline = false, limits, why } = options;
  if (threads !== 'auto' && !(Number.isInteger(threads) && threads >= 0)) {
    throw new ConfigError(`threads: expected auto or a whole number, got ${threads}`);
  }
  const reasons: string[] = [];
  const wantsThreads = simd !== 'off' && !inline && threads !== 0;
  const shared = wantsThreads && typeof SharedArrayBuffer === 'function';
  if (wantsThreads && !shared) reasons.push('no shared memory here: the caller executes');
  const memory = new CpuMemory({ shared });
  const memories = [memory];
  const ring = new Ring(memories);
  // Workers start while the instructions are chosen.
  const starting = shared ? startThreads(memory, ring, threads, reasons) : undefined;
  const choice = await chooseInstructions(simd, strict);
  reasons.unshift(choice.reason);
  const compile = choice.level !== 'off';
  const kernels = new Kernels({ variant: choice.variant, shared, compile, memories });
  const workers = await starting;
  if (!compile) await workers?.dispose();
  const executor: Executor = compile
    ? (workers ?? new InlineExecutor(memory))
    : new TwinExecutor(memory, kernels.table);
  ring.attach(executor, kernels);
  kernels.attach(executor);
  if (executor instanceof ThreadExecutor && threads === 'auto') {
    reasons.push(await keepBestThreads(executor, ring, kernels, memory));
  }
  if (why !== undefined) reasons.unshift(why);
  return new CpuBackend({
    ...{ memories, ring, kernels, executor, limits },
    info: { name: 'cpu', threads: executor.threads, simd: choice.level, reason: reasons.join('; ') },
    expand: !compile,
  });
}

/** The started threads, or nothing where the runtime has no workers or forbids them. */
async function startThreads(
  memory: CpuMemory,
  ring: Ring,
  threads: number | 'auto',
  reasons: string[],
): Promise<ThreadExecutor | undefined> {
  const executor = new ThreadExecutor(memory, SPIN, () => ring.leave());
  try {
    const count = threads === 'auto' ? await availableThreads() : threads;
    await executor.start(Math.min(MAX_THREADS, count));
    return executor;
  } catch (error) {
    await executor.dispose();
    reasons.push(`no workers here (${messageOf(error)}): the caller executes`);
    return undefined;
  }
}
