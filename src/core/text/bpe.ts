/** Byte-pair encoding: characters are merged pair by pair in the order of the merge list. */
import { InferenceError } from '../errors.ts';
import type { IdList } from './idList.ts';
import { MarkSplit } from './markSplit.ts';
import { MergeQueue } from './mergeQueue.ts';
import type { Merges } from './mergeTable.ts';
import { byteTokenIds, type TokenModel } from './model.ts';
import { BYTE_CHARS, encodeUtf8, encodeUtf8Into, toByteChars } from './utf8.ts';
import type { Vocabulary } from './vocabulary.ts';
import { WordCache } from './wordCache.ts';

/** Up to here looking at all pairs beats a queue. */
const SHORT_WORD = 40;
/** A word is at most a whole prompt; positions in the queue are 32-bit. */
const MAX_WORD_SYMBOLS = 1 << 26;
const NO_RANK = 0x7fffffff;
/** The byte alphabet ends below this; ids of such characters are kept in an array. */
const SMALL_CODES = 512;
const UNSEEN = -2;

export interface BpeOptions {
  readonly unkToken?: string | undefined;
  /** Put before every character but the first of a word. */
  readonly continuingPrefix?: string | undefined;
  /** Put behind the last character of a word. */
  readonly endSuffix?: string | undefined;
  readonly fuseUnk?: boolean | undefined;
  /** Characters that are no tokens become the tokens `<0xNN>` of their bytes. */
  readonly byteFallback?: boolean | undefined;
  /** Says which words are not taken apart when they are tokens. */
  readonly wholeWords?: ((word: string) => boolean) | undefined;
}

export class BpeModel implements TokenModel {
  readonly vocabulary: Vocabulary;
  readonly readsBytes = true;
  readonly #options: BpeOptions;
  readonly #loadMerges: () => Merges;
  readonly #cache = new WordCache();
  readonly #split: MarkSplit | undefined;
  readonly #charIds = new Int32Array(SMALL_CODES).fill(UNSEEN);
  readonly #otherCharIds = new Map<number, number>();
  #merges: Merges | undefined;
  #byteIds: Int32Array | undefined;
  #fallbackIds: Int32Array | undefined;
  #symbols = new Int32Array(256);
  #utf8 = new Uint8Array(256);
  readonly #ranks = new Int32Array(SHORT_WORD);
  readonly #merged = new Int32Array(SHORT_WORD);

  /** `loadMerges` runs at the first word. */
  constructor(vocabulary: Vocabulary, loadMerges: () => Merges, options: BpeOptions = {}) {
    this.vocabulary = vocabulary;
    this.#loadMerges = loadMerges;
    this.#options = options;
    const { wholeWords, continuingPrefix, endSuffix } = options;
    const wordsHaveEnds = wholeWords !== undefined || continuingPrefix !== undefined || endSuffix !== undefined;
    this.#split = wordsHaveEnds ? undefined : new MarkSplit(vocabulary);
  }

  encode(word: string, asBytes: boolean, out: IdList): void {
    if (word === '' || this.#cache.read(word, out)) return;
    const parts = asBytes ? undefined : this.#split?.parts(word);
    if (parts !== undefined) {
      for (const part of parts) this.encode(part, asBytes, out);
      return;
    }
    const from = out.length;
    this.#encodeNew(word, asBytes, out);
    this.#cache.write(word, out, from);
  }

  #encodeNew(word: string, asBytes: boolean, out: IdList): void {
    const { wholeWords, continuingPrefix, endSuffix } = this.#options;
    if (wholeWords?.(word)) {
      const whole = this.vocabulary.findText(asBytes ? toByteChars(word) : word);
      if (whole >= 0) {
        out.push(whole);
        return;
      }
    }
    if (word.length > MAX_WORD_SYMBOLS) {
      throw new InferenceError(
        `text without a place to split: expected at most ${MAX_WORD_SYMBOLS} characters, got ${word.length}; shorten it`,
      );
    }
    const plain = continuingPrefix === undefined && endSuffix === undefined;
    let count = asBytes && plain ? this.#bytesOf(word) : -1;
    if (count < 0) count = this.#charactersOf(asBytes ? toByteChars(word) : word);
    this.#merge(count, out);
  }

