import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'esbuild';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { storageType } from '../../src/core/dtype.ts';
import { WeightError } from '../../src/core/errors.ts';
import { groupedType } from '../../src/core/grouped.ts';
import type * as Tramontane from '../../src/index.ts';
import { Packers } from '../../src/quant/isq/packers.ts';
import { type PackJob, packRows } from '../../src/quant/isq/packRows.ts';
import { logitsOf, type Spec, temporaryFolder, writeModel } from './models.ts';

const folder = temporaryFolder();
const module = join(folder, 'packer.mjs');
const log = join(folder, 'threads.txt');
/** Of a module like the built one that also writes down which thread packed. */
const url = pathToFileURL(join(folder, 'noting.mjs')).href;

beforeAll(async () => {
  await build({
    entryPoints: [fileURLToPath(new URL('../../src/quant/isq/packRows.ts', import.meta.url))],
    outfile: module,
    ...{ bundle: true, platform: 'neutral', format: 'esm', logLevel: 'error' },
  });
  writeFileSync(
    join(folder, 'noting.mjs'),
    `import { appendFileSync } from 'node:fs';
     import { threadId } from 'node:worker_threads';
     import * as packer from './packer.mjs';
     export const packRows = (job) => {
       appendFileSync(${JSON.stringify(log)}, threadId + '\\n');
       return packer.packRows(job);
     };`,
  );
});

const COLUMNS = 2048;
/** Enough for three threads. */
const ROWS = 385;

function job(target: PackJob['target'], importance?: Float32Array): PackJob {
  const x = new Float32Array(ROWS * COLUMNS);
  for (let i = 0; i < x.length; i++) x[i] = Math.sin(i * 1.37) * (1 + (i % 7));
  return { from: storageType('F32'), columns: COLUMNS, bytes: new Uint8Array(x.buffer), target, importance };
}

describe('threads that pack', () => {
  const grouped = (label: string, code: 'u4' | 'e4m3', group: number) => {
    const grouping = { label, code, group, bias: code === 'u4', indexed: false } as const;
    return groupedType(grouping, COLUMNS).grouping!;
  };
  const importance = Float32Array.from({ length: COLUMNS }, (_, k) => 1 + (k % 13));
  it.each<[string, PackJob]>([
    ['Q8_0', job({ kind: 'blocks', name: 'Q8_0' })],
    ['Q3_K with importance', job({ kind: 'blocks', name: 'Q3_K' }, importance)],
    ['AFQ4', job({ kind: 'blocks', name: 'AFQ4' })],
    ['HQQ4', job({ kind: 'hqq', bits: 4, grouping: grouped('HQQ4', 'u4', 64) })],
    ['E4M3', job({ kind: 'fp8', largest: 7, grouping: grouped('F8E4M3', 'e4m3', COLUMNS) })],
  ])('all of them take part, with the bytes of one: %s', async (_name, work) => {
    const threads = 3;
    const packers = new Packers({ threads, url });
    expect(await packers.start()).toBe(threads);
    writeFileSync(log, '');
    const bytes = await packers.pack(work);
    await packers.dispose();
    const ids = readFileSync(log, 'utf8').trim().split('\n');
    expect(new Set(ids).size).toBe(threads);
    expect(ids).not.toContain('0');
    expect(Buffer.compare(bytes, packRows(work))).toBe(0);
  });

  it('small work stays here, and so does all where threads cannot load the module', async () => {
    const large = job({ kind: 'blocks', name: 'Q8_0' });
    const few: PackJob = { ...large, bytes: large.bytes.slice(0, 4 * COLUMNS * 64) };
    const packers = new Packers({ threads: 2, url });
    writeFileSync(log, '');
    expect(await packers.pack(few)).toEqual(packRows(few));
    expect(readFileSync(log, 'utf8')).toBe('');
    await packers.dispose();
    const without = new Packers({ threads: 2, url: pathToFileURL(join(folder, 'none.mjs')).href });
    expect(await without.start()).toBe(0);
    expect(Buffer.compare(await without.pack(large), packRows(large))).toBe(0);
    await without.dispose();
  });

  it('errors come back with their message, and the threads go on', async () => {
    const packers = new Packers({ threads: 2, url });
    const broken = job({ kind: 'blocks', name: 'Q4_K' });
    new Float32Array(broken.bytes.buffer)[5] = Number.NaN;
    await expect(packers.pack(broken)).rejects.toThrow(/NaN/);
    const next = job({ kind: 'blocks', name: 'Q8_0' });
    expect(Buffer.compare(await packers.pack(next), packRows(next))).toBe(0);
    await packers.dispose();
  });

  it('work that runs is rejected when they are stopped', async () => {
    const packers = new Packers({ threads: 2, url });
    await packers.start();
    const running = expect(packers.pack(job({ kind: 'blocks', name: 'Q2_K' }))).rejects.toThrow(WeightError);
    await packers.dispose();
    await running;
  });
});

describe('the built package', () => {
  type Threads = { Worker: new (...args: never[]) => { on(event: string, listener: () => void): void } };
  const threads = createRequire(import.meta.url)('node:worker_threads') as Threads;
  const { Worker: original } = threads;
  const started: string[] = [];
  let running = 0;
  afterEach(() => {
    threads.Worker = original;
    started.length = 0;
  });

  async function built(): Promise<typeof Tramontane> {
    threads.Worker = class extends (original as new (...args: unknown[]) => InstanceType<Threads['Worker']>) {
      constructor(code: string, options: { readonly name?: string }) {
        super(code, options);
        if (options.name !== 'tramontane-packer') return;
        started.push(options.name);
        running++;
        this.on('exit', () => running--);
      }
    } as Threads['Worker'];
    return import(new URL('../../dist/index.js', import.meta.url).href);
  }

  const LARGE: Spec = { hidden: 512, inner: 2048, layers: 2, vocab: 96, tied: true };

  it('packs on as many threads as it may, with the results of one, and ends them', async () => {
    const { loadModel } = await built();
    const model = writeModel(LARGE);
    const load = async (n: number) => {
      const loaded = await loadModel(model, { device: 'cpu', threads: n, isq: 'Q4K', strict: true });
      const logits = await logitsOf(loaded);
      expect(running).toBe(0);
      await loaded.reIsqModel('Q3K');
      const again = await logitsOf(loaded);
      await loaded.dispose();
      expect(running).toBe(0);
      return [logits, again];
    };
    const two = await load(2);
    expect(started.length).toBe(4);
    const one = await load(1);
    expect(started.length).toBe(4);
    expect(two).toEqual(one);
  });

  it('leaves nothing running when a load is cancelled', async () => {
    const { loadModel, AbortError } = await built();
    const stop = new AbortController();
    const seen: number[] = [];
    const loading = loadModel(writeModel(LARGE), {
      ...{ device: 'cpu', threads: 2, isq: 'Q4K', signal: stop.signal },
      onProgress: ({ done, total }) => {
        seen.push(done / total);
        if (started.length > 0) stop.abort();
      },
    });
    await expect(loading).rejects.toThrow(AbortError);
    expect(started.length).toBe(2);
    expect(running).toBe(0);
    expect(seen.at(-1)).toBeLessThan(1);
  });
});
