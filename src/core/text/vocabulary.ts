/**
 * The texts of a vocabulary: one block of UTF-8, and a hash table over it that is built on first use. No string exists
 * per token, which keeps the start of a program short and its heap small.
 */
import { FormatError } from '../errors.ts';
import { decodeUtf8, encodeUtf8Into } from './utf8.ts';

/** The largest published vocabularies have under a million tokens. */
const MAX_TOKENS = 1 << 23;
/** Published tokens have at most a few hundred bytes. */
const MAX_VOCABULARY_BYTES = 1 << 28;
/** Ids may be sparse (reserved tokens), but not so sparse that the table is mostly holes. */
const MAX_HOLES = 1 << 20;

const HASH_SEED = 0x811c9dc5;

/** One step of the running hash (FNV-1a) that `Vocabulary.findHashed` takes. */
export function hashByte(hash: number, byte: number): number {
  return Math.imul(hash ^ byte, 0x01000193);
}

/** The running hash of no bytes. */
export const EMPTY_HASH: number = HASH_SEED | 0;

export class Vocabulary {
  /** One more than the highest id. */
  readonly size: number;
  /** Number of tokens. */
  readonly count: number;
  /** Bytes of the longest token. */
  readonly maxBytes: number;
  readonly #bytes: Uint8Array;
  readonly #starts: Uint32Array;
  /** Bytes between the end of one text and the start of the next. */
  readonly #gap: number;
  /** Ids that no token has; `undefined` when there are none. */
  readonly #holes: Uint8Array | undefined;
  #slots: Int32Array | undefined;
  #shift = 0;
  #scratch = new Uint8Array(256);

  private constructor(bytes: Uint8Array, starts: Uint32Array, holes: Uint8Array | undefined, gap = 0) {
    this.#bytes = bytes;
    this.#gap = gap;
    this.#starts = starts;
    this.#holes = holes;
    this.size = starts.length - 1;
    this.count = this.size - (holes?.reduce((sum, hole) => sum + hole, 0) ?? 0);
    let longest = 0;
    for (let id = 0; id < this.size; id++) longest = Math.max(longest, starts[id + 1]! - gap - starts[id]!);
    this.maxBytes = longest;
  }

  /** Tokens whose id is their position. */
  static fromTexts(texts: TextColumn | readonly string[], path: string): Vocabulary {
    checkCount(texts.length, path);
    const starts = new Uint32Array(texts.length + 1);
    if ('starts' in texts) {
      const { bytes, length } = texts;
      starts.set(texts.starts);
      const gap = length > 1 ? starts[1]! - texts.end(0) : 0;
      starts[length] = bytes.length + gap;
      return new Vocabulary(bytes, starts, undefined, gap);
    }
    const writer = new ByteWriter(path);
    texts.forEach((text, id) => {
      writer.write(text);
      starts[id + 1] = writer.length;
    });
    return new Vocabulary(writer.bytes(), starts, undefined);
  }

