/**
 * Side-by-side benchmark in a browser: Tramontane and llama.cpp's WebAssembly build, on the processor and with WebGPU, in
 * a cross-origin isolated page of headless Chromium, on one model file. The engines take turns (A B A B …), each run in a
 * browser of its own.
 *
 *     npm ci --prefix bench/browser
 *     npm run bench:browser -- [--model FILE] [--threads 1,2] [--rounds 3] [--reps 2] [--decode 48] [--prefill 256]
 *                              [--only tramontane,wllama] [--software] [--chromium-flag=--FLAG]… [--out FILE]
 *
 * `load_s` runs from the import of the engine to a model that is ready, `ttft_s` from there to the first token of a short
 * prompt; `page_mb` is what the browser counts for the page and its workers, `rss_mb` the peak of all its processes.
 * Ratios are to wllama with as many threads, in this run. WebGPU is measured on a real adapter; with `--software`, on one
 * that computes on the processor. The browser is CHROMIUM, or one of the usual places.
 */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { summarize, table } from '../peers/report.ts';
import { compare, missing } from './turns.ts';

const root = path.dirname(fileURLToPath(import.meta.resolve('tramontane/package.json')));
const { values: flags } = parseArgs({
  options: {
    model: { type: 'string', default: path.join(root, 'models/smollm2-135m-instruct-q4_1.gguf') },
    threads: { type: 'string', default: '1,2' },
    rounds: { type: 'string', default: '3' },
    reps: { type: 'string', default: '2' },
    decode: { type: 'string', default: '48' },
    prefill: { type: 'string', default: '256' },
    only: { type: 'string' },
    software: { type: 'boolean', default: false },
    'chromium-flag': { type: 'string', multiple: true, default: [] },
    timeout: { type: 'string', default: '300' },
    out: { type: 'string' },
  },
});
const model = path.resolve(flags.model);
const reason = missing({ root, model });
if (reason !== undefined) {
  console.error(reason);
  process.exit(1);
}
const SHOWN = ['load_s', 'ttft_s', 'decode_tps', 'prefill_tps', 'page_mb', 'rss_mb'] as const;
const compared = await compare(
  {
    ...{ root, model, software: flags.software, chromiumFlags: flags['chromium-flag'] },
    threads: flags.threads.split(',').filter(Boolean).map(Number),
    rounds: Number(flags.rounds),
    reps: Number(flags.reps),
    decode: Number(flags.decode),
    prefill: Number(flags.prefill),
    only: flags.only?.split(','),
    timeout: Number(flags.timeout),
    onRow(row) {
      const figures = row.error ?? SHOWN.map((k) => `${k} ${row[k]?.toFixed(2) ?? '-'}`).join('  ');
      console.error(`round ${row.round + 1}  ${String(row.threads).padEnd(6)} ${row.peer.padEnd(10)} ${figures}`);
    },
  },
  JSON.parse(fs.readFileSync(path.join(root, 'bench/peers/prompts.json'), 'utf8')),
);
const { chromium, adapter, rows } = compared;
const summary = summarize(rows, 'wllama');
console.log(
  `Chromium ${chromium}; WebGPU adapter: ${adapter?.name ?? 'none'}${adapter?.software ? ' (software)' : ''}\n`,
);
console.log(table(summary));
if (flags.out) {
  const machine = { cpu: os.cpus()[0]?.model, cpus: os.cpus().length, chromium, adapter };
  fs.writeFileSync(flags.out, `${JSON.stringify({ machine, options: flags, summary, rows }, null, 1)}\n`);
}
