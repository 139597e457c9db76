/**
 * What this project's users feel, as numbers: decoding, prefill, several sequences, loading, the tokenizer, kernels.
 *
 *     npm run bench:all -- [--only decode,prefill,batch,serving,load,tokenizer,ops] [--model PATH] [--threads 1,2] [--reps 3]
 *                          [--contexts 128,4096] [--batches 4,8] [--requests 1,4,8,16,32]
 *                          [--device cpu] [--node PATH]… [--vs DIST]… [--formats Q4_1,…]
 *                          [--json FILE]
 *
 * Every build runs in processes of its own; repetitions of all builds take turns (A B, B A, …), so that what the machine
 * does meanwhile hits all of them. `--vs` adds another build (a `dist` folder), `--node` another runtime; with two of
 * either the ratio of the first to each other one is printed, with its spread. Bytes are counted as the checkpoint stores
 * them, and compared with the read bandwidth measured in the same run, on as many threads.
 */
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { ModelInfo } from '../src/index.ts';
import { Child } from './child.ts';
import type { LoadReport } from './load.bench.ts';
import { type Build, describe, machine } from './machine.ts';
import { type KernelReport, kernelTable, type Point, Results, ratioTable, short, table } from './report.ts';
import type { Sample } from './sample.ts';
import type { SubjectInput } from './subject.ts';
import { type Traffic, trafficOf } from './traffic.ts';

const root = dirname(fileURLToPath(import.meta.resolve('tramontane/package.json')));
const here = dirname(fileURLToPath(import.meta.url));
const BANDWIDTH = 'memory read';
const GROUPS = ['decode', 'prefill', 'batch', 'serving', 'load', 'tokenizer', 'ops'] as const;
type Group = (typeof GROUPS)[number];

const { values: flags } = parseArgs({
  options: {
    only: { type: 'string', default: GROUPS.join() },
    model: { type: 'string', default: join(root, 'models/smollm2-135m-instruct-q4_1.gguf') },
    threads: { type: 'string', default: doublings(availableParallelism()).join() },
    reps: { type: 'string', default: '3' },
    contexts: { type: 'string', default: '128,4096' },
    batches: { type: 'string', default: '4,8' },
    requests: { type: 'string', default: '1,4,8,16,32' },
    prompt: { type: 'string', default: '512' },
    tokens: { type: 'string', default: '64' },
    device: { type: 'string', default: 'cpu' },
    node: { type: 'string', multiple: true, default: [process.execPath] },
    vs: { type: 'string', multiple: true, default: [] },
    formats: { type: 'string', default: 'Q4_0,Q4_1,Q8_0,Q4_K,Q6_K,F16' },
    timeout: { type: 'string', default: '600' },
    json: { type: 'string' },
  },
});
const only = list(flags.only).map((name) => {
  if (!(GROUPS as readonly string[]).includes(name)) {
    throw new Error(`--only: expected some of ${GROUPS.join()}, got ${name}`);
  }
  return name as Group;
});
const model = resolve(flags.model);
const repetitions = Number(flags.reps);
const tokens = Number(flags.tokens);
const patienceMs = Number(flags.timeout) * 1000;
const entry = (name: string) => join(here, `${name}.mjs`);

/** 1, 2, 4, … and `n` itself. */
function doublings(n: number): number[] {
  const counts = [];
  for (let i = 1; i < n; i *= 2) counts.push(i);
  return [...counts, n];
}

function list(text: string): string[] {
  return text.split(',').filter((part) => part !== '');
}

/** A build with its model loaded. */
interface Subject {
  readonly build: Build;
  readonly input: SubjectInput;
  readonly child: Child;
}

interface Case {
  readonly group: Group;
  /** Runs once before the first repetition is counted. */
  warmUp?(subject: Subject): Promise<unknown>;
  run(subject: Subject, repetition: number): Promise<readonly Point[]>;
}

/** How a sample of tokens is shown. */
function tokenPoint(benchmark: string, sample: Sample, traffic: Traffic): Point {
  const seconds = sample.wallMs / 1000;
  const { passes = 0, positions = 0, units, cpuMs, checksum } = sample;
  return {
    benchmark,
    unit: 'tokens/s',
    value: units / seconds,
    cpuMs: cpuMs / units,
    bytesPerSecond: (passes * traffic.weightBytes + positions * traffic.cacheBytes) / seconds,
    gflops: (2 * traffic.parameters * units) / seconds / 1e9,
    checksum,
  };
}

