/** Log-probabilities of the distribution before any filter. */
import type { TokenLogprobs, TopLogprob } from '../types.ts';
import { type Candidates, selectTop } from './select.ts';

/** `ln Σ exp((logit - max) / temperature)`. */
export function logSumExp(logits: Float32Array, max: number, temperature: number): number {
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp((logits[i]! - max) / temperature);
  return Math.log(sum);
}

/** Of `token` and of the `topCount` most likely tokens. `logSum` is `logSumExp` of the same arguments. */
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
