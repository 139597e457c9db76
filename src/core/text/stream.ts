/** Text of tokens that come one by one. */
import { decodeUtf8 } from './utf8.ts';

export interface StreamOptions {
  /** Leaves special tokens out. Default false. */
  readonly skipSpecialTokens?: boolean;
}

/** What a stream needs of a tokenizer. */
export interface TokenSource {
  /** The text of ids; unknown ids add nothing. */
  textOf(ids: readonly number[], skipSpecialTokens: boolean): string;
  /** The bytes of an id where text is nothing but the bytes of all ids; else `undefined`. */
  bytesOf(id: number, skipSpecialTokens: boolean): Uint8Array | undefined;
}

/** No character needs more bytes; a longer run of tokens without text is malformed and is let out as such. */
const MAX_PENDING_TOKENS = 64;
const MALFORMED = '\ufffd';

/**
 * Gives out text as soon as its characters are complete. The concatenation of all pieces and `flush()` is the decoded
 * text of all ids.
 */
export class StreamDecoder {
  readonly #source: TokenSource;
  readonly #skip: boolean;
  /** Ids from the ones behind the last piece on: a decoder may treat the first token of a text in its own way. */
  #ids: number[] = [];
  #prefix = '';
  #prefixCount = 0;
  /** Bytes not given out yet, where the source has bytes. */
  #bytes: Uint8Array[] = [];

  constructor(source: TokenSource, options: StreamOptions = {}) {
    this.#source = source;
    this.#skip = options.skipSpecialTokens ?? false;
  }

  /** Takes one id; returns the text it completes, or `undefined` while there is none. */
  push(id: number): string | undefined {
    const bytes = this.#source.bytesOf(id, this.#skip);
    return bytes === undefined ? this.#pushText(id) : this.#pushBytes(bytes);
  }

  /** The text held back so far (an unfinished character reads as U+FFFD), or `undefined`. The stream starts anew. */
  flush(): string | undefined {
    const rest = this.#bytes.length > 0 ? decodeUtf8(joined(this.#bytes)) : this.#rest();
    this.#bytes = [];
    this.#ids = [];
    this.#prefix = '';
    this.#prefixCount = 0;
    return rest === '' ? undefined : rest;
  }

  #pushBytes(bytes: Uint8Array): string | undefined {
    if (bytes.length > 0) this.#bytes.push(bytes);
    const text = decodeUtf8(joined(this.#bytes));
    if (text === '' || (text.endsWith(MALFORMED) && this.#bytes.length < MAX_PENDING_TOKENS)) return undefined;
    this.#bytes = [];
    return text;
  }

  #pushText(id: number): string | undefined {
    if (this.#prefix === '' && this.#ids.length > 0) {
      const prefix = this.#source.textOf(this.#ids, this.#skip);
      if (!prefix.endsWith(MALFORMED)) {
        this.#prefix = prefix;
        this.#prefixCount = this.#ids.length;
      }
    }
    this.#ids.push(id);
    const text = this.#source.textOf(this.#ids, this.#skip);
    const pending = this.#ids.length - this.#prefixCount;
    if (text.length <= this.#prefix.length || (text.endsWith(MALFORMED) && pending < MAX_PENDING_TOKENS)) {
      // Tokens without any text need not be looked at again.
      if (text === this.#prefix && pending >= MAX_PENDING_TOKENS) this.#ids.length = this.#prefixCount;
      return undefined;
    }
    const fresh = text.slice(sharedLength(text, this.#prefix));
    this.#ids = this.#ids.slice(this.#prefixCount);
    this.#prefixCount = pending;
    this.#prefix = this.#source.textOf(this.#ids, this.#skip);
    return fresh === '' ? undefined : fresh;
  }

  #rest(): string {
    const text = this.#source.textOf(this.#ids, this.#skip);
    return text.slice(sharedLength(text, this.#prefix));
  }
}

/** How much of `prefix` a text begins with: all of it, unless a decoder rewrites text it has given out. */
function sharedLength(text: string, prefix: string): number {
  if (text.startsWith(prefix)) return prefix.length;
  let length = 0;
  while (length < prefix.length && text[length] === prefix[length]) length++;
  return length;
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  if (parts.length === 1) return parts[0]!;
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
