import type { IdList } from './idList.ts';

const MAX_WORDS = 1 << 15;
const MAX_IDS = 1 << 17;
/** Longer words are rare, and would make the cache large. */
const MAX_WORD_LENGTH = 64;
/** Most ids one word can have in the cache: UTF-8 takes up to three bytes per code unit. */
const MAX_WORD_IDS = 3 * MAX_WORD_LENGTH;

/** Ids of words seen lately. When full it starts anew: text of one kind fills it again within a few hundred words. */
export class WordCache {
  readonly #places = new Map<string, number>();
  #pool: Uint32Array | undefined;
  #used = 0;

  /** Appends the ids of a word; `false` when it is not here. */
  read(word: string, out: IdList): boolean {
    const place = this.#places.get(word);
    if (place === undefined) return false;
    const start = Math.floor(place / 256);
    out.append(this.#pool!, start, start + (place & 255));
    return true;
  }

  /** Remembers the ids that `out` got from index `from` on. */
  write(word: string, out: IdList, from: number): void {
    const count = out.length - from;
    if (word.length > MAX_WORD_LENGTH || count > MAX_WORD_IDS) return;
    if (this.#places.size >= MAX_WORDS || this.#used + count > MAX_IDS) {
      this.#places.clear();
      this.#used = 0;
    }
    this.#pool = roomFor(this.#pool, this.#used + count);
    for (let i = 0; i < count; i++) this.#pool[this.#used + i] = out.at(from + i);
    this.#places.set(ownText(word), this.#used * 256 + count);
    this.#used += count;
  }
}

/** Engines share the memory of a slice with its whole text; a copy lets go of that text. */
function ownText(word: string): string {
  return word.length < 13 ? word : ` ${word}`.slice(1);
}

function roomFor(pool: Uint32Array | undefined, count: number): Uint32Array {
  if (pool !== undefined && count <= pool.length) return pool;
  const larger = new Uint32Array(Math.min(MAX_IDS, Math.max(1024, 2 * count)));
  if (pool !== undefined) larger.set(pool);
  return larger;
}
