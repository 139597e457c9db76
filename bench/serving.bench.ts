/** Requests as a server gets them: prompts of mixed lengths at once, and a prompt that was there before. */
import type { Model } from '../src/index.ts';
import { generate } from './generate.ts';
import { type Sample, someTokens } from './sample.ts';

/** Lengths of prompts, in turn. */
export const PROMPT_LENGTHS = [24, 180, 48, 400, 12, 96, 260, 32];

export interface ServingInput {
  readonly requests: number;
  readonly tokens: number;
  /** Other prompts for each repetition: nothing of them is in the prefix cache. */
  readonly repetition: number;
}

/** Tokens of all prompts and answers, from the first request to the last token. */
export async function serving(model: Model, { requests, tokens, repetition }: ServingInput): Promise<Sample> {
  const { vocabSize } = model.config();
  const prompts = Array.from({ length: requests }, (_, i) =>
    someTokens(vocabSize, PROMPT_LENGTHS[i % PROMPT_LENGTHS.length]!, 200_000 + 1000 * (repetition + 1) + i),
  );
  const { first, rest, checksum } = await generate(model, prompts, tokens);
  const units = prompts.reduce((n, prompt) => n + prompt.length + tokens, 0);
  return { units, wallMs: first.wallMs + rest.wallMs, cpuMs: first.cpuMs + rest.cpuMs, checksum };
}

export interface RepeatedInput {
  readonly tokens: number;
  readonly repetition: number;
}

/** To the first token of an answer whose prompt has been read before. */
export async function repeated(model: Model, { tokens, repetition }: RepeatedInput): Promise<Sample> {
  const prompt = someTokens(model.config().vocabSize, tokens, 300_000 + repetition);
  await generate(model, [prompt], 1);
  const { first, checksum } = await generate(model, [prompt], 1);
  return { units: tokens, ...first, checksum };
}
