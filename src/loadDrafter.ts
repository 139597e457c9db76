/** What guesses tokens for a model, as its load options ask: a lookup in the text, a smaller model, or both. */

import { EitherDrafter } from './core/engine/drafters.ts';
import { ModelDrafter } from './core/engine/draftModel.ts';
import { LookupDrafter } from './core/engine/lookup.ts';
import type { Drafter } from './core/engine/types.ts';
import { UnsupportedError } from './core/errors.ts';
import { DecoderRunner } from './core/runner.ts';
import { cacheSize, cacheSpecs } from './core/sdk/cacheSize.ts';
import type { LoadOptions, ModelSpec } from './core/sdk/options.ts';
import { type Home, openDecoder } from './openDecoder.ts';

/**
 * The drafter for `target`, or `undefined` when none is asked for. Rejects with `UnsupportedError` beside a recurrent model,
 * `ConfigError` when a draft model does not fit, and `ModelLoadError` when it cannot be read.
 */
export async function loadDrafter(
  target: DecoderRunner,
  options: LoadOptions,
  home: Home,
): Promise<Drafter | undefined> {
  const { draftModel, speculation } = options;
  const lookup = speculation?.lookup;
  if (draftModel === undefined && !lookup) return undefined;
  if (target.stateSlots > 0) {
    throw new UnsupportedError(
      'speculation: expected a model without recurrent layers, whose states cannot go back; load this one without draftModel and speculation.lookup',
      { feature: 'speculation' },
    );
  }
  const text = lookup ? new LookupDrafter(lookup === true ? {} : lookup) : undefined;
  if (draftModel === undefined) return text;
  const model = await loadModelDrafter(draftModel, target, options, home);
  return text === undefined ? model : new EitherDrafter(text, model);
}

/** Options that name parts of the model itself, or its weights. */
const OF_THE_MODEL = {
  files: undefined,
  hfRevision: undefined,
  isq: undefined,
  autoIsq: undefined,
  mixtureQexpertsIsq: undefined,
  topology: undefined,
  topologyFromPath: undefined,
  imatrix: undefined,
} satisfies LoadOptions;

async function loadModelDrafter(
  spec: ModelSpec,
  target: DecoderRunner,
  options: LoadOptions,
  home: Home,
): Promise<ModelDrafter> {
  const own: LoadOptions = { ...options, ...OF_THE_MODEL };
  const opened = await openDecoder(spec, own, home);
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
  const runner = new DecoderRunner(await home.backend, decoder, size);
  home.releases.add(() => runner.dispose());
  return new ModelDrafter(runner, { vocabSize: target.vocabSize, maxDraft: options.speculation?.nPredict });
}