  /** Initial symbols from the UTF-8 bytes of a word; -1 when a byte is no token. */
  #bytesOf(word: string): number {
    this.#byteIds ??= Int32Array.from(BYTE_CHARS, (char) => this.#charId(char.charCodeAt(0)));
    if (this.#utf8.length < 3 * word.length) this.#utf8 = new Uint8Array(6 * word.length);
    const count = encodeUtf8Into(word, this.#utf8);
    this.#reserve(count);
    for (let i = 0; i < count; i++) {
      const id = this.#byteIds[this.#utf8[i]!]!;
      if (id < 0) return -1;
      this.#symbols[i] = id;
    }
    return count;
  }

  /** Initial symbols from the characters of a word. */
  #charactersOf(word: string): number {
    const { unkToken, continuingPrefix = '', endSuffix = '', fuseUnk, byteFallback } = this.#options;
    let count = 0;
    const add = (id: number): void => {
      if (count === this.#symbols.length) this.#reserve(count + 1);
      this.#symbols[count++] = id;
    };
    let unk = -1;
    for (let i = 0; i < word.length; ) {
      const code = word.codePointAt(i)!;
      const start = i;
      i += code > 0xffff ? 2 : 1;
      const prefix = start > 0 ? continuingPrefix : '';
      const suffix = i === word.length ? endSuffix : '';
      const bare = prefix === '' && suffix === '';
      const text = prefix + word.slice(start, i) + suffix;
      const id = bare ? this.#charId(code) : this.vocabulary.findText(text);
      if (id >= 0) {
        if (unk >= 0) add(unk);
        unk = -1;
        add(id);
        continue;
      }
      const bytes = byteFallback ? this.#fallbackOf(text) : undefined;
      if (bytes !== undefined) {
        // A pending unknown stays pending across byte tokens: it comes out behind them.
        bytes.forEach(add);
        continue;
      }
      if (unkToken === undefined) continue;
      if (unk >= 0 && !fuseUnk) add(unk);
      unk = this.vocabulary.findText(unkToken);
      if (unk < 0) {
        throw new InferenceError(`unknown token: expected ${JSON.stringify(unkToken)} in the vocabulary, got none`);
      }
    }
    if (unk >= 0) add(unk);
    return count;
  }

  #fallbackOf(text: string): Int32Array | undefined {
    const ids = (this.#fallbackIds ??= byteTokenIds(this.vocabulary));
    const tokens = Int32Array.from(encodeUtf8(text), (byte) => ids[byte]!);
    return tokens.includes(-1) ? undefined : tokens;
  }

  #charId(code: number): number {
    if (code < SMALL_CODES) {
      const known = this.#charIds[code]!;
      if (known !== UNSEEN) return known;
      return (this.#charIds[code] = this.vocabulary.findText(String.fromCharCode(code)));
    }
    let id = this.#otherCharIds.get(code);
    if (id === undefined) {
      id = this.vocabulary.findText(String.fromCodePoint(code));
      this.#otherCharIds.set(code, id);
    }
    return id;
  }

  #reserve(count: number): void {
    if (count <= this.#symbols.length) return;
    const larger = new Int32Array(2 * count);
    larger.set(this.#symbols);
    this.#symbols = larger;
  }

  #merge(count: number, out: IdList): void {
    const merges = (this.#merges = (this.#merges ?? this.#loadMerges()).settled());
    if (count > SHORT_WORD) count = this.#mergeLong(count, merges);
    else if (count > 1) count = this.#mergeShort(count, merges);
    out.append(this.#symbols, 0, count);
  }

  #mergeShort(count: number, merges: Merges): number {
    const symbols = this.#symbols;
    const ranks = this.#ranks;
    const merged = this.#merged;
    const look = (i: number): void => {
      const at = merges.find(symbols[i]!, symbols[i + 1]!);
      ranks[i] = at < 0 ? NO_RANK : merges.rank(at);
      if (at >= 0) merged[i] = merges.id(at);
    };
    for (let i = 0; i + 1 < count; i++) look(i);
    while (count > 1) {
      let best = 0;
      for (let i = 1; i + 1 < count; i++) if (ranks[i]! < ranks[best]!) best = i;
      if (ranks[best] === NO_RANK) break;
      symbols[best] = merged[best]!;
      count--;
      for (let i = best + 1; i < count; i++) {
        symbols[i] = symbols[i + 1]!;
        ranks[i - 1] = ranks[i]!;
        merged[i - 1] = merged[i]!;
      }
      // What lay behind the merged pair has moved up by one; the pairs around it are new.
      if (best > 0) look(best - 1);
      if (best + 1 < count) look(best);
    }
    return count;
  }

  #mergeLong(count: number, merges: Merges): number {
    const symbols = this.#symbols;
    const previous = new Int32Array(count);
    const next = new Int32Array(count);
    const queue = new MergeQueue(count);
    const offer = (left: number, right: number): void => {
      const at = merges.find(symbols[left]!, symbols[right]!);
      if (at >= 0) queue.push(merges.rank(at), left, merges.id(at));
    };
    for (let i = 0; i < count; i++) {
      previous[i] = i - 1;
      next[i] = i + 1 < count ? i + 1 : -1;
      if (i > 0) offer(i - 1, i);
    }
    while (queue.length > 0) {
      queue.pop();
      const left = queue.position;
      const right = next[left]!;
      if (symbols[left]! < 0 || right < 0) continue;
      // An entry is stale when its pair has changed since.
      const at = merges.find(symbols[left]!, symbols[right]!);
      if (at < 0 || merges.id(at) !== queue.tag) continue;
      symbols[left] = queue.tag;
      symbols[right] = -1;
      const after = next[right]!;
      next[left] = after;
      if (after >= 0) previous[after] = left;
      if (previous[left]! >= 0) offer(previous[left]!, left);
      if (after >= 0) offer(left, after);
    }
    let kept = 0;
    for (let i = 0; i >= 0; i = next[i]!) symbols[kept++] = symbols[i]!;
    return kept;
  }
}