  /** Tokens with explicit ids. Throws `FormatError` for ids that are no small integers, or taken twice. */
  static fromEntries(entries: readonly (readonly [text: string, id: unknown])[], path: string): Vocabulary {
    checkCount(entries.length, path);
    let highest = -1;
    for (const [text, id] of entries) {
      if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id >= entries.length + MAX_HOLES) {
        throw new FormatError(
          `${path}[${JSON.stringify(text)}]: expected an id from 0 to ${entries.length + MAX_HOLES - 1}, got ${String(id)}`,
        );
      }
      highest = Math.max(highest, id);
    }
    const texts: (string | undefined)[] = new Array(highest + 1).fill(undefined);
    for (const [text, id] of entries) {
      const other = texts[id as number];
      if (other !== undefined) {
        throw new FormatError(
          `${path}[${JSON.stringify(text)}]: expected an id of its own, got ${String(id)}, the id of ${JSON.stringify(other)}`,
        );
      }
      texts[id as number] = text;
    }
    const starts = new Uint32Array(texts.length + 1);
    const writer = new ByteWriter(path);
    let holes: Uint8Array | undefined;
    texts.forEach((text, id) => {
      if (text === undefined) {
        holes ??= new Uint8Array(texts.length);
        holes[id] = 1;
      } else writer.write(text);
      starts[id + 1] = writer.length;
    });
    return new Vocabulary(writer.bytes(), starts, holes);
  }

  has(id: number): boolean {
    return Number.isInteger(id) && id >= 0 && id < this.size && this.#holes?.[id] !== 1;
  }

  /** The text of a token; malformed UTF-8 in it reads as U+FFFD. */
  text(id: number): string | undefined {
    return this.has(id) ? decodeUtf8(this.bytes(id)) : undefined;
  }

  /** The bytes of a token's text: a view, not to be written to. */
  bytes(id: number): Uint8Array {
    return this.#bytes.subarray(this.#starts[id]!, this.#starts[id + 1]! - this.#gap);
  }

  /** The id of a text, or -1. */
  findText(text: string): number {
    if (this.#scratch.length < 3 * text.length) this.#scratch = new Uint8Array(6 * text.length);
    return this.find(this.#scratch, 0, encodeUtf8Into(text, this.#scratch));
  }

  /** The id of the text in `bytes[start, end)`, or -1. */
  find(bytes: Uint8Array, start: number, end: number): number {
    let hash = EMPTY_HASH;
    for (let i = start; i < end; i++) hash = Math.imul(hash ^ bytes[i]!, 0x01000193);
    return this.findHashed(hash, bytes, start, end);
  }

  /** `find` for a caller that has kept the running hash of `bytes[start, end)`. */
  findHashed(hash: number, bytes: Uint8Array, start: number, end: number): number {
    const slots = this.#slots ?? this.#index();
    const mask = slots.length - 1;
    for (let slot = Math.imul(hash, 0x9e3779b1) >>> this.#shift; ; slot = (slot + 1) & mask) {
      const id = slots[slot]! - 1;
      if (id < 0) return -1;
      if (this.#equals(id, bytes, start, end)) return id;
    }
  }

  /** The id of `bytes[start, middle)` followed by `bytes[resume, end)`, or -1. */
  findJoined(bytes: Uint8Array, start: number, middle: number, resume: number, end: number): number {
    const length = middle - start + end - resume;
    if (this.#scratch.length < length) this.#scratch = new Uint8Array(2 * length);
    const joined = this.#scratch;
    let hash = EMPTY_HASH;
    let at = 0;
    for (let i = start; i < middle; i++) hash = Math.imul(hash ^ (joined[at++] = bytes[i]!), 0x01000193);
    for (let i = resume; i < end; i++) hash = Math.imul(hash ^ (joined[at++] = bytes[i]!), 0x01000193);
    return this.findHashed(hash, joined, 0, length);
  }

  #equals(id: number, bytes: Uint8Array, start: number, end: number): boolean {
    const own = this.#bytes;
    const from = this.#starts[id]!;
    if (this.#starts[id + 1]! - this.#gap - from !== end - start) return false;
    for (let i = start, j = from; i < end; i++, j++) if (own[j] !== bytes[i]) return false;
    return true;
  }

  #index(): Int32Array {
    const bits = Math.max(4, Math.ceil(Math.log2(this.size + 1)) + 1);
    const slots = new Int32Array(2 ** bits);
    const mask = slots.length - 1;
    this.#shift = 32 - bits;
    const bytes = this.#bytes;
    for (let id = 0; id < this.size; id++) {
      if (this.#holes?.[id] === 1) continue;
      const start = this.#starts[id]!;
      const end = this.#starts[id + 1]! - this.#gap;
      let hash = EMPTY_HASH;
      for (let i = start; i < end; i++) hash = Math.imul(hash ^ bytes[i]!, 0x01000193);
      let slot = Math.imul(hash, 0x9e3779b1) >>> this.#shift;
      // A text that comes twice belongs to the later id.
      while (slots[slot] !== 0 && !this.#equals(slots[slot]! - 1, bytes, start, end)) slot = (slot + 1) & mask;
      slots[slot] = id + 1;
    }
    this.#slots = slots;
    return slots;
  }
}

/** Texts in one block of UTF-8, at equal distances: what a reader gives that makes no strings. */
export interface TextColumn {
  readonly length: number;
  readonly bytes: Uint8Array;
  readonly starts: Uint32Array;
  end(index: number): number;
}

function checkCount(count: number, path: string): void {
  if (count > MAX_TOKENS) throw new FormatError(`${path}: expected at most ${MAX_TOKENS} tokens, got ${count}`);
}

function checkBytes(bytes: number, path: string): void {
  if (bytes > MAX_VOCABULARY_BYTES) {
    throw new FormatError(`${path}: expected at most ${MAX_VOCABULARY_BYTES} bytes of text, got more`);
  }
}

class ByteWriter {
  readonly #path: string;
  #bytes = new Uint8Array(1 << 16);
  length = 0;

  constructor(path: string) {
    this.#path = path;
  }

  write(text: string): void {
    const most = this.length + 3 * text.length;
    if (most > this.#bytes.length) {
      checkBytes(most, this.#path);
      const larger = new Uint8Array(2 * most);
      larger.set(this.#bytes.subarray(0, this.length));
      this.#bytes = larger;
    }
    this.length += encodeUtf8Into(text, this.#bytes.subarray(this.length));
  }

  bytes(): Uint8Array {
    return this.#bytes.slice(0, this.length);
  }
}
