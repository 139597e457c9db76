/** A `Tokenizer` as the SDK uses it. */
import type { Tokenizer } from '../text/tokenizer.ts';
import type { TextTokenizer } from './text.ts';

/** Prompts are cut by the engine alone, whatever the tokenizer's file says about lengths. */
const WHOLE = { truncate: false, pad: false } as const;

export function textTokenizer(tokenizer: Tokenizer): TextTokenizer {
  let special: ReadonlySet<number> | undefined;
  return {
    encode: (text, options) => tokenizer.encode(text, { ...options, ...WHOLE }),
    decode: (ids, options) => tokenizer.decode(Array.from(ids), options),
    createDecoder: () => tokenizer.stream({ skipSpecialTokens: true }),
    idOf: (token) => tokenizer.tokenToId(token),
    tokenOf: (id) => tokenizer.idToToken(id),
    *tokens() {
      for (let id = 0; id < tokenizer.vocabSize; id++) {
        const token = tokenizer.idToToken(id);
        if (token !== undefined) yield token;
      }
    },
    isSpecial: (id) => (special ??= new Set(tokenizer.specialIds)).has(id),
  };
}
