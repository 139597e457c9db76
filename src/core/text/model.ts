import type { IdList } from './idList.ts';
import type { Vocabulary } from './vocabulary.ts';

/** The part of a tokenizer that turns pre-tokens into ids. */
export interface TokenModel {
  readonly vocabulary: Vocabulary;
  /**
   * Appends the ids of one pre-token. `asBytes` (only where `readsBytes`): the word is plain text whose UTF-8 bytes are
   * to be looked up in the byte alphabet.
   */
  encode(word: string, asBytes: boolean, out: IdList): void;
  readonly readsBytes: boolean;
}

/** Ids of the 256 byte tokens `<0x00>`…`<0xFF>`, -1 where the vocabulary lacks one. */
export function byteTokenIds(vocabulary: Vocabulary): Int32Array {
  return Int32Array.from({ length: 256 }, (_, byte) =>
    vocabulary.findText(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`),
  );
}
