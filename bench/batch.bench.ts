/** Decoding of several sequences together. */
import type { Model } from '../src/index.ts';
import { generate } from './generate.ts';
import { type Sample, someTokens } from './sample.ts';

export interface BatchInput {
  readonly sequences: number;
  readonly tokens: number;
}

const PROMPT_TOKENS = 32;

export async function batch(model: Model, { sequences, tokens }: BatchInput): Promise<Sample> {
  const { vocabSize } = model.config();
  const prompts = Array.from({ length: sequences }, (_, i) => someTokens(vocabSize, PROMPT_TOKENS, 1000 + i));
  const { rest, restTokens, checksum } = await generate(model, prompts, tokens);
  const passes = restTokens / sequences;
  const positions = restTokens * (PROMPT_TOKENS + 1 + passes / 2);
  return { units: restTokens, ...rest, passes, positions, checksum };
}
