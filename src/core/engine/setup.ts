/** From a request to what its choices need: samplers, texts, stop ids. */
import type { Choice } from './run.ts';
import { Sampler, type SamplerWorkspace } from './sampler.ts';
import { OutputText } from './stop.ts';
import type { GenerationRequest, SamplingParams } from './types.ts';

export interface ChoiceSetup {
  readonly count: number;
  readonly vocabSize: number;
  readonly workspace: SamplerWorkspace;
  /** For requests that bring no seed. */
  readonly seed: number;
}

export function prepareChoices(request: GenerationRequest, sampling: SamplingParams, setup: ChoiceSetup): Choice[] {
  const { stopToks } = sampling;
  return Array.from({ length: setup.count }, (_, stream) => ({
    sampler: new Sampler(sampling, {
      vocabSize: setup.vocabSize,
      workspace: setup.workspace,
      seed: request.seed ?? setup.seed,
      stream,
      breakers: request.dryBreakers,
      processors: request.logitsProcessors,
    }),
    output: new OutputText({
      decoder: request.createDecoder?.(),
      stops: stopToks !== undefined && 'seqs' in stopToks ? stopToks.seqs : [],
      trimStart: request.trimStart ?? true,
    }),
  }));
}

/** Ids that end a choice: end tokens unless they are ignored, and explicit ones. */
export function stopIds(request: GenerationRequest, sampling: SamplingParams, eosIds: readonly number[]): Set<number> {
  const { stopToks } = sampling;
  const ids = new Set(sampling.ignoreEos ? [] : eosIds);
  for (const id of request.stopIds ?? []) ids.add(id);
  if (stopToks !== undefined && 'ids' in stopToks) for (const id of stopToks.ids) ids.add(id);
  return ids;
}
