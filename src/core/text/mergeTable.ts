import { EMPTY_HASH, hashByte, type TextColumn, type Vocabulary } from './vocabulary.ts';

const EMPTY = -1;
const SPACE = 0x20;
/** About the time that building the table takes. */
const LOOKUPS_FOR_TABLE = 100_000;

/** The merges of a vocabulary. */
export interface Merges {
  /** Where the merge of a pair of ids lies, or -1. */
  find(left: number, right: number): number;
  rank(at: number): number;
  /** The id that the pair becomes. */
  id(at: number): number;
  /** Merges to use from now on: a form that takes time to build pays off where many pairs are looked up. */
  settled(): Merges;
}

/** Merges by their pair of ids: open addressing over one typed array, four numbers per entry (left, right, rank, id). */
export class MergeTable implements Merges {
  readonly #entries: Int32Array;
  readonly #mask: number;
  readonly #shift: number;

  constructor(merges: number) {
    const bits = Math.max(4, Math.ceil(Math.log2(merges + 1) + 0.5));
    this.#entries = new Int32Array(4 * 2 ** bits).fill(EMPTY);
    this.#mask = 2 ** bits - 1;
    this.#shift = 32 - bits;
  }

  /** The last of several merges of one pair counts. */
  add(left: number, right: number, rank: number, id: number): void {
    const at = this.#place(left, right);
    const entries = this.#entries;
    entries[at] = left;
    entries[at + 1] = right;
    entries[at + 2] = rank;
    entries[at + 3] = id;
  }

  find(left: number, right: number): number {
    const at = this.#place(left, right);
    return this.#entries[at] === EMPTY ? -1 : at;
  }

  rank(at: number): number {
    return this.#entries[at + 2]!;
  }

  id(at: number): number {
    return this.#entries[at + 3]!;
  }

  settled(): Merges {
    return this;
  }

  #place(left: number, right: number): number {
    const entries = this.#entries;
    const hash = Math.imul(Math.imul(left, 0x9e3779b1) ^ right, 0x85ebca6b);
    for (let slot = hash >>> this.#shift; ; slot = (slot + 1) & this.#mask) {
      const at = 4 * slot;
      if (entries[at] === EMPTY || (entries[at] === left && entries[at + 1] === right)) return at;
    }
  }
}

/**
 * Merges in the order of the tokens they make, which is how byte-pair vocabularies are written. A pair is then looked up
 * by its text: no table has to be built before the first word.
 */
export class OrderedMerges implements Merges {
  readonly #vocabulary: Vocabulary;
  readonly #lines: TextColumn;
  /** Id of the token that merge 0 makes. */
  readonly #firstId: number;
  #joined = new Uint8Array(64);
  #lookups = 0;

  private constructor(vocabulary: Vocabulary, lines: TextColumn, firstId: number) {
    this.#vocabulary = vocabulary;
    this.#lines = lines;
    this.#firstId = firstId;
  }

  /** `undefined` where the merges are not in that order. */
  static of(lines: TextColumn, vocabulary: Vocabulary): OrderedMerges | undefined {
    if (lines.length === 0) return undefined;
    const space = lines.bytes.indexOf(SPACE, lines.starts[0]! + 1);
    const end = lines.end(0);
    const firstId = space < 0 ? -1 : vocabulary.findJoined(lines.bytes, lines.starts[0]!, space, space + 1, end);
    if (firstId < 0 || firstId + lines.length > vocabulary.size) return undefined;
    for (let i = 0; i < lines.length; i++) {
      if (!makes(lines, i, vocabulary.bytes(firstId + i))) return undefined;
    }
    return new OrderedMerges(vocabulary, lines, firstId);
  }

  find(left: number, right: number): number {
    this.#lookups++;
    const first = this.#vocabulary.bytes(left);
    const second = this.#vocabulary.bytes(right);
    const length = first.length + second.length;
    if (length > this.#vocabulary.maxBytes) return -1;
    if (length > this.#joined.length) this.#joined = new Uint8Array(2 * length);
    const joined = this.#joined;
    let hash = EMPTY_HASH;
    for (let i = 0; i < first.length; i++) hash = hashByte(hash, (joined[i] = first[i]!));
    for (let i = 0; i < second.length; i++) hash = hashByte(hash, (joined[first.length + i] = second[i]!));
    const rank = this.#vocabulary.findHashed(hash, joined, 0, length) - this.#firstId;
    const { bytes, starts } = this.#lines;
    if (rank < 0 || rank >= this.#lines.length || bytes[starts[rank]! + first.length] !== SPACE) return -1;
    return rank;
  }

  rank(at: number): number {
    return at;
  }

  id(at: number): number {
    return this.#firstId + at;
  }

  settled(): Merges {
    if (this.#lookups < LOOKUPS_FOR_TABLE) return this;
    const { bytes, starts, length } = this.#lines;
    const table = new MergeTable(length);
    for (let i = 0; i < length; i++) {
      const space = bytes.indexOf(SPACE, starts[i]! + 1);
      const left = this.#vocabulary.find(bytes, starts[i]!, space);
      const right = this.#vocabulary.find(bytes, space + 1, this.#lines.end(i));
      if (left >= 0 && right >= 0) table.add(left, right, i, this.#firstId + i);
    }
    return table;
  }
}

/** Whether merge `i` is the text of a token with one space in it. */
function makes(lines: TextColumn, i: number, token: Uint8Array): boolean {
  const { bytes } = lines;
  const start = lines.starts[i]!;
  if (lines.end(i) - start !== token.length + 1) return false;
  let at = start;
  for (let k = 0; k < token.length; k++) {
    if (bytes[at] === SPACE && k > 0 && at === start + k) at++;
    if (token[k] === SPACE || token[k] !== bytes[at++]) return false;
  }
  return at === start + token.length + 1;
}
