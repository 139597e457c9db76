/** `tramontane bench --prompts FILE`: one run of a comparison between engines; its last line is the result. */
import { UnsupportedError } from '../core/errors.ts';
import type { Model } from '../core/sdk/model.ts';
import { EMBEDDED_MODEL, loadModel } from '../index.ts';
import { type BenchFlags, peakMb } from './bench.ts';
import { benchServing } from './benchServing.ts';
import { loadOptions } from './flags.ts';
import { decodeTogether, generate, median, prefill, sinceProcessStart } from './measure.ts';

interface Prompts {
  readonly short: string;
  /** One for each repetition, so that no prefix cache helps. */
  readonly long: readonly string[];
  readonly batch: readonly string[];
}

/** Of a long prompt: what goes through every engine as one batch. */
const PREFILL_TOKENS = 512;
/** Tokens listed in the result, to compare engines by. */
const LISTED_TOKENS = 32;

export async function benchPrompts(flags: BenchFlags, file: string): Promise<void> {
  if (flags.task !== 'gen') {
    throw new UnsupportedError(`--task: expected gen, got ${flags.task}`, { feature: `bench --task ${flags.task}` });
  }
  // The model is on its way while the prompts are read.
  const serving = flags.serving.length > 0;
  const loading = loadModel(flags.model ?? EMBEDDED_MODEL.name, {
    ...loadOptions(flags),
    ...(serving ? { maxNumSeqs: Math.max(...flags.serving) } : { prefixCacheN: 0 }),
  });
  loading.catch(() => undefined);
  const { readFile } = await import('node:fs/promises');
  const prompts = JSON.parse(await readFile(file, 'utf8')) as Prompts;
  const model = await loading;
  try {
    if (serving) {
      const text = await textOf(model, prompts);
      const input = { levels: flags.serving, prompts: flags.servingPrompts, decode: flags.decode };
      // An odd step, so that starts differ for as long as the text is long.
      const result = await benchServing(model, input, (start, length) => around(text, 37 * start, length));
      emit(model, result);
      return;
    }
    const short = await model.tokenize(prompts.short);
    const submitted = sinceProcessStart();
    const first = await generate(model, short, flags.decode);
    const ttft_s = submitted + first.firstMs / 1000;
    const decode = [first];
    for (let k = 1; k < flags.reps; k++) decode.push(await generate(model, short, flags.decode));
    const fill: Awaited<ReturnType<typeof prefill>>[] = [];
    let promptTokens = 0;
    for (let k = 0; k < flags.reps; k++) {
      const long = (await model.tokenize(prompts.long[k % prompts.long.length] as string)).subarray(0, PREFILL_TOKENS);
      promptTokens = long.length;
      fill.push(await prefill(model, long));
    }
    const context: Record<string, number> = {};
    const contextCpu: Record<string, number> = {};
    for (const n of flags.contexts) {
      const prompt = around(await textOf(model, prompts), 0, n);
      const { decodeTps, decodeCpuTps } = await generate(model, prompt, flags.decode);
      [context[n], contextCpu[n]] = [decodeTps, decodeCpuTps];
    }
    const batch: Record<string, number> = {};
    for (const n of flags.batch) {
      const ids = await Promise.all(prompts.batch.slice(0, n).map((text) => model.tokenize(text)));
      batch[n] = await decodeTogether(model, ids, flags.batchDecode);
    }
    emit(model, {
      decode_tps: median(decode.map((d) => d.decodeTps)),
      decode_cpu_tps: median(decode.map((d) => d.decodeCpuTps)),
      prefill_tps: median(fill.map((f) => f.tps)),
      prefill_cpu_tps: median(fill.map((f) => f.cpuTps)),
      ttft_s,
      context,
      context_cpu: contextCpu,
      batch,
      prompt_tokens: promptTokens,
      text: first.text,
      tokens: first.tokens.slice(0, LISTED_TOKENS),
    });
  } finally {
    await model.dispose();
  }
}

function emit(model: Model, figures: object): void {
  const { name: backend, threads, simd } = model.config().backend;
  const result = { peer: 'tramontane', ...figures, rss_mb: peakMb(), threads, backend, simd };
  process.stdout.write(`\n${JSON.stringify(result)}\n`);
}

/** The long prompts one after another. */
async function textOf(model: Model, { long }: Prompts): Promise<number[]> {
  return (await Promise.all(long.map((text) => model.tokenize(text)))).flatMap((part) => [...part]);
}

/** Tokens from `start` on, over and over. */
function around(text: readonly number[], start: number, length: number): Uint32Array {
  return Uint32Array.from({ length }, (_, i) => text[(start + i) % text.length] as number);
}
