/**
 * Every storage type: its size, the error it leaves in weights and in a product, and how fast each back-end multiplies
 * with it.
 *
 *     npm run bench:formats -- [--only Q4_0,Q4_K] [--threads 1,2] [--adapter NAME] [--rounds 5] [--stream 96]
 *                              [--columns 4096] [--json FILE] [--write]
 *
 * `GB/s` counts the bytes that the back-end keeps of distinct matrices, `--stream` megabytes of them together, that one row
 * is multiplied with; `GFLOP/s` is of 256 rows and one matrix. Figures are medians by wall time. WebGPU is measured where there is a real
 * GPU; `--adapter software` takes one that computes on the processor. `--write` puts the table into `src/quant/README.md`.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { createBackend } from '../src/backend.ts';
import { createWebGpuBackend } from '../src/backends/webgpu/index.ts';
import type { Backend } from '../src/core/backend.ts';
import { messageOf } from '../src/core/errors.ts';
import { nodeGpu } from '../src/platform/nodeGpu.ts';
import { matrixOf, measureSpeed, type SpeedOptions, storedErrors } from './formatMeasure.ts';
import { entries, formatTable, type Measured, type Speed, withTable } from './formatTable.ts';
import { machine } from './machine.ts';

const { values: flags } = parseArgs({
  options: {
    only: { type: 'string', default: '' },
    threads: { type: 'string', default: [...new Set([1, availableParallelism()])].join() },
    adapter: { type: 'string' },
    rounds: { type: 'string', default: '5' },
    stream: { type: 'string', default: '96' },
    columns: { type: 'string', default: '4096' },
    json: { type: 'string' },
    write: { type: 'boolean', default: false },
  },
});
const root = dirname(fileURLToPath(import.meta.resolve('tramontane/package.json')));
const columns = Number(flags.columns);
const options: SpeedOptions = { rounds: Number(flags.rounds), streamBytes: Number(flags.stream) * 1e6 };

interface Column {
  readonly name: string;
  readonly backend: Backend;
}

async function open(): Promise<Column[]> {
  const list: Column[] = [];
  for (const threads of flags.threads.split(',').filter(Boolean).map(Number)) {
    const backend = await createBackend('cpu', { threads });
    list.push({ name: `cpu, ${threads} ${threads === 1 ? 'thread' : 'threads'}`, backend });
  }
  try {
    const hardwareOnly = flags.adapter === undefined;
    const gpu = (await nodeGpu()) as GPU | undefined;
    const backend = await createWebGpuBackend({ gpu, adapter: flags.adapter, hardwareOnly });
    list.push({ name: `webgpu, ${backend.gpu.facts.name}`, backend });
  } catch (error) {
    console.error(`webgpu is skipped: ${messageOf(error)}`);
  }
  return list;
}

const where = machine(root);
const list = await open();
const only = flags.only.split(',').filter(Boolean);
const rows: Measured[] = [];
for (const entry of entries(columns)) {
  if (only.length > 0 && !only.includes(entry.name)) continue;
  const matrix = matrixOf(entry, columns);
  const speeds: (Speed | string)[] = [];
  for (const { name, backend } of list) {
    try {
      speeds.push(await measureSpeed(backend, matrix, options));
    } catch (error) {
      speeds.push(messageOf(error));
      console.error(`${entry.name}, ${name}: ${messageOf(error)}`);
    }
  }
  rows.push({ entry, ...storedErrors(entry, columns), speeds });
  console.error(
    formatTable(
      rows.slice(-1),
      list.map((c) => c.name),
    )
      .split('\n')
      .at(-1),
  );
}
for (const { backend } of list) await backend.dispose();

const place = `${where.cpu}, ${where.cores} cores, Node ${process.version}, load ${where.load.toFixed(1)}, ${where.date.slice(0, 10)}`;
const table = `${formatTable(
  rows,
  list.map((c) => c.name),
)}\n\nMeasured on: ${place}.`;
console.log(table);
if (flags.json !== undefined) writeFileSync(flags.json, `${JSON.stringify({ machine: where, rows }, null, 1)}\n`);
if (flags.write) {
  const path = join(root, 'src/quant/README.md');
  writeFileSync(path, withTable(readFileSync(path, 'utf8'), table));
}
