/** SentencePiece BPE by scores: neighbours merge into the token with the highest score until no pair is a token. */
import { InferenceError } from '../errors.ts';
import type { IdList } from './idList.ts';
import { MarkSplit } from './markSplit.ts';
import { MergeQueue } from './mergeQueue.ts';
import { byteTokenIds, type TokenModel } from './model.ts';
import { sequenceLength } from './unigram.ts';
import { encodeUtf8 } from './utf8.ts';
import type { Vocabulary } from './vocabulary.ts';
import { WordCache } from './wordCache.ts';

/** A word is at most a whole prompt; the search keeps about forty bytes per character of it. */
const MAX_WORD_BYTES = 1 << 26;

export class SpmModel implements TokenModel {
  readonly vocabulary: Vocabulary;
  readonly readsBytes = false;
  readonly #scores: ArrayLike<number>;
  readonly #unkId: number;
  readonly #cache = new WordCache();
  readonly #split: MarkSplit;
  #byteIds: Int32Array | undefined;

  constructor(vocabulary: Vocabulary, scores: ArrayLike<number>, unkId: number) {
    this.vocabulary = vocabulary;
    this.#scores = scores;
    this.#unkId = unkId;
    this.#split = new MarkSplit(vocabulary);
  }

  encode(word: string, _asBytes: boolean, out: IdList): void {
    if (word === '' || this.#cache.read(word, out)) return;
    const parts = this.#split.parts(word);
    if (parts !== undefined) {
      for (const part of parts) this.encode(part, false, out);
      return;
    }
    const from = out.length;
    this.#merge(encodeUtf8(word), out);
    this.#cache.write(word, out, from);
  }

  #merge(bytes: Uint8Array, out: IdList): void {
    if (bytes.length > MAX_WORD_BYTES) {
      throw new InferenceError(
        `text without a place to split: expected at most ${MAX_WORD_BYTES} bytes, got ${bytes.length}; shorten it`,
      );
    }
    // Symbols are byte ranges; `lengths` 0 marks one that was merged into its left neighbour.
    const starts = new Int32Array(bytes.length + 1);
    let count = 0;
    for (let at = 0; at < bytes.length; at += sequenceLength(bytes[at]!)) starts[count++] = at;
    starts[count] = bytes.length;
    const lengths = Int32Array.from({ length: count }, (_, i) => starts[i + 1]! - starts[i]!);
    const previous = Int32Array.from({ length: count }, (_, i) => i - 1);
    const next = Int32Array.from({ length: count }, (_, i) => (i + 1 < count ? i + 1 : -1));
    const queue = new MergeQueue(count);
    const offer = (left: number, right: number): void => {
      const length = lengths[left]! + lengths[right]!;
      if (length > this.vocabulary.maxBytes) return;
      const id = this.vocabulary.find(bytes, starts[left]!, starts[left]! + length);
      if (id >= 0) queue.push(-this.#scores[id]!, left, length);
    };
    for (let i = 1; i < count; i++) offer(i - 1, i);
    while (queue.length > 0) {
      queue.pop();
      const left = queue.position;
      const right = next[left]!;
      if (lengths[left] === 0 || right < 0 || lengths[left]! + lengths[right]! !== queue.tag) continue;
      lengths[left] = queue.tag;
      lengths[right] = 0;
      const after = next[right]!;
      next[left] = after;
      if (after >= 0) previous[after] = left;
      if (previous[left]! >= 0) offer(previous[left]!, left);
      if (after >= 0) offer(left, after);
    }
    for (let i = 0; i >= 0; i = next[i]!) this.#emit(bytes, starts[i]!, starts[i]! + lengths[i]!, out);
  }

  #emit(bytes: Uint8Array, start: number, end: number, out: IdList): void {
    const id = this.vocabulary.find(bytes, start, end);
    if (id >= 0) {
      out.push(id);
      return;
    }
    const byteIds = (this.#byteIds ??= byteTokenIds(this.vocabulary));
    for (let i = start; i < end; i++) {
      const byte = byteIds[bytes[i]!]!;
      out.push(byte >= 0 ? byte : this.#unkId);
    }
  }
}
