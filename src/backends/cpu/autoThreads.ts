import type { Kernel } from './kernel.ts';
import { unaryKernels } from './kernels/elementwise.ts';
import type { Kernels } from './kernels.ts';
import type { CpuMemory } from './memory.ts';
import type { Ring } from './ring.ts';
import type { ThreadExecutor } from './threads.ts';
import { nodeModule } from './worker.ts';

/** More threads than this do not speed up decoding: memory is the limit long before. */
const MOST_THREADS = 16;
/** A larger number of threads must be so much faster than a smaller one. */
const WORTHWHILE = 0.9;
/** The synthetic step: commands of some ten microseconds with barriers between them, as in decoding. */
const COMMANDS = 24;
const NUMBERS = 16_384;
const SAMPLES = 7;

/** Threads that the machine can run at once; 1 when the runtime does not tell. */
export async function availableThreads(): Promise<number> {
  const { navigator } = globalThis as { navigator?: { hardwareConcurrency?: number } };
  let count = navigator?.hardwareConcurrency;
  if (!count) {
    const os = await nodeModule<{ availableParallelism?(): number }>('node:os').catch(() => undefined);
    count = os?.availableParallelism?.();
  }
  return Math.max(1, Math.min(MOST_THREADS, count ?? 1));
}

/**
 * Times the same step with 1, 2, 4, … of the started threads and keeps the best number of them. Medians, since on a
 * crowded machine threads that wait for each other have good moments and a bad average.
 */
export async function keepBestThreads(
  executor: ThreadExecutor,
  ring: Ring,
  kernels: Kernels,
  memory: CpuMemory,
): Promise<string> {
  const most = executor.threads;
  if (most === 1) return 'one thread available';
  const data = memory.heap.allocate(NUMBERS * 4);
  if (data === undefined) return 'no room for timing';
  ring.refresh();
  const entry = kernels.entry(unaryKernels.silu as Kernel);
  const { at } = unaryKernels.silu;
  const step = async () => {
    for (let i = 0; i < COMMANDS; i++) {
      const command = ring.begin(entry);
      ring.words[command + at.out] = data;
      ring.words[command + at.x] = data;
      ring.words[command + at.n] = NUMBERS;
    }
    const start = performance.now();
    await ring.finish();
    return performance.now() - start;
  };
  const timings: { threads: number; ms: number }[] = [];
  for (let threads = 1; ; threads = Math.min(most, threads * 2)) {
    await executor.use(threads, false);
    await step();
    const samples: number[] = [];
    for (let i = 0; i < SAMPLES; i++) samples.push(await step());
    timings.push({ threads, ms: samples.sort((a, b) => a - b)[SAMPLES >> 1]! });
    if (threads === most) break;
  }
  memory.heap.free(data);
  let best = timings[0]!;
  for (const t of timings) if (t.ms < best.ms * WORTHWHILE) best = t;
  await executor.use(best.threads, true);
  const text = timings.map((t) => `${t.threads}: ${t.ms.toFixed(2)} ms`).join(', ');
  return `${best.threads} of ${most} threads (${text})`;
}
