/**
 * Memory that quantization at load takes: a safetensors model of random BF16 weights is written to the folder of temporary
 * files, then loaded in processes of its own.
 *
 *     npm run bench:isq -- [--types Q4_0,Q8_0,Q4K] [--hidden 2048] [--layers 12] [--intermediate 5632] [--vocab 32768]
 *                          [--threads N] [--out FILE]
 *
 * Of every type two loads are made. The first reports the most memory the process ever held, less what it held with a model
 * of a few kilobytes: it must not exceed the quantized weights and twice the largest tensor. The second is forbidden more
 * memory than that and what a process takes anyway (`ulimit -d`); loading the weights as they are stored must fail there.
 */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import type * as Tramontane from '../src/index.ts';
import { type FolderSizes, writeFolder } from './syntheticFolder.ts';

interface Loaded {
  /** The most memory with a tiny model, and in the end. */
  readonly baseMb: number;
  readonly peakMb: number;
  readonly quantizedMb: number;
  readonly seconds: number;
}

interface Job {
  readonly model: string;
  readonly tiny: string;
  readonly isq?: string | undefined;
  readonly threads: number;
}

const MIB = 2 ** 20;
/** Of a process without a model: code, threads, buffers for loading. */
const RUNTIME_MB = 400;
const TINY: FolderSizes = { hidden: 256, layers: 1, heads: 4, kvHeads: 1, intermediate: 256, vocab: 256, context: 64 };
const root = path.dirname(fileURLToPath(import.meta.resolve('tramontane/package.json')));
const script = fileURLToPath(import.meta.url);

/** The child: loads both models and says what that took. */
async function load({ model, tiny, isq, threads }: Job): Promise<Loaded> {
  const address = pathToFileURL(path.join(root, 'dist/index.js')).href;
  const { loadModel } = (await import(address)) as typeof Tramontane;
  const options = { device: 'cpu', threads, isq, maxModelLen: 64, pagedAttn: { memory: { mb: 16 } } } as const;
  // Kilobytes on every system.
  const peak = () => process.resourceUsage().maxRSS / 1024;
  await (await loadModel(tiny, options)).dispose();
  const baseMb = peak();
  const started = performance.now();
  const loaded = await loadModel(model, options);
  const seconds = (performance.now() - started) / 1000;
  await loaded.complete([1, 2, 3], { sampling: { topK: 1, maxLen: 4, ignoreEos: true } });
  const result = { baseMb, peakMb: peak(), quantizedMb: loaded.memory().persistent / MIB, seconds };
  await loaded.dispose();
  return result;
}

function run(job: Job, limitMb?: number): Loaded | string {
  const command = `${limitMb ? `ulimit -d ${Math.ceil(limitMb * 1024)}; ` : ''}exec "$0" "$@"`;
  const args = ['-c', command, process.execPath, script, '--job', JSON.stringify(job)];
  const child = spawnSync('bash', args, { encoding: 'utf8' });
  const line = child.stdout.split('\n').findLast((l) => l.startsWith('{'));
  if (child.status === 0 && line) return JSON.parse(line) as Loaded;
  return child.stderr.split('\n').find((l) => /error/i.test(l)) ?? `ended with ${child.signal ?? child.status}`;
}

async function measure(types: readonly string[], sizes: FolderSizes, threads: number) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'tramontane-isq-'));
  try {
    const [model, tiny] = [path.join(folder, 'model'), path.join(folder, 'tiny')];
    await writeFolder(tiny, TINY);
    const { bytes, largest } = await writeFolder(model, sizes);
    const [storedMb, largestMb] = [bytes / MIB, largest / MIB];
    return types.map((isq) => {
      const free = run({ model, tiny, isq, threads });
      if (typeof free === 'string') throw new Error(`${isq}: ${free}`);
      const allowedMb = free.quantizedMb + 2 * largestMb;
      const limitMb = allowedMb + RUNTIME_MB;
      const limited = run({ model, tiny, isq, threads }, limitMb);
      const whole = run({ model, tiny, threads }, limitMb);
      return {
        ...{ type: isq, storedMb, largestMb, quantizedMb: free.quantizedMb, seconds: free.seconds },
        ...{ addedMb: free.peakMb - free.baseMb, allowedMb, limitMb },
        limited: typeof limited === 'string' ? limited : 'loads',
        unquantized: typeof whole === 'string' ? 'fails' : 'loads',
        holds: free.peakMb - free.baseMb <= allowedMb && typeof limited !== 'string' && typeof whole === 'string',
      };
    });
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}

const size = (n: number) => ({ type: 'string', default: String(n) }) as const;
const { values: options } = parseArgs({
  options: {
    job: { type: 'string' },
    types: { type: 'string', default: 'Q4_0,Q8_0,Q4K' },
    ...{ hidden: size(2048), layers: size(12), intermediate: size(5632), vocab: size(32_768) },
    threads: size(os.availableParallelism()),
    out: { type: 'string' },
  },
});
if (options.job) {
  console.log(JSON.stringify(await load(JSON.parse(options.job) as Job)));
} else {
  const hidden = Number(options.hidden);
  const sizes = {
    ...{ hidden, layers: Number(options.layers), heads: hidden / 64, kvHeads: hidden / 256, context: 64 },
    ...{ intermediate: Number(options.intermediate), vocab: Number(options.vocab) },
  };
  const rows = await measure(options.types.split(','), sizes, Number(options.threads));
  const rounded = rows.map((row) =>
    Object.fromEntries(Object.entries(row).map(([k, v]) => [k, typeof v === 'number' ? Math.round(v) : v])),
  );
  console.table(rounded);
  if (options.out) fs.writeFileSync(options.out, `${JSON.stringify({ sizes, rows }, null, 1)}\n`);
  if (!rows.every((r) => r.holds)) process.exitCode = 1;
}
