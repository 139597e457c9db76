/** Decoding of one sequence behind a context of some length. */
import type { Model } from '../src/index.ts';
import { generate } from './generate.ts';
import { type Sample, someTokens } from './sample.ts';

export interface DecodeInput {
  readonly context: number;
  readonly tokens: number;
}

export async function decode(model: Model, { context, tokens }: DecodeInput): Promise<Sample> {
  // The same prompt every time: from the second time on it is found in the prefix cache, and only decoding is left to do.
  const prompt = someTokens(model.config().vocabSize, context, context);
  const { rest, restTokens, checksum } = await generate(model, [prompt], tokens);
  const positions = restTokens * (context + 1 + restTokens / 2);
  return { units: restTokens, ...rest, passes: restTokens, positions, checksum };
}
