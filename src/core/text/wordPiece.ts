/** WordPiece: the longest token first, then the longest continuation, and so on; one unknown token when that fails. */
import { InferenceError } from '../errors.ts';
import type { IdList } from './idList.ts';
import type { TokenModel } from './model.ts';
import { codePointCount, encodeUtf8 } from './utf8.ts';
import { EMPTY_HASH, hashByte, type Vocabulary } from './vocabulary.ts';
import { WordCache } from './wordCache.ts';

export interface WordPieceOptions {
  readonly unkToken: string;
  /** Before every piece but the first of a word. */
  readonly continuingPrefix: string;
  readonly maxCharacters: number;
}

export class WordPieceModel implements TokenModel {
  readonly vocabulary: Vocabulary;
  readonly readsBytes = false;
  readonly #options: WordPieceOptions;
  readonly #prefix: Uint8Array;
  readonly #cache = new WordCache();

  constructor(vocabulary: Vocabulary, options: WordPieceOptions) {
    this.vocabulary = vocabulary;
    this.#options = options;
    this.#prefix = encodeUtf8(options.continuingPrefix);
  }

  encode(word: string, _asBytes: boolean, out: IdList): void {
    if (word === '' || this.#cache.read(word, out)) return;
    const from = out.length;
    if (!this.#split(word, out)) {
      out.length = from;
      const unk = this.vocabulary.findText(this.#options.unkToken);
      if (unk < 0) {
        throw new InferenceError(
          `unknown token: expected ${JSON.stringify(this.#options.unkToken)} in the vocabulary, got none`,
        );
      }
      out.push(unk);
    }
    this.#cache.write(word, out, from);
  }

  #split(word: string, out: IdList): boolean {
    if (word.length > this.#options.maxCharacters && codePointCount(word) > this.#options.maxCharacters) return false;
    const prefix = this.#prefix;
    const text = encodeUtf8(word);
    // Room before the word, so that the prefix can be laid over the part that is done.
    const bytes = new Uint8Array(prefix.length + text.length);
    bytes.set(text, prefix.length);
    for (let start = prefix.length; start < bytes.length; ) {
      let from = start;
      if (start > prefix.length) {
        from -= prefix.length;
        bytes.set(prefix, from);
      }
      let hash = EMPTY_HASH;
      for (let i = from; i < start; i++) hash = hashByte(hash, bytes[i]!);
      let found = -1;
      let foundEnd = start;
      const last = Math.min(bytes.length, from + this.vocabulary.maxBytes);
      for (let end = start + 1; end <= last; end++) {
        hash = hashByte(hash, bytes[end - 1]!);
        if (end < bytes.length && (bytes[end]! & 0xc0) === 0x80) continue;
        const id = this.vocabulary.findHashed(hash, bytes, from, end);
        if (id < 0) continue;
        found = id;
        foundEnd = end;
      }
      if (found < 0) return false;
      out.push(found);
      start = foundEnd;
    }
    return true;
  }
}

/** A vocabulary of whole words. */
export class WordLevelModel implements TokenModel {
  readonly vocabulary: Vocabulary;
  readonly readsBytes = false;
  readonly #unkToken: string;

  constructor(vocabulary: Vocabulary, unkToken: string) {
    this.vocabulary = vocabulary;
    this.#unkToken = unkToken;
  }

  encode(word: string, _asBytes: boolean, out: IdList): void {
    const known = this.vocabulary.findText(word);
    const id = known >= 0 ? known : this.vocabulary.findText(this.#unkToken);
    if (id < 0) {
      throw new InferenceError(`unknown token: expected ${JSON.stringify(this.#unkToken)} in the vocabulary, got none`);
    }
    out.push(id);
  }
}
