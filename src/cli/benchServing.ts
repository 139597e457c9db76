/** `tramontane bench --prompts FILE --serving 1,8`: many requests, some of them at a time. */
import type { Model } from '../core/sdk/model.ts';
import { cpuMs, generate, median } from './measure.ts';

/** Requests of one level; more where more run at a time. */
const REQUESTS = 8;
const PREFIX_TOKENS = 512;
const PREFIX_ROUNDS = 3;

export interface ServingInput {
  /** How many requests run at a time. */
  readonly levels: readonly number[];
  /** Lengths of prompts, in turn. */
  readonly prompts: readonly number[];
  /** Tokens of each answer. */
  readonly decode: number;
}

type Rates = Record<string, number>;

/** Figures by level. */
export interface ServingResult {
  /** Tokens of prompts and answers per second, from the first request to the last token. */
  readonly serving: Rates;
  /** The same per second of CPU time of all threads. */
  readonly serving_cpu: Rates;
  /** Milliseconds of one step of the engine. */
  readonly serving_step_ms: Rates;
  /** How many times sooner the first token comes where the prompt was read before. */
  readonly prefix_speedup: number;
}

/** `promptAt(start, length)`: tokens of a text that differ for every start. */
export async function benchServing(
  model: Model,
  { levels, prompts, decode }: ServingInput,
  promptAt: (start: number, length: number) => Uint32Array,
): Promise<ServingResult> {
  const [serving, serving_cpu, serving_step_ms]: [Rates, Rates, Rates] = [{}, {}, {}];
  let start = 0;
  // A first request alone, for what is compiled on the way.
  await generate(model, promptAt(start++, prompts[0] as number), decode);
  for (const level of levels) {
    const requests = Array.from({ length: Math.max(REQUESTS, level) }, (_, i) =>
      promptAt(start++, prompts[i % prompts.length] as number),
    );
    const tokens = requests.reduce((n, prompt) => n + prompt.length + decode, 0);
    const { steps } = model.engineStats();
    const [began, beganCpu] = [performance.now(), cpuMs()];
    await serve(model, requests, level, decode);
    const [ms, cpu] = [performance.now() - began, cpuMs() - beganCpu];
    serving[level] = (1000 * tokens) / ms;
    serving_cpu[level] = (1000 * tokens) / cpu;
    serving_step_ms[level] = ms / (model.engineStats().steps - steps);
  }
  const speedups: number[] = [];
  for (let i = 0; i < PREFIX_ROUNDS; i++) {
    const prompt = promptAt(start++, PREFIX_TOKENS);
    const cold = await generate(model, prompt, 1);
    speedups.push(cold.firstMs / (await generate(model, prompt, 1)).firstMs);
  }
  return { serving, serving_cpu, serving_step_ms, prefix_speedup: median(speedups) };
}

/** So many requests at a time, the next one when one has ended. */
async function serve(model: Model, requests: readonly Uint32Array[], atATime: number, decode: number): Promise<void> {
  const waiting = requests.values();
  await Promise.all(
    Array.from({ length: atATime }, async () => {
      for (const prompt of waiting) await generate(model, prompt, decode);
    }),
  );
}
