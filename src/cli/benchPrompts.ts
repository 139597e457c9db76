/** `tramontane bench --prompts FILE`: one run of a comparison between engines; its last line is the result. */
import { UnsupportedError } from '../core/errors.ts';
import { EMBEDDED_MODEL, loadModel } from '../index.ts';
import { type BenchFlags, peakMb } from './bench.ts';
import { loadOptions } from './flags.ts';
import { decodeTogether, generate, median, prefill, sinceProcessStart } from './measure.ts';

interface Prompts {
  readonly short: string;
  /** One for each repetition, so that no prefix cache helps. */
  readonly long: readonly string[];
  readonly batch: readonly string[];
}

/** Tokens listed in the result, to compare engines by. */
const LISTED_TOKENS = 32;

export async function benchPrompts(flags: BenchFlags, file: string): Promise<void> {
  if (flags.task !== 'gen') {
    throw new UnsupportedError(`--task: expected gen, got ${flags.task}`, { feature: `bench --task ${flags.task}` });
  }
  // The model is on its way while the prompts are read.
  const loading = loadModel(flags.model ?? EMBEDDED_MODEL.name, { ...loadOptions(flags), prefixCacheN: 0 });
  loading.catch(() => undefined);
  const { readFile } = await import('node:fs/promises');
  const prompts = JSON.parse(await readFile(file, 'utf8')) as Prompts;
  const model = await loading;
  try {
    const short = await model.tokenize(prompts.short);
    const submitted = sinceProcessStart();
    const first = await generate(model, short, flags.decode);
    const ttft_s = submitted + first.firstMs / 1000;
    const decode = [first.decodeTps];
    for (let k = 1; k < flags.reps; k++) decode.push((await generate(model, short, flags.decode)).decodeTps);
    const fill: number[] = [];
    let promptTokens = 0;
    for (let k = 0; k < flags.reps; k++) {
      const long = await model.tokenize(prompts.long[k % prompts.long.length] as string);
      promptTokens = long.length;
      fill.push(await prefill(model, long));
    }
    const batch: Record<string, number> = {};
    for (const n of flags.batch) {
      const ids = await Promise.all(prompts.batch.slice(0, n).map((text) => model.tokenize(text)));
      batch[n] = await decodeTogether(model, ids, flags.batchDecode);
    }
    const { name: backend, threads, simd } = model.config().backend;
    const result = {
      peer: 'tramontane',
      decode_tps: median(decode),
      prefill_tps: median(fill),
      ttft_s,
      rss_mb: peakMb(),
      batch,
      prompt_tokens: promptTokens,
      text: first.text,
      tokens: first.tokens.slice(0, LISTED_TOKENS),
      threads,
      backend,
      simd,
    };
    process.stdout.write(`\n${JSON.stringify(result)}\n`);
  } finally {
    await model.dispose();
  }
}
