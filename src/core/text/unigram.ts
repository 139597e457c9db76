/** Unigram language model: the segmentation with the highest sum of scores (Viterbi). */
import { InferenceError } from '../errors.ts';
import { IdList } from './idList.ts';
import { byteTokenIds, type TokenModel } from './model.ts';
import { encodeUtf8 } from './utf8.ts';
import { EMPTY_HASH, hashByte, type Vocabulary } from './vocabulary.ts';
import { WordCache } from './wordCache.ts';

/** How much worse than the worst token an unknown character is. */
const UNKNOWN_PENALTY = 10;
/** A word is at most a whole prompt; the search keeps twenty bytes per byte of it. */
const MAX_WORD_BYTES = 1 << 26;

export interface UnigramOptions {
  readonly unkId?: number | undefined;
  /** Unknown stretches become the tokens `<0xNN>` of their bytes. */
  readonly byteFallback?: boolean | undefined;
  /** The lowest score of a token, where it is not the least of `scores`. */
  readonly minScore?: number | undefined;
  /** Tokens that the search leaves out. */
  readonly isHidden?: ((id: number) => boolean) | undefined;
}

export class UnigramModel implements TokenModel {
  readonly vocabulary: Vocabulary;
  readonly readsBytes = false;
  readonly #scores: ArrayLike<number>;
  readonly #options: UnigramOptions;
  readonly #unkScore: number;
  readonly #cache = new WordCache();
  #prefixes: PrefixSet | undefined;
  #fallbackIds: Int32Array | undefined;

  constructor(vocabulary: Vocabulary, scores: ArrayLike<number>, options: UnigramOptions = {}) {
    this.vocabulary = vocabulary;
    this.#scores = scores;
    this.#options = options;
    let least = options.minScore ?? Number.POSITIVE_INFINITY;
    if (options.minScore === undefined) for (let i = 0; i < scores.length; i++) least = Math.min(least, scores[i]!);
    this.#unkScore = least - UNKNOWN_PENALTY;
  }

  encode(word: string, _asBytes: boolean, out: IdList): void {
    if (word === '' || this.#cache.read(word, out)) return;
    const from = out.length;
    this.#search(encodeUtf8(word), out);
    this.#cache.write(word, out, from);
  }

  #search(bytes: Uint8Array, out: IdList): void {
    const size = bytes.length;
    if (size > MAX_WORD_BYTES) {
      throw new InferenceError(
        `text without a place to split: expected at most ${MAX_WORD_BYTES} bytes, got ${size}; shorten it`,
      );
    }
    const prefixes = (this.#prefixes ??= new PrefixSet(this.vocabulary));
    const { unkId = -1, isHidden } = this.#options;
    const best = new Float64Array(size + 1);
    const starts = new Int32Array(size + 1).fill(-1);
    const ids = new Int32Array(size + 1);
    const offer = (end: number, start: number, id: number, score: number): void => {
      if (starts[end]! >= 0 && !(score > best[end]!)) return;
      best[end] = score;
      starts[end] = start;
      ids[end] = id;
    };
    for (let start = 0; start < size; ) {
      const next = Math.min(size, start + sequenceLength(bytes[start]!));
      let hash = EMPTY_HASH;
      let foundCharacter = false;
      for (let end = start + 1; end <= size; end++) {
        hash = hashByte(hash, bytes[end - 1]!);
        if (!prefixes.has(hash)) break;
        const id = this.vocabulary.findHashed(hash, bytes, start, end);
        if (id < 0 || isHidden?.(id)) continue;
        offer(end, start, id, best[start]! + this.#scores[id]!);
        if (end === next) foundCharacter = true;
      }
      if (!foundCharacter) {
        if (unkId < 0 && (starts[next]! < 0 || best[start]! + this.#unkScore > best[next]!)) {
          throw new InferenceError('unknown token: expected a vocabulary with an unk_id for text it lacks, got none');
        }
        offer(next, start, unkId, best[start]! + this.#unkScore);
      }
      start = next;
    }
    this.#collect(bytes, starts, ids, out);
  }

  #collect(bytes: Uint8Array, starts: Int32Array, ids: Int32Array, out: IdList): void {
    const unkId = this.#options.unkId ?? -1;
    const path = new IdList();
    for (let end = bytes.length; end > 0; end = starts[end]!) path.push(end);
    for (let i = path.length - 1; i >= 0; i--) {
      let end = path.at(i);
      const start = starts[end]!;
      const id = ids[end]!;
      if (id !== unkId) {
        out.push(id);
        continue;
      }
      // Neighbouring unknowns are one.
      while (i > 0 && ids[path.at(i - 1)] === unkId) end = path.at(--i);
      this.#unknown(bytes, start, end, out);
    }
  }

  #unknown(bytes: Uint8Array, start: number, end: number, out: IdList): void {
    const whole = this.vocabulary.find(bytes, start, end);
    if (whole >= 0) {
      out.push(whole);
      return;
    }
    if (this.#options.byteFallback) {
      const fallback = (this.#fallbackIds ??= byteTokenIds(this.vocabulary));
      const tokens = Int32Array.from(bytes.subarray(start, end), (byte) => fallback[byte]!);
      if (!tokens.includes(-1)) {
        out.append(tokens, 0, tokens.length);
        return;
      }
    }
    out.push(this.#options.unkId ?? 0);
  }
}

/** Bytes of the UTF-8 sequence that starts with `lead`. */
export function sequenceLength(lead: number): number {
  if (lead < 0xc0) return 1;
  if (lead < 0xe0) return 2;
  return lead < 0xf0 ? 3 : 4;
}

/** Says whether some token may start with given bytes: one bit per running hash, so it errs on the side of yes. */
class PrefixSet {
  readonly #bits: Uint32Array;
  readonly #shift: number;

  constructor(vocabulary: Vocabulary) {
    let bytes = 0;
    for (let id = 0; id < vocabulary.size; id++) bytes += vocabulary.bytes(id).length;
    const bits = Math.min(28, Math.max(10, Math.ceil(Math.log2(bytes + 1)) + 2));
    this.#bits = new Uint32Array(2 ** (bits - 5));
    this.#shift = 32 - bits;
    for (let id = 0; id < vocabulary.size; id++) {
      let hash = EMPTY_HASH;
      for (const byte of vocabulary.bytes(id)) {
        hash = hashByte(hash, byte);
        const at = Math.imul(hash, 0x9e3779b1) >>> this.#shift;
        this.#bits[at >>> 5]! |= 1 << (at & 31);
      }
    }
  }

  has(hash: number): boolean {
    const at = Math.imul(hash, 0x9e3779b1) >>> this.#shift;
    return (this.#bits[at >>> 5]! & (1 << (at & 31))) !== 0;
  }
}
