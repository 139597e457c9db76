/** Log-probabilities of the distribution before any filter. */
import type { TokenLogprobs, TopLogprob } from '../types.ts';
import { type Candidates, selectTop } from './select.ts';

/** Of `token` and of the `topCount` most likely tokens. `logSum` is `ln Σ e^((logit - max) / temperature)`. */
export function tokenLogprobs(
  logits: Float32Array,
  max: number,
  temperature: number,
  logSum: number,
  token: number,
  topCount: number,
  scratch: Candidates,
): TokenLogprobs {
  const top: TopLogprob[] = [];
  if (topCount > 0) {
    selectTop(logits, Math.min(topCount, logits.length), scratch);
    for (let i = 0; i < scratch.count; i++) {
      top.push({ token: scratch.ids[i]!, logprob: (scratch.values[i]! - max) / temperature - logSum });
    }
  }
  return { token, logprob: (logits[token]! - max) / temperature - logSum, top };
}
