/** What the tokens so far do to the next logits: DRY, frequency, presence and repetition penalties. */

/** Tokens of a sequence, prompt first; entries from `length` on are stale. */
export interface TokenHistory {
  readonly tokens: Int32Array;
  readonly promptLength: number;
  readonly length: number;
}

export interface DryRule {
  readonly multiplier: number;
  readonly base: number;
  readonly allowedLength: number;
  readonly breakers: ReadonlySet<number>;
}

const MAX_DRY_MATCH = 50;

/** Length of the common suffix of `tokens[..at]` and of all tokens, not reaching across a breaker. */
function matchLength(tokens: Int32Array, at: number, length: number, breakers: ReadonlySet<number>): number {
  let matched = 1;
  while (matched < MAX_DRY_MATCH && at >= matched) {
    const token = tokens[at - matched]!;
    if (token !== tokens[length - 1 - matched] || breakers.has(token)) break;
    matched++;
  }
  return matched;
}

/**
 * Lowers every token that would continue a repetition, by `multiplier * base^(length - allowedLength)`, over prompt and
 * answer alike. `longest` is scratch, one zero per token of the vocabulary, and is left zeroed.
 */
export function applyDry(logits: Float32Array, history: TokenHistory, rule: DryRule, longest: Int32Array): void {
  const { tokens, length } = history;
  const vocab = logits.length;
  const last = tokens[length - 1];
  for (let i = 0; i < length - 1; i++) {
    if (tokens[i] !== last) continue;
    const next = tokens[i + 1]!;
    if (next >= vocab || rule.breakers.has(next)) continue;
    const matched = matchLength(tokens, i, length, rule.breakers);
    if (matched > longest[next]!) longest[next] = matched;
  }
  for (let i = 0; i < length - 1; i++) {
    if (tokens[i] !== last) continue;
    const next = tokens[i + 1]!;
    if (next >= vocab || longest[next] === 0) continue;
    const excess = longest[next]! - rule.allowedLength;
    if (excess >= 0) logits[next]! -= rule.multiplier * rule.base ** excess;
    longest[next] = 0;
  }
}

/** Frequency and presence count generated tokens only. `counts` is scratch as in `applyDry`. */
export function applyFrequencyPresence(
  logits: Float32Array,
  history: TokenHistory,
  frequency: number,
  presence: number,
  counts: Int32Array,
): void {
  const { tokens, promptLength, length } = history;
  const vocab = logits.length;
  for (let i = promptLength; i < length; i++) {
    if (tokens[i]! < vocab) counts[tokens[i]!]!++;
  }
  for (let i = promptLength; i < length; i++) {
    const token = tokens[i]!;
    if (token >= vocab || counts[token] === 0) continue;
    logits[token]! -= frequency * counts[token]! + presence;
    counts[token] = 0;
  }
}

/** Divides positive and multiplies other logits, once for each token in prompt or answer. */
export function applyRepetition(logits: Float32Array, history: TokenHistory, penalty: number, seen: Int32Array): void {
  const { tokens, length } = history;
  const vocab = logits.length;
  for (let i = 0; i < length; i++) {
    const token = tokens[i]!;
    if (token >= vocab || seen[token] !== 0) continue;
    seen[token] = 1;
    const logit = logits[token]!;
    logits[token] = logit > 0 ? logit / penalty : logit * penalty;
  }
  for (let i = 0; i < length; i++) {
    if (tokens[i]! < vocab) seen[tokens[i]!] = 0;
  }
}
