/** When things happened to one request, in milliseconds of the engine's clock. */
import type { Usage } from './types.ts';

export class Timing {
  readonly #submitted: number;
  #started: number | undefined;
  #firstToken: number | undefined;

  constructor(submitted: number) {
    this.#submitted = submitted;
  }

  /** A step that runs a token of the request begins. */
  start(at: number): void {
    this.#started ??= at;
  }

  /** A token was chosen. */
  token(at: number): void {
    this.#firstToken ??= at;
  }

  usage(promptTokens: number, completionTokens: number, end: number): Usage {
    const started = this.#started ?? end;
    const firstToken = this.#firstToken ?? end;
    const total = (end - this.#submitted) / 1000;
    const prompt = (firstToken - started) / 1000;
    const completion = (end - firstToken) / 1000;
    return {
      completionTokens,
      promptTokens,
      totalTokens: promptTokens + completionTokens,
      avgTokPerSec: rate(promptTokens + completionTokens, total),
      avgPromptTokPerSec: rate(promptTokens, prompt),
      avgComplTokPerSec: rate(completionTokens, completion),
      totalTimeSec: total,
      totalPromptTimeSec: prompt,
      totalCompletionTimeSec: completion,
    };
  }
}

function rate(tokens: number, seconds: number): number {
  return seconds > 0 ? tokens / seconds : 0;
}
