/** Timed generations. */
import type { Model } from '../core/sdk/model.ts';
import type { SamplingParams } from '../core/sdk/request.ts';

export interface Timed {
  readonly tokens: readonly number[];
  readonly text: string;
  /** Milliseconds from submission to the first token. */
  readonly firstMs: number;
  /** Tokens after the first chunk / (time from first to last chunk). */
  readonly decodeTps: number;
  /** The same per second of CPU time of all threads. */
  readonly decodeCpuTps: number;
}

/** Greedy, and never ended by the model. */
const forced = (maxLen: number): SamplingParams => ({ topK: 1, ignoreEos: true, maxLen });

export async function generate(model: Model, prompt: Uint32Array, maxLen: number): Promise<Timed> {
  const start = performance.now();
  let first = start;
  let firstCpu = 0;
  let firstTokens = 0;
  let last = start;
  let lastCpu = 0;
  const tokens: number[] = [];
  let text = '';
  for await (const { choices } of model.streamComplete(prompt, { sampling: forced(maxLen), logprobs: false })) {
    const [choice] = choices;
    if (!choice) continue;
    text += choice.text;
    tokens.push(...choice.tokenIds);
    if (choice.tokenIds.length === 0) continue;
    [last, lastCpu] = [performance.now(), cpuMs()];
    if (first === start) [first, firstCpu, firstTokens] = [last, lastCpu, tokens.length];
  }
  const rate = (ms: number) => (tokens.length - firstTokens) / (ms / 1000);
  return {
    tokens,
    text,
    firstMs: first - start,
    decodeTps: rate(last - first),
    decodeCpuTps: rate(lastCpu - firstCpu),
  };
}

/** Prompt tokens per second, to the first token: of time, and of CPU time of all threads. */
export async function prefill(
  model: Model,
  prompt: Uint32Array,
): Promise<{ readonly tps: number; readonly cpuTps: number }> {
  const start = cpuMs();
  const { usage } = await model.complete(prompt, { sampling: forced(1) });
  return { tps: prompt.length / usage.totalPromptTimeSec, cpuTps: prompt.length / ((cpuMs() - start) / 1000) };
}

/** CPU time of all threads of this process. */
export function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** Tokens per second of several sequences, from when all have their first token to the end of the last. */
export async function decodeTogether(model: Model, prompts: readonly Uint32Array[], maxLen: number): Promise<number> {
  const arrivals: { readonly at: number; readonly tokens: number }[] = [];
  const firsts: number[] = [];
  await Promise.all(
    prompts.map(async (prompt) => {
      let seen = false;
      for await (const { choices } of model.streamComplete(prompt, { sampling: forced(maxLen) })) {
        const tokens = choices[0]?.tokenIds.length ?? 0;
        const at = performance.now();
        if (!seen) firsts.push(at);
        else arrivals.push({ at, tokens });
        seen = true;
      }
    }),
  );
  const start = Math.max(...firsts);
  const counted = arrivals.filter((a) => a.at > start);
  const end = Math.max(...counted.map((a) => a.at));
  return counted.reduce((n, a) => n + a.tokens, 0) / ((end - start) / 1000);
}

export function median(values: readonly number[]): number {
  const s = [...values].filter((x) => !Number.isNaN(x)).sort((a, b) => a - b);
  const mid = s.length >> 1;
  return s.length % 2 === 1 ? (s[mid] as number) : ((s[mid - 1] as number) + (s[mid] as number)) / 2;
}

/** Seconds since the process was spawned; a harness that spawned it may say when, in `BENCH_T0_MS`. */
export function sinceProcessStart(): number {
  const start = Number(process.env['BENCH_T0_MS'] ?? performance.timeOrigin);
  return (performance.timeOrigin + performance.now() - start) / 1000;
}