function cases(traffic: Traffic, info: ModelInfo): readonly Case[] {
  const room = info.maxSeqLen ?? Number.POSITIVE_INFINITY;
  const ask = ({ child }: Subject, name: string, input: Readonly<Record<string, unknown>>) =>
    child.ask<Sample>({ ask: name, with: input });
  const decode = list(flags.contexts)
    .map(Number)
    .map((context): Case | string => {
      const name = `decode, context ${context}`;
      if (context + tokens > room) return `${name}: the model takes ${room} positions`;
      return {
        group: 'decode',
        warmUp: (s) => ask(s, 'decode', { context, tokens: 8 }),
        run: async (s) => [tokenPoint(name, await ask(s, 'decode', { context, tokens }), traffic)],
      };
    });
  const prefill: Case = {
    group: 'prefill',
    warmUp: (s) => ask(s, 'prefill', { tokens: Number(flags.prompt), repetition: -1 }),
    run: async (s, repetition) => {
      const sample = await ask(s, 'prefill', { tokens: Number(flags.prompt), repetition });
      return [tokenPoint(`prefill, ${flags.prompt} tokens`, sample, traffic)];
    },
  };
  const batch = list(flags.batches)
    .map(Number)
    .map(
      (sequences): Case => ({
        group: 'batch',
        warmUp: (s) => ask(s, 'batch', { sequences, tokens: 8 }),
        run: async (s) => [
          tokenPoint(`decode, ${sequences} sequences`, await ask(s, 'batch', { sequences, tokens }), traffic),
        ],
      }),
    );
  const ratePoint = (benchmark: string, { units, wallMs, cpuMs, checksum }: Sample): Point => ({
    ...{ benchmark, unit: 'tokens/s', value: (units / wallMs) * 1000, cpuMs: cpuMs / units, checksum },
  });
  const serving = list(flags.requests)
    .map(Number)
    .map(
      (requests): Case => ({
        group: 'serving',
        warmUp: (s) => ask(s, 'serving', { requests, tokens: 2, repetition: -1 }),
        run: async (s, repetition) => {
          const sample = await ask(s, 'serving', { requests, tokens, repetition });
          return [ratePoint(`${requests} requests of mixed lengths`, sample)];
        },
      }),
    );
  const repeated: Case = {
    group: 'serving',
    run: async (s, repetition) => {
      const sample = await ask(s, 'repeated', { tokens: Number(flags.prompt), repetition });
      return [ratePoint(`prefill, ${flags.prompt} tokens read before`, sample)];
    },
  };
  const tokenizer: Case | string = info.hasTokenizer
    ? {
        group: 'tokenizer',
        warmUp: (s) => ask(s, 'encode', { repetition: -1 }),
        run: async (s, repetition) => {
          const { units, wallMs, cpuMs, checksum } = await ask(s, 'encode', { repetition });
          const megabytes = units / 1e6;
          const value = (megabytes / wallMs) * 1000;
          return [{ benchmark: 'tokenizer, encode', unit: 'MB/s', value, cpuMs: cpuMs / megabytes, checksum }];
        },
      }
    : 'tokenizer: the model has none';
  const load: Case = { group: 'load', run: async ({ build, input }) => loadPoints(build, input, traffic) };
  const all = [...decode, prefill, ...batch, ...serving, repeated, tokenizer, load];
  for (const skipped of all) if (typeof skipped === 'string') console.error(`skipped: ${skipped}`);
  return all.filter((c) => typeof c !== 'string').filter((c) => only.includes(c.group));
}

