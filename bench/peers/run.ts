/**
 * Side-by-side benchmark: Tramontane and the engines a user might pick instead, in turn (A B C A B C …), each run in a
 * process of its own, on one model file.
 *
 *     npm run bench:peers -- [--model FILE] [--threads 1,2] [--rounds 3] [--contexts 4096] [--only a,b] [--node PATH]…
 *                            [--out FILE]
 *     npm run bench:peers -- --serving 1,4,8,16,32 [--threads 2] [--rounds 3] [--decode 64]
 *
 * `--serving` compares requests of mixed lengths, so many at a time, with the peers that can do so; it also prints what
 * many gain over one, how much sooner a prompt that was read before is answered, and the engine's own share of a step.
 *
 * Peers are installed on first use into `bench/peers/.installed` (`--python` adds the ones from PyPI), or looked for in
 * PEERS_DIR. A run is told `--model --prompts --threads --reps --decode --contexts --batch --batch-decode` and, in
 * BENCH_T0_MS, when it was spawned; it prints one JSON line: decode_tps, prefill_tps, ttft_s, rss_mb, context, batch, and
 * the same rates per second of CPU time.
 */
import { execFileSync, spawn } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { schedulingMs } from '../scheduler.bench.ts';
import { PROMPT_LENGTHS } from '../serving.bench.ts';
import { peakMemory } from './memory.ts';
import type { Row } from './report.ts';
import { servingNotes, summarize, table } from './report.ts';

const root = path.dirname(fileURLToPath(import.meta.resolve('tramontane/package.json')));
const here = path.join(root, 'bench/peers');
const ready = process.env['PEERS_DIR'];
const installed = path.resolve(ready ?? path.join(here, '.installed'));

const { values: options } = parseArgs({
  options: {
    model: { type: 'string', default: path.join(root, 'models/smollm2-135m-instruct-q4_1.gguf') },
    threads: { type: 'string', default: '1,2' },
    rounds: { type: 'string', default: '3' },
    reps: { type: 'string', default: '2' },
    decode: { type: 'string', default: '128' },
    contexts: { type: 'string', default: '' },
    batch: { type: 'string', default: '4,8' },
    'batch-decode': { type: 'string', default: '32' },
    serving: { type: 'string', default: '' },
    only: { type: 'string' },
    node: { type: 'string', multiple: true, default: [process.execPath] },
    reference: { type: 'string', default: 'node-llama-cpp' },
    python: { type: 'boolean', default: false },
    timeout: { type: 'string', default: '300' },
    out: { type: 'string' },
  },
});

interface Peer {
  readonly name: string;
  /** Knows `--serving`. */
  readonly serves?: boolean;
  readonly command: readonly string[];
}

function install(): void {
  fs.mkdirSync(installed, { recursive: true });
  const manifest = path.join(installed, 'package.json');
  if (!fs.existsSync(manifest)) fs.writeFileSync(manifest, '{"private":true}\n');
  const want = ['node-llama-cpp@3', '@wllama/wllama@3', 'playwright-core@1'];
  if (!want.every((p) => fs.existsSync(path.join(installed, 'node_modules', p.replace(/@\d+$/, ''))))) {
    console.error('installing peers …');
    execFileSync('npm', ['install', '--no-save', '--ignore-scripts', ...want], { cwd: installed, stdio: 'inherit' });
  }
  if (options.python && !fs.existsSync(path.join(installed, 'venv'))) {
    execFileSync('python3', ['-m', 'venv', 'venv'], { cwd: installed, stdio: 'inherit' });
    execFileSync('venv/bin/pip', ['install', '-q', 'mistralrs', 'llama-cpp-python', 'numpy'], {
      cwd: installed,
      stdio: 'inherit',
    });
  }
}

