/** `tramontane bench --perplexity FILE`: how well a model foretells a text, and how far it is from a reference model. */
import { ConfigError } from '../core/errors.ts';
import type { Model } from '../core/sdk/model.ts';
import type { LoadOptions, PerplexityReport, PerplexitySummary } from '../index.ts';
import { EMBEDDED_MODEL, loadModel, measurePerplexity } from '../index.ts';
import type { ModelFlags } from './flags.ts';
import { loadOptions } from './flags.ts';
import { table } from './terminal.ts';
import { commit } from './version.ts';

export interface PerplexityFlags extends ModelFlags {
  readonly json?: boolean;
  readonly chunk?: number;
  readonly stride?: number;
  readonly maxChunks?: number;
  /** `auto`, `none` or a token id. */
  readonly bos: string;
  readonly reference?: string;
  readonly referenceIsq?: string;
}

export async function perplexity(flags: PerplexityFlags, file: string): Promise<void> {
  const { readFile } = await import('node:fs/promises');
  const text = await readFile(file, 'utf8');
  const name = flags.model ?? EMBEDDED_MODEL.name;
  await using models = new Loaded();
  const model = await models.load(name, loadOptions(flags));
  const ids = await model.tokenize(text, { addSpecialTokens: false });
  const reference = flags.reference === undefined ? undefined : await models.load(...referenceOf(flags, name));
  if (reference) await checkSameTokens(reference, text, ids);
  const prefix = await prefixOf(model, flags.bos);
  const live = process.stderr.isTTY && !flags.json;
  const report = await measurePerplexity(model, ids, {
    chunk: flags.chunk,
    stride: flags.stride,
    maxWindows: flags.maxChunks,
    prefix,
    reference,
    onWindow: live
      ? (w, done, all) =>
          process.stderr.write(`chunk ${done}/${all}: ${w.count} tokens, perplexity ${w.perplexity.toFixed(4)}\n`)
      : undefined,
  });
  process.stdout.write(
    flags.json
      ? `${JSON.stringify({ ...head(flags, model, file, prefix), ...jsonOf(report) })}\n`
      : `${tableOf(report)}\n`,
  );
}

/** Models that are disposed together, the last one first. */
class Loaded implements AsyncDisposable {
  readonly #models: Model[] = [];

  async load(name: string, options: LoadOptions): Promise<Model> {
    const model = await loadModel(name, { ...options, maxNumSeqs: 1, prefixCacheN: 0 });
    this.#models.push(model);
    return model;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const model of this.#models.reverse()) await model.dispose();
  }
}

/** The reference runs where the model does. Files are named for the model; they are meant for the reference if it is the same. */
function referenceOf(flags: PerplexityFlags, model: string): Parameters<Loaded['load']> {
  const { threads, device, adapter, simd, dtype, file, reference = model } = flags;
  const isq = flags.referenceIsq;
  const options = { threads, device, adapter, simd, dtype, isq, ...(reference === model && { file }) };
  return [reference, loadOptions(options as ModelFlags)];
}

async function checkSameTokens(reference: Model, text: string, ids: Uint32Array): Promise<void> {
  const others = await reference.tokenize(text, { addSpecialTokens: false });
  if (others.length === ids.length && others.every((id, i) => id === ids[i])) return;
  throw new ConfigError('--reference: expected a model with the same tokens, got one that cuts the text otherwise');
}

/** What stands before every window. `auto`: what the tokenizer puts before a text. */
export async function prefixOf(model: Model, bos: string): Promise<Uint32Array> {
  if (bos === 'none') return new Uint32Array(0);
  if (bos === 'auto') {
    const sample = 'a';
    const [bare, full] = [
      await model.tokenize(sample, { addSpecialTokens: false }),
      await model.tokenize(sample, { addSpecialTokens: true }),
    ];
    return full.subarray(0, Math.max(0, full.indexOf(bare[0] as number)));
  }
  const id = /^\d+$/.test(bos) ? Number(bos) : Number.NaN;
  if (id < model.config().vocabSize) return Uint32Array.of(id);
  throw new ConfigError(`--bos: expected auto, none or a token id below ${model.config().vocabSize}, got ${bos}`);
}

function head(flags: PerplexityFlags, model: Model, file: string, prefix: Uint32Array) {
  const { name: backend, threads, simd } = model.config().backend;
  return {
    ...{ file, model: flags.model ?? EMBEDDED_MODEL.name, isq: flags.isq, reference_model: flags.reference },
    ...{ reference_isq: flags.referenceIsq, bos: [...prefix], backend, threads, simd, commit },
  };
}

function jsonOf(report: PerplexityReport) {
  const { windows, tokensPerSecond, seconds, reference, divergence } = report;
  const summary = ({ count, loss, lossError, perplexity, perplexityError }: PerplexitySummary) => ({
    ...{ count, loss, loss_error: lossError, perplexity, perplexity_error: perplexityError },
  });
  return {
    ...summary(report),
    ...{ tokens_per_second: tokensPerSecond, seconds, chunks: windows },
    ...(reference && { reference: summary(reference) }),
    ...(divergence && {
      divergence: {
        ...{ count: divergence.count, mean: divergence.mean, mean_error: divergence.meanError },
        ...{ median: divergence.median, p99: divergence.p99, max: divergence.max },
        ...{ same_top: divergence.sameTop, rms_delta_p: divergence.rmsDeltaP },
      },
    }),
  };
}

function tableOf(report: PerplexityReport): string {
  const { count, tokensPerSecond, reference, divergence } = report;
  const measured = ({ perplexity: value, perplexityError }: PerplexitySummary) =>
    `${value.toFixed(4)} ± ${perplexityError.toFixed(4)}`;
  const percent = (share: number) => `${(100 * share).toFixed(2)} %`;
  return table([
    ['perplexity', measured(report)],
    ...(reference ? [['of the reference', measured(reference)]] : []),
    ['tokens foretold', `${count}`],
    ['speed', `${tokensPerSecond.toFixed(1)} tokens/s`],
    ...(divergence
      ? [
          ['divergence, mean', `${divergence.mean.toFixed(6)} ± ${divergence.meanError.toFixed(6)} nats`],
          ['divergence, median', divergence.median.toFixed(6)],
          ['divergence, 99 %', divergence.p99.toFixed(6)],
          ['divergence, largest', divergence.max.toFixed(6)],
          ['same first choice', percent(divergence.sameTop)],
          ['RMS of Δp', percent(divergence.rmsDeltaP)],
        ]
      : []),
  ]);
}
