/** `tramontane bench`: what a user feels, as numbers. */
import type { Model } from '../core/sdk/model.ts';
import { EMBEDDED_MODEL, loadModel } from '../index.ts';
import { loadOptions } from './flags.ts';
import { decodeTogether, generate, median, prefill, sinceProcessStart } from './measure.ts';
import type { PerplexityFlags } from './perplexity.ts';
import { table } from './terminal.ts';
import { commit } from './version.ts';

export interface BenchFlags extends PerplexityFlags {
  readonly prompt: number;
  readonly gen: number;
  readonly parallel: number;
  readonly reps: number;
  readonly perplexity?: string;
  readonly prompts?: string;
  readonly decode: number;
  readonly batch: readonly number[];
  readonly batchDecode: number;
  readonly contexts: readonly number[];
  readonly serving: readonly number[];
  readonly servingPrompts: readonly number[];
  readonly task: string;
}

/** The object of `bench --json`. Rates are tokens per second, for all sequences together. */
export interface BenchReport {
  readonly decode_tps: number;
  readonly prefill_tps: number;
  /** From process start to the first token. */
  readonly ttft_s: number;
  readonly load_s: number;
  readonly rss_mb: number;
  readonly threads: number;
  readonly backend: string;
  readonly simd: string;
  readonly model: string;
  readonly commit: string;
}

/** Prompt of the first token: short, as a chat's first question is. */
const FIRST_PROMPT = 'Once upon a time';

export async function bench(flags: BenchFlags): Promise<void> {
  if (flags.perplexity !== undefined) {
    const { perplexity } = await import('./perplexity.ts');
    await perplexity(flags, flags.perplexity);
    return;
  }
  if (flags.prompts !== undefined) {
    const { benchPrompts } = await import('./benchPrompts.ts');
    await benchPrompts(flags, flags.prompts);
    return;
  }
  const report = await measure(flags);
  process.stdout.write(flags.json ? `${JSON.stringify(report)}\n` : `${reportTable(report)}\n`);
}

async function measure(flags: BenchFlags): Promise<BenchReport> {
  const started = performance.now();
  const name = flags.model ?? EMBEDDED_MODEL.name;
  const loaded = await loadModel(name, { ...loadOptions(flags), prefixCacheN: 0 });
  const load_s = (performance.now() - started) / 1000;
  try {
    const first = await firstToken(loaded);
    const decode: number[] = [];
    const fill: number[] = [];
    for (let rep = 0; rep < flags.reps; rep++) {
      const prompts = Array.from({ length: flags.parallel }, (_, i) => somePrompt(loaded, 16, rep * 131 + i));
      decode.push(
        flags.parallel === 1
          ? (await generate(loaded, prompts[0] as Uint32Array, flags.gen)).decodeTps
          : await decodeTogether(loaded, prompts, flags.gen),
      );
      fill.push((await prefill(loaded, somePrompt(loaded, flags.prompt, 7919 + rep))).tps);
    }
    const ttft = [first, ...(await otherStarts(flags))];
    const { name: backend, threads, simd } = loaded.config().backend;
    return {
      decode_tps: median(decode),
      prefill_tps: median(fill),
      ttft_s: median(ttft),
      load_s,
      rss_mb: peakMb(),
      threads,
      backend,
      simd,
      model: name,
      commit,
    };
  } finally {
    await loaded.dispose();
  }
}

/** Seconds from the start of this process to its first token. */
async function firstToken(model: Model): Promise<number> {
  const prompt = model.config().hasTokenizer ? await model.tokenize(FIRST_PROMPT) : Uint32Array.of(1, 2, 3, 4);
  let at = Number.NaN;
  for await (const _ of model.streamComplete(prompt, { sampling: { topK: 1, maxLen: 1, ignoreEos: true } })) {
    at = sinceProcessStart();
    break;
  }
  return at;
}

/** The same from two fresh processes, so that there is a median. */
async function otherStarts(flags: BenchFlags): Promise<number[]> {
  const script = process.argv[1];
  if (script === undefined || process.env['TRAMONTANE_BENCH_CHILD'] !== undefined) return [];
  const { spawnSync } = await import('node:child_process');
  const args = process.argv.slice(2).filter((a) => a !== '--json');
  const times: number[] = [];
  for (let i = 1; i < Math.min(flags.reps, 3); i++) {
    const child = spawnSync(
      process.execPath,
      [...process.execArgv, script, ...args, '--json', '--reps', '1', '--prompt', '1', '--gen', '2', '--parallel', '1'],
      {
        env: { ...process.env, TRAMONTANE_BENCH_CHILD: '1', BENCH_T0_MS: String(Date.now()) },
        encoding: 'utf8',
      },
    );
    const line = child.stdout.trim().split('\n').at(-1);
    if (child.status === 0 && line) times.push((JSON.parse(line) as BenchReport).ttft_s);
  }
  return times;
}

/** Ids that make a prompt of a given length; different seeds share no beginning. */
export function somePrompt(model: Model, length: number, seed: number): Uint32Array {
  const ids = new Uint32Array(length);
  const { vocabSize } = model.config();
  let x = seed + 1;
  for (let i = 0; i < length; i++) {
    x = (Math.imul(x, 1103515245) + 12345) >>> 0;
    ids[i] = x % vocabSize;
  }
  return ids;
}

export function peakMb(): number {
  // Kilobytes in every runtime that has the call.
  return process.resourceUsage().maxRSS / 1024;
}

function reportTable(r: BenchReport): string {
  const digits = (x: number, n: number) => x.toFixed(n);
  return table([
    ['model', r.model],
    ['backend', `${r.backend}, ${r.simd}, ${r.threads} ${r.threads === 1 ? 'thread' : 'threads'}`],
    ['decode', `${digits(r.decode_tps, 1)} tokens/s`],
    ['prefill', `${digits(r.prefill_tps, 1)} tokens/s`],
    ['first token', `${digits(r.ttft_s, 3)} s after process start`],
    ['load', `${digits(r.load_s, 3)} s`],
    ['peak memory', `${digits(r.rss_mb, 0)} MB`],
    ['commit', r.commit],
  ]);
}
