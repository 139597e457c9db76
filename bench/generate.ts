/** Greedy generation of one or several sequences, timed as its readers see it. */
import type { Model } from '../src/index.ts';
import { between, type Moment, now } from './sample.ts';

export interface Generation {
  /** From submission until every sequence has its first token. */
  readonly first: Moment;
  /** From there to the last token. */
  readonly rest: Moment;
  /** Tokens that came in `rest`. */
  readonly restTokens: number;
  readonly checksum: number;
}

export async function generate(model: Model, prompts: readonly Uint32Array[], maxLen: number): Promise<Generation> {
  const start = now();
  let waiting = prompts.length;
  let allStarted = start;
  let last = start;
  let restTokens = 0;
  let checksum = 0;
  const read = async (prompt: Uint32Array) => {
    let started = false;
    for await (const { choices } of model.streamComplete(prompt, { sampling: { topK: 1, ignoreEos: true, maxLen } })) {
      const ids = choices[0]?.tokenIds;
      if (!ids || ids.length === 0) continue;
      for (const id of ids) checksum = (Math.imul(checksum, 31) + id) >>> 0;
      last = now();
      if (started && waiting === 0) restTokens += ids.length;
      if (!started && --waiting === 0) allStarted = last;
      started = true;
    }
  };
  await Promise.all(prompts.map(read));
  return { first: between(start, allStarted), rest: between(allStarted, last), restTokens, checksum };
}
