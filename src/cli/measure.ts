/** Timed generations. */
import type { Model } from '../core/sdk/model.ts';
import type { SamplingParams } from '../core/sdk/request.ts';

export interface Timed {
  readonly tokens: readonly number[];
  readonly text: string;
  /** Milliseconds from submission to the first token. */
  readonly firstMs: number;
  /** (n − 1) / (time from first to last token). */
  readonly decodeTps: number;
}

/** Greedy, and never ended by the model. */
const forced = (maxLen: number): SamplingParams => ({ topK: 1, ignoreEos: true, maxLen });

export async function generate(model: Model, prompt: Uint32Array, maxLen: number): Promise<Timed> {
  const start = performance.now();
  const times: number[] = [];
  const tokens: number[] = [];
  let text = '';
  for await (const { choices } of model.streamComplete(prompt, { sampling: forced(maxLen), logprobs: false })) {
    const [choice] = choices;
    if (!choice) continue;
    text += choice.text;
    tokens.push(...choice.tokenIds);
    if (choice.tokenIds.length > 0) times.push(performance.now());
  }
  const [first = start, last = start] = [times[0], times.at(-1)];
  return { tokens, text, firstMs: first - start, decodeTps: (tokens.length - 1) / ((last - first) / 1000) };
}

/** Prompt tokens per second, to the first token. */
export async function prefill(model: Model, prompt: Uint32Array): Promise<number> {
  const { usage } = await model.complete(prompt, { sampling: forced(1) });
  return prompt.length / usage.totalPromptTimeSec;
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
