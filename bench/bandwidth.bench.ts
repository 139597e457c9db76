/**
 * Read bandwidth of the memory: all threads stream through one large shared buffer in WASM, 128 bits at a time, each its
 * own part. What decoding reaches is measured against it. Child of `bench/run.ts`, and its own worker.
 */
import { isMainThread, Worker, workerData } from 'node:worker_threads';
import { ModuleBuilder } from '../src/backends/cpu/wasm/module.ts';
import { i32, i32x4, v128 } from '../src/backends/cpu/wasm/ops.ts';
import { serve } from './child.ts';
import { between, now, type Sample } from './sample.ts';

export interface BandwidthInput {
  readonly threads: number;
}

/** Far more than the caches of one machine hold. */
const BUFFER_BYTES = 512 * 2 ** 20;
/** The first page holds the words below. */
const DATA = 65_536;
/** A pass over the buffer starts when the generation changes; threads count themselves out in `DONE`. */
const GENERATION = 0;
const DONE = 1;
const RESULTS = 64;
const PASSES = 2;
/** Streams of sums that do not wait for one another. */
const SUMS = 8;
const STEP = SUMS * 16;

type Read = (from: number, to: number) => number;

/** `read(from, to)`: the sum of all 32-bit words in between. */
function compile(memory: WebAssembly.Memory): Read {
  const module = new ModuleBuilder({ shared: true });
  module.function(
    'read',
    { from: 'i32', to: 'i32' },
    (f, { from, to }) => {
      const sums = f.v128s('sum', SUMS);
      f.while(i32.ltU(from, to), () => {
        for (const [i, sum] of sums.entries()) sum.set(i32x4.add(sum, v128.load(from, i * 16)));
        from.inc(STEP);
      });
      const [first, ...others] = sums;
      if (!first) return;
      for (const other of others) first.set(i32x4.add(first, other));
      const lane = (i: number) => i32x4.extractLane(first, i);
      f.return(i32.add(i32.add(lane(0), lane(1)), i32.add(lane(2), lane(3))));
    },
    { export: true, result: 'i32' },
  );
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(module.finish()), { env: { memory } });
  return exports['read'] as Read;
}

/** The share of one thread. */
function readShare(read: Read, words: Int32Array, thread: number, threads: number): void {
  const share = Math.floor(BUFFER_BYTES / threads / STEP) * STEP;
  let sum = 0;
  for (let pass = 0; pass < PASSES; pass++) sum += read(DATA + thread * share, DATA + (thread + 1) * share);
  words[RESULTS + thread] = sum;
  Atomics.add(words, DONE, 1);
  Atomics.notify(words, DONE);
}

interface WorkerInput {
  readonly memory: WebAssembly.Memory;
  readonly thread: number;
  readonly threads: number;
}

if (isMainThread) {
  let pool: { readonly words: Int32Array; readonly read: Read; readonly threads: number } | undefined;
  const start = (threads: number) => {
    const pages = (DATA + BUFFER_BYTES) / 65_536;
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    // Pages that were never written are all the same page of zeros.
    new Int32Array(memory.buffer, DATA).fill(0x01020304);
    for (let thread = 1; thread < threads; thread++) {
      const input: WorkerInput = { memory, thread, threads };
      new Worker(new URL(import.meta.url), { workerData: input }).unref();
    }
    return { words: new Int32Array(memory.buffer, 0, 1024), read: compile(memory), threads };
  };
  serve({
    bandwidth: ({ threads }: BandwidthInput): Sample => {
      const first = pool?.threads !== threads;
      pool = first || !pool ? start(threads) : pool;
      const { words, read } = pool;
      const pass = () => {
        Atomics.store(words, DONE, 0);
        Atomics.add(words, GENERATION, 1);
        Atomics.notify(words, GENERATION);
        readShare(read, words, 0, threads);
        for (let done = Atomics.load(words, DONE); done < threads; done = Atomics.load(words, DONE)) {
          Atomics.wait(words, DONE, done);
        }
      };
      if (first) pass();
      const begin = now();
      pass();
      const spent = between(begin, now());
      const share = Math.floor(BUFFER_BYTES / threads / STEP) * STEP;
      const checksum = words.subarray(RESULTS, RESULTS + threads).reduce((a, b) => (a + b) | 0, 0);
      return { units: share * threads * PASSES, ...spent, checksum };
    },
  });
} else {
  const { memory, thread, threads } = workerData as WorkerInput;
  const words = new Int32Array(memory.buffer, 0, 1024);
  const read = compile(memory);
  for (let generation = 0; ; generation++) {
    Atomics.wait(words, GENERATION, generation);
    readShare(read, words, thread, threads);
  }
}