/** A fresh process, from its start to its first token. */
function loadPoints({ node }: Build, input: SubjectInput, traffic: Traffic): readonly Point[] {
  const env = { ...process.env, BENCH_T0_MS: String(performance.timeOrigin + performance.now()) };
  const child = spawnSync(node, [entry('load.bench'), JSON.stringify(input)], {
    env,
    encoding: 'utf8',
    timeout: patienceMs,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  if (child.status !== 0) throw new Error(`load: the child ended with ${child.signal ?? `status ${child.status}`}`);
  const report = JSON.parse(child.stdout) as LoadReport;
  const lowerIsBetter = true;
  const bytesPerSecond = traffic.modelBytes / (report.loadMs / 1000);
  return [
    {
      ...{ benchmark: 'start to first token', unit: 's', value: report.firstTokenMs / 1000, lowerIsBetter },
      ...{ cpuMs: report.cpuMs, checksum: report.token },
    },
    { benchmark: 'load', unit: 's', value: report.loadMs / 1000, lowerIsBetter, bytesPerSecond },
    { benchmark: 'peak memory', unit: 'MB', value: report.peakMb, lowerIsBetter },
  ];
}

async function measure(builds: readonly Build[], threads: number, traffic: Traffic, results: Results): Promise<void> {
  const bandwidth = new Child(entry('bandwidth.bench'), { node: process.execPath, patienceMs });
  const subjects: Subject[] = [];
  try {
    let info: ModelInfo | undefined;
    for (const build of builds) {
      const child = new Child(entry('subject'), { node: build.node, patienceMs });
      const device = flags.device as NonNullable<SubjectInput['options']['device']>;
      const input: SubjectInput = { dist: build.dist, model, options: { device, threads } };
      subjects.push({ build, input, child });
      info = await child.ask<ModelInfo>({ ask: 'load', with: { ...input } });
      const { name, threads: own, simd, reason } = info.backend;
      console.error(`${build.name}, ${build.runtime}: ${name}, ${simd}, ${own} threads (${reason})`);
    }
    if (!info) return;
    const all = cases(traffic, info);
    for (const c of all) for (const s of subjects) await c.warmUp?.(s);
    for (let repetition = 0; repetition < repetitions; repetition++) {
      const read = await bandwidth.ask<Sample>({ ask: 'bandwidth', with: { threads } });
      const bytesPerSecond = (read.units / read.wallMs) * 1000;
      results.add(threads, '', { benchmark: BANDWIDTH, unit: 'GB/s', value: bytesPerSecond / 1e9, bytesPerSecond });
      const order = repetition % 2 ? subjects.toReversed() : subjects;
      for (const c of all) {
        for (const subject of order) {
          for (const point of await c.run(subject, repetition)) {
            results.add(threads, subject.build.name, point);
            const { benchmark, value, unit } = point;
            const where = `repetition ${repetition + 1}, ${threads} threads, ${subject.build.name}`;
            console.error(`${where}: ${benchmark} ${short(value)} ${unit}`);
          }
        }
      }
    }
  } finally {
    bandwidth.stop();
    for (const { child } of subjects) child.stop();
  }
}

/** Kernels alone, of this source tree. */
function ops(): KernelReport {
  const child = spawnSync(
    process.execPath,
    [entry('ops.bench'), '--formats', flags.formats, '--tiles', '1,4', '--json'],
    {
      encoding: 'utf8',
      timeout: patienceMs,
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  if (child.status !== 0) throw new Error(`ops: the child ended with ${child.signal ?? `status ${child.status}`}`);
  return JSON.parse(child.stdout) as KernelReport;
}

const folders = [join(root, 'dist'), ...flags.vs.map((folder) => resolve(folder))];
const builds = folders.flatMap((dist, i) =>
  flags.node.map((node) => {
    const build = describe(i === 0 ? 'this build' : (flags.vs[i - 1] as string), dist, node);
    return flags.node.length > 1 ? { ...build, name: `${build.name}, ${build.runtime}` } : build;
  }),
);
const where = machine(root);
const traffic = await trafficOf(model);
const results = new Results();
if (only.some((group) => group !== 'ops')) {
  for (const threads of list(flags.threads).map(Number)) await measure(builds, threads, traffic, results);
}
const kernels = only.includes('ops') ? ops() : undefined;

const rows = results.rows(BANDWIDTH);
const [first, ...others] = builds as [Build, ...Build[]];
const comparisons = others.map((other) => ({ against: other.name, ratios: results.ratios(first.name, other.name) }));
if (rows.length > 0) console.log(table(rows));
for (const { against, ratios } of comparisons) console.log(`\n${ratioTable(ratios, first.name, against)}`);
if (kernels) console.log(`\n${kernelTable(kernels)}`);
if (flags.json !== undefined) {
  const record = { machine: where, builds, flags, traffic, rows, comparisons, kernels, series: results.series };
  writeFileSync(flags.json, `${JSON.stringify(record, null, 1)}\n`);
}