function peers(): Peer[] {
  const runner = (file: string) => path.join(here, 'runners', file);
  const python = path.join(installed, 'venv/bin/python');
  const all: Peer[] = options.node.map((node) => ({
    name: options.node.length > 1 ? `tramontane ${execFileSync(node, ['-v']).toString().trim()}` : 'tramontane',
    command: [node, path.join(root, 'dist/cli.js'), 'bench'],
    serves: true,
  }));
  all.push({ name: 'node-llama-cpp', serves: true, command: [process.execPath, runner('node-llama-cpp.mjs')] });
  all.push({ name: 'wllama', command: [process.execPath, runner('wllama.mjs')] });
  if (fs.existsSync(python)) {
    all.push({ name: 'llama-cpp-python', command: [python, runner('llama-cpp-python.py')] });
    all.push({ name: 'mistralrs', command: [python, runner('mistral-rs.py')] });
  }
  const only = options.only?.split(',');
  return all.filter((p) => (options.serving === '' || p.serves) && (!only || only.some((o) => p.name.startsWith(o))));
}

/** One process, timed from outside. */
async function run(peer: Peer, threads: number, round: number): Promise<Row> {
  const args = ['--model', path.resolve(options.model), '--prompts', path.join(here, 'prompts.json')];
  args.push('--threads', String(threads), '--reps', options.reps, '--decode', options.decode);
  args.push('--batch', options.batch, '--batch-decode', options['batch-decode'], '--contexts', options.contexts);
  if (options.serving !== '') args.push('--serving', options.serving, '--serving-prompts', PROMPT_LENGTHS.join());
  const started = performance.timeOrigin + performance.now();
  const [command = '', ...rest] = peer.command;
  const env = {
    ...process.env,
    PEERS_DIR: installed,
    OMP_NUM_THREADS: String(threads),
    RAYON_NUM_THREADS: String(threads),
    BENCH_T0_MS: String(started),
  };
  const child = spawn(command, [...rest, ...args], { stdio: ['ignore', 'pipe', 'pipe'], env });
  let out = '';
  let err = '';
  child.stdout.on('data', (d) => (out += d));
  child.stderr.on('data', (d) => (err = (err + d).slice(-2000)));
  const memory = peakMemory(child.pid ?? 0);
  const timer = setTimeout(() => child.kill('SIGKILL'), Number(options.timeout) * 1000);
  await new Promise((done) => child.on('close', done));
  clearTimeout(timer);
  const { peakMb, cpuSeconds } = memory.stop();
  const wall = (performance.timeOrigin + performance.now() - started) / 1000;
  const line = out.split('\n').findLast((l) => l.startsWith('{'));
  const base = { peer: peer.name, threads, round, wall_s: wall, own_cores: cpuSeconds / wall };
  if (!line) return { ...base, error: err.trim().split('\n').pop() || 'no result' };
  const result = JSON.parse(line) as Partial<Row>;
  return { ...base, ...result, peer: peer.name, threads, rss_mb: peakMb || result.rss_mb };
}

if (ready === undefined) install();
const SHOWN = ['decode_tps', 'decode_cpu_tps', 'prefill_tps', 'prefill_cpu_tps', 'ttft_s', 'rss_mb'] as const;
const shown = (row: Row) =>
  row.serving
    ? Object.entries(row.serving).map(([n, tps]) => `${n} requests ${tps?.toFixed(1)}`)
    : SHOWN.map((k) => `${k} ${row[k]?.toFixed(2) ?? '-'}`);
const rows: Row[] = [];
for (let round = 0; round < Number(options.rounds); round++) {
  for (const threads of options.threads.split(',').map(Number)) {
    for (const peer of peers()) {
      const row = await run(peer, threads, round);
      rows.push(row);
      const figures = row.error ?? shown(row).join('  ');
      console.error(`round ${round + 1}  ${threads} threads  ${peer.name.padEnd(18)} ${figures}`);
    }
  }
}
const summary = summarize(rows, options.reference);
console.log(table(summary));
if (options.serving !== '') {
  const scheduling: Record<string, number> = {};
  for (const n of options.serving.split(',')) scheduling[n] = await schedulingMs(Number(n));
  for (const note of servingNotes(summary, scheduling)) console.log(`\n${note}`);
}
if (options.out) {
  const machine = { cpu: os.cpus()[0]?.model, cpus: os.cpus().length, node: process.version };
  fs.writeFileSync(options.out, `${JSON.stringify({ machine, options, summary, rows }, null, 1)}\n`);
}
