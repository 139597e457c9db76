import { ConfigError } from '../errors.ts';
import type { TextTokenizer } from './text.ts';

/**
 * Ids below the result mean the same token to a model and the one that drafts for it, of the first `ids` ones: tables of
 * tokens are padded, and not all to one size. Throws `ConfigError` where both name a token and differ.
 */
export function sharedIds(
  own: Pick<TextTokenizer, 'tokenOf'>,
  other: Pick<TextTokenizer, 'tokenOf'>,
  ids: number,
): number {
  let shared = 0;
  for (let id = 0; id < ids; id++) {
    const token = own.tokenOf(id);
    const guess = other.tokenOf(id);
    if (token === undefined || guess === undefined) continue;
    if (token !== guess) {
      throw new ConfigError(
        `draft model: expected the tokens of the model it drafts for, got "${guess}" for "${token}" as token ${id}; take one of the same family`,
      );
    }
    shared = id + 1;
  }
  return shared;
}
