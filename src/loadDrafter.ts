/** What guesses tokens for a model, as its load options ask: a lookup in the text, a smaller model or a head, or both. */

import { EitherDrafter } from './core/engine/drafters.ts';
import { ModelDrafter } from './core/engine/draftModel.ts';
import { HeadDrafter } from './core/engine/headDrafter.ts';
import { LookupDrafter } from './core/engine/lookup.ts';
import type { Drafter } from './core/engine/types.ts';
import { DecoderRunner } from './core/runner.ts';
import { cacheSize, cacheSpecs } from './core/sdk/cacheSize.ts';
import type { LoadOptions, ModelSpec } from './core/sdk/options.ts';
import { sharedIds } from './core/sdk/sharedIds.ts';
import type { ModelText } from './core/sdk/text.ts';
import { loadText } from './loadText.ts';
import { type Home, openDecoder } from './openDecoder.ts';

/**
 * What a further row adds to a step, as a share of a step of one row: on the CPU, where rows of quantized weights cost
 * arithmetic, 0.6 measured with one thread and 0.4 with two; on a GPU, which mostly waits for weights, a guess.
 */
const CPU_PRICE = 0.65;
const REMOTE_PRICE = 0.1;
/** Recurrent models run right tokens again behind a wrong one. */
const RERUN = 1.5;

/** The model that is drafted for. */
interface Target {
  readonly runner: DecoderRunner;
  readonly text: ModelText | undefined;
}

/**
 * The drafter for `target`, or `undefined` when none is asked for. Rejects with `ConfigError` when a draft
 * model does not fit, and with `ModelLoadError` when it cannot be read.
 */
export async function loadDrafter(target: Target, options: LoadOptions, home: Home): Promise<Drafter | undefined> {
  const { mtp, speculation } = options;
  const lookup = speculation?.lookup;
  const draftModel = options.draftModel ?? mtp?.model;
  if (draftModel === undefined && mtp === undefined && !lookup) return undefined;
  const { remote } = await home.backend;
  const rowPrice = (remote ? REMOTE_PRICE : CPU_PRICE) * (target.runner.stateSlots > 0 ? RERUN : 1);
  const text = lookup ? new LookupDrafter({ ...(lookup === true ? {} : lookup), rowPrice }) : undefined;
  if (draftModel === undefined && mtp === undefined) return text;
  const model =
    draftModel === undefined
      ? new HeadDrafter(target.runner, { maxDraft: mtp?.nPredict })
      : await loadModelDrafter(draftModel, target, options, home);
  return text === undefined ? model : new EitherDrafter(text, model);
}

/** Options that name parts of the model itself, or its weights. */
const OF_THE_MODEL = {
  files: undefined,
  fromUqff: undefined,
  hfRevision: undefined,
  isq: undefined,
  autoIsq: undefined,
  mixtureQexpertsIsq: undefined,
  topology: undefined,
  topologyFromPath: undefined,
  imatrix: undefined,
  calibrationFile: undefined,
  anyMoe: undefined,
} satisfies LoadOptions;

async function loadModelDrafter(
  spec: ModelSpec,
  { runner: target, text }: Target,
  options: LoadOptions,
  home: Home,
): Promise<ModelDrafter> {
  const own: LoadOptions = { ...options, ...OF_THE_MODEL };
  const opened = await openDecoder(spec, own, home);
  const { vocab } = opened.decoder;
  const ownText = vocab !== target.vocabSize && text ? await loadText(opened.files, {}, home.platform) : undefined;
  const shared = text && ownText && sharedIds(text.tokenizer, ownText.tokenizer, Math.min(vocab, target.vocabSize));
  await opened.load(own);
  await opened.closeFiles();
  const caches = cacheSpecs(opened.decoder.caches, opened.weights(), own);
  const { maxRows, maxSequences, blocks, blockSize } = target;
  const limits: LoadOptions = {
    maxModelLen: target.contextLength,
    maxNumSeqs: maxSequences,
    maxBatchTokens: maxRows,
    // As many positions as the model itself keeps: in a smaller model they take less memory.
    pagedAttn: { memory: { contextSize: blocks * blockSize } },
  };
  const size = cacheSize(caches, opened.decoder.maxPositions, limits, opened.decoder.states, blockSize);
  const decoder = { ...opened.decoder, caches, maxPositions: size.contextLength };
  const runner = new DecoderRunner(await home.backend, decoder, { ...size, party: target });
  home.releases.add(() => runner.dispose());
  const { vocabSize } = target;
  return new ModelDrafter(runner, {
    vocabSize,
    sharedIds: shared,
    maxDraft: options.mtp?.nPredict ?? options.speculation?.nPredict,
  });
}
