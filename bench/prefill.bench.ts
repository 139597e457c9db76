/** Reading a prompt, to the first token of the answer. */
import type { Model } from '../src/index.ts';
import { generate } from './generate.ts';
import { type Sample, someTokens } from './sample.ts';

export interface PrefillInput {
  readonly tokens: number;
  /** Another prompt for each repetition: nothing of it is in the prefix cache. */
  readonly repetition: number;
}

export async function prefill(model: Model, { tokens, repetition }: PrefillInput): Promise<Sample> {
  const prompt = someTokens(model.config().vocabSize, tokens, 100_000 + repetition);
  const { first, checksum } = await generate(model, [prompt], 1);
  return { units: tokens, ...first, passes: 1, positions: tokens, checksum };
}
