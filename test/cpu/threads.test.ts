import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { build } from 'esbuild';
import { afterEach, describe, expect, it } from 'vitest';
import type { Executor } from '../../src/backends/cpu/executor.ts';
import { InlineExecutor } from '../../src/backends/cpu/inline.ts';
import { defineKernel, type Kernel } from '../../src/backends/cpu/kernel.ts';
import { Kernels } from '../../src/backends/cpu/kernels.ts';
import { CpuMemory } from '../../src/backends/cpu/memory.ts';
import { RING_COMMANDS } from '../../src/backends/cpu/memoryMap.ts';
import { Ring } from '../../src/backends/cpu/ring.ts';
import { ThreadExecutor } from '../../src/backends/cpu/threads.ts';
import { i32 } from '../../src/backends/cpu/wasm/ops.ts';

/**
 * Every thread stores `value` in its own word of `target`, and stores `bad` in its own word of `check` unless it finds
 * `value - 1` in the words of all threads: without a barrier between commands it will not.
 */
const chain = defineKernel({
  name: 'chain',
  fields: { target: 'i32', previous: 'i32', value: 'i32', check: 'i32' },
  emit(f, { target, previous, value, check }, { tid, nt }) {
    const t = f.i32('t');
    f.for(t, 0, nt, 1, () => {
      f.if(i32.ne(i32.load(i32.add(previous, i32.shl(t, 2))), i32.sub(value, 1)), () => {
        f.i32Store(i32.add(check, i32.shl(tid, 2)), value);
      });
    });
    f.i32Store(i32.add(target, i32.shl(tid, 2)), value);
  },
  twin() {},
});

/** Adds one to a counter, atomically, in every thread. */
const count = defineKernel({
  name: 'count',
  fields: { counter: 'i32' },
  emit(f, { counter }) {
    f.drop(i32.atomicAdd(counter, 1));
  },
  twin() {},
});

/** Reads outside of the memory when `address` does. */
const load = defineKernel({
  name: 'load',
  fields: { address: 'i32' },
  emit(f, { address }) {
    f.i32Store(8, i32.load(address));
  },
  twin() {},
});

const MORE = [
  defineKernel({ ...count, name: 'more', emit: (f, a) => f.drop(i32.atomicAdd(a.counter, 1000)), twin() {} }),
] as readonly Kernel[];

const live: Executor[] = [];
afterEach(async () => {
  for (const executor of live.splice(0)) await executor.dispose();
});

async function start(threads: number, spin: number) {
  const memory = new CpuMemory({ shared: threads > 0 });
  const memories = [memory];
  const ring = new Ring(memories);
  const kernels = new Kernels({ variant: { fma: false, dot: 'simd' }, shared: threads > 0, compile: true, memories });
  const threaded = new ThreadExecutor(memory, spin, () => ring.leave());
  if (threads) await threaded.start(threads);
  const executor: Executor = threads ? threaded : new InlineExecutor(memory);
  live.push(executor);
  ring.attach(executor, kernels);
  kernels.attach(executor);
  const data = memory.heap.allocate(4096)!;
  ring.refresh();
  return { memory, ring, kernels, executor, data };
}

type Setup = Awaited<ReturnType<typeof start>>;

function encodeChain({ ring, kernels, data }: Setup, value: number): void {
  const at = ring.begin(kernels.entry(chain));
  ring.words[at + chain.at.target] = data + (value & 1) * 1024;
  ring.words[at + chain.at.previous] = data + (~value & 1) * 1024;
  ring.words[at + chain.at.value] = value;
  ring.words[at + chain.at.check] = data + 2048;
}

function encodeCount({ ring, kernels, data }: Setup, kernel: Kernel = count as Kernel, independent = false): void {
  const at = ring.begin(kernels.entry(kernel), independent);
  ring.words[at + count.at.counter] = data + 3072;
}

const counter = (s: Setup) => s.memory.views.i32[(s.data + 3072) / 4];

describe.each([
  [1, 2000],
  [2, 2000],
  [3, 50],
  [2, 0],
  [0, 0],
])('%i workers, %i spins', (threads, spin) => {
  const nt = Math.max(1, threads);

  it('commands wait for each other, over many laps of the ring', async () => {
    const s = await start(threads, spin);
    const { views } = s.memory;
    const steps = spin && threads < 3 ? 3 * RING_COMMANDS + 17 : 700;
    let value = 0;
    const base = (s.data + 1024 * 0) / 4;
    for (let t = 0; t < nt; t++) views.i32[base + t] = 0;
    while (value < steps) {
      encodeChain(s, ++value);
      if (value % 701 === 0) await s.ring.finish();
    }
    await s.ring.finish();
    for (let t = 0; t < nt; t++) {
      expect(views.i32[(s.data + (value & 1) * 1024) / 4 + t]).toBe(value);
      expect(views.i32[(s.data + 2048) / 4 + t]).toBe(0);
    }
  });

  it('every thread runs every command once, independent ones too', async () => {
    const s = await start(threads, spin);
    for (let i = 0; i < 300; i++) encodeCount(s, count as Kernel, i % 3 !== 0);
    await s.ring.finish();
    expect(counter(s)).toBe(300 * nt);
    expect(s.ring.idle).toBe(true);
  });

  it('several waits end in order, and new kernels are compiled in between', async () => {
    const s = await start(threads, spin);
    encodeCount(s);
    const first = s.ring.finish();
    encodeCount(s);
    const second = s.ring.finish();
    encodeCount(s, MORE[0]);
    await s.ring.finish();
    expect(counter(s)).toBe(1002 * nt);
    await first;
    await second;
  });

  it.skipIf(!threads)('a failing kernel rejects what waits and what follows', async () => {
    const s = await start(threads, spin);
    const at = s.ring.begin(s.kernels.entry(load));
    s.ring.words[at + load.at.address] = -4;
    await expect(s.ring.finish()).rejects.toThrow(/a worker failed: .*out of bounds/);
    encodeCount(s);
    await expect(s.ring.finish()).rejects.toThrow(/create another back-end/);
  });
});

describe('a process', () => {
  const bundleAndRun = async (code: string) => {
    const folder = await mkdtemp(join(tmpdir(), 'cpu-threads-'));
    try {
      const entry = join(folder, 'entry.ts');
      await writeFile(entry, code);
      const outfile = join(folder, 'out.mjs');
      await build({ entryPoints: [entry], outfile, bundle: true, format: 'esm', platform: 'node', logLevel: 'error' });
      return await promisify(execFile)(process.execPath, [outfile], { timeout: 30_000 });
    } finally {
      await rm(folder, { recursive: true });
    }
  };
  const from = join(import.meta.dirname ?? '', '../../src/backends/cpu/index.ts');

  it('stays while a step runs, ends without disposal, and the caller is free during a step', async () => {
    const { stdout } = await bundleAndRun(`
      import { createCpuBackend } from ${JSON.stringify(from)};
      const backend = await createCpuBackend({ threads: 2 });
      const x = backend.upload(new Float32Array(1 << 22).fill(2), [1 << 22]);
      let ticks = 0;
      const timer = setInterval(() => ticks++, 1);
      for (let i = 0; i < 200; i++) backend.ops.unary('sin', x, x, 0, 0);
      timer.unref();
      const values = await backend.read(x);
      console.log('done', values.length, ticks > 3);
    `);
    expect(stdout.trim()).toBe(`done ${1 << 22} true`);
  });
});
