/** The tokenizer: text to token ids and back. */
import { FormatError, InferenceError, messageOf } from '../errors.ts';
import { openSource } from '../io/open.ts';
import type { Platform } from '../platform.ts';
import type { AddedToken, TokenMatcher } from './addedTokens.ts';
import { byteLevelDecoder, type DecoderStep, pieceBytes } from './decoders.ts';
import { partsOfGguf } from './gguf.ts';
import { IdList } from './idList.ts';
import type { TokenModel } from './model.ts';
import type { Draft, Normalizer } from './normalize.ts';
import type { PostProcessor, Run } from './postprocess.ts';
import { Pieces, type PreTokenizer } from './pretokenize.ts';
import { StreamDecoder, type StreamOptions } from './stream.ts';
import { partsOfJson } from './tokenizerJson.ts';
import { type Padding, pad, type Truncation, truncate } from './truncate.ts';
import { byteOfChar, decodeUtf8, encodeUtf8, wellFormed } from './utf8.ts';

/** Published files have up to 40 MB. */
const MAX_JSON_BYTES = 1 << 28;

export interface EncodeOptions {
  /** Adds what the post-processor adds: begin and end tokens, separators. Default true. */
  readonly addSpecialTokens?: boolean;
  /** Special tokens written out in the text become their ids; else they are plain text. Default true. */
  readonly parseSpecialTokens?: boolean;
  /** Obeys the truncation that the file asks for, if any. Default true. */
  readonly truncate?: boolean;
  /** Obeys the padding that the file asks for, if any. Default true. */
  readonly pad?: boolean;
  /** A limit in tokens in place of the file's. */
  readonly maxLength?: number;
}

export interface DecodeOptions {
  /** Leaves special tokens out. Default false. */
  readonly skipSpecialTokens?: boolean;
}

/** Ids of two texts with, for each, the number of the text it belongs to. */
export interface EncodedPair {
  readonly ids: Uint32Array;
  readonly typeIds: Uint32Array;
}

/** Ids that play a role, where they are known. */
export interface SpecialTokenIds {
  readonly bos?: number | undefined;
  readonly eos?: number | undefined;
  readonly unk?: number | undefined;
  readonly pad?: number | undefined;
}

/** Everything a tokenizer consists of, as its readers put it together. */
export interface TokenizerParts {
  readonly model: TokenModel;
  readonly normalizer: Normalizer | undefined;
  readonly preTokenizer: PreTokenizer | undefined;
  readonly postProcessor: PostProcessor | undefined;
  /** `undefined`: tokens are joined by spaces. */
  readonly decoder: readonly DecoderStep[] | undefined;
  readonly addedTokens: ReadonlyMap<number, AddedToken>;
  /** Texts of added tokens as decoders see them, where those are not the tokens' contents. */
  readonly decodedTexts: ReadonlyMap<number, string>;
  /** Added tokens stand for their text as it is, also where texts of tokens are byte characters. */
  readonly literalAddedTokens: boolean;
  readonly rawMatcher: TokenMatcher;
  readonly normalizedMatcher: TokenMatcher;
  readonly truncation: Truncation | undefined;
  readonly padding: Padding | undefined;
  readonly special: SpecialTokenIds;
}

/** What `Tokenizer.fromJson` takes: the parsed file, its text or bytes, a URL, or a path. */
export type TokenizerInput = Readonly<Record<string, unknown>> | string | URL | Uint8Array;

export interface TokenizerOptions {
  /** Opens paths; without it they are refused. */
  readonly platform?: Platform | undefined;
}

/** A reader's view of a GGUF file: its key-value metadata. */
export interface HasMetadata {
  readonly metadata: ReadonlyMap<string, unknown>;
}

/**
 * Turns text into token ids and back, exactly as the library does that the file was made for.
 *
 * ```ts
 * const tokenizer = await Tokenizer.fromJson(new URL('https://example.org/tokenizer.json'));
 * const ids = tokenizer.encode('Hello');
 * tokenizer.decode(ids, { skipSpecialTokens: true }); // 'Hello'
 * ```
 */
export class Tokenizer {
  /** One more than the highest id. */
  readonly vocabSize: number;
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;
  readonly unkId: number | undefined;
  readonly padId: number | undefined;
  readonly #parts: TokenizerParts;
  readonly #idsByContent = new Map<string, number>();
  /** Special tokens that decoding can leave out. */
  readonly #skippable = new Set<number>();
  /** Decoded text is the bytes of all tokens, in the byte alphabet. */
  readonly #isByteLevel: boolean;

  constructor(parts: TokenizerParts) {
    this.#parts = parts;
    const added = [...parts.addedTokens.values()];
    // What is left out is known by its text: a normalizer may make a token look like a special one, or unlike itself.
    const special = new Set(added.flatMap((token) => (token.special ? [token.content] : [])));
    let size = parts.model.vocabulary.size;
    for (const { id, content } of added) {
      this.#idsByContent.set(content, id);
      size = Math.max(size, id + 1);
      if (special.has(parts.decodedTexts.get(id) ?? content)) this.#skippable.add(id);
    }
    this.vocabSize = size;
    this.bosId = parts.special.bos;
    this.eosId = parts.special.eos;
    this.unkId = parts.special.unk;
    this.padId = parts.special.pad;
    this.#isByteLevel = parts.decoder?.length === 1 && parts.decoder[0] === byteLevelDecoder;
  }

  /** Reads a `tokenizer.json`. Throws `FormatError` naming the field that is wrong. */
  static async fromJson(input: TokenizerInput, options: TokenizerOptions = {}): Promise<Tokenizer> {
    return new Tokenizer(partsOfJson(await readJson(input, options)));
  }

  /** Reads the vocabulary in the metadata of a GGUF file. Throws `FormatError` naming the key that is wrong. */
  static fromGguf(gguf: HasMetadata): Tokenizer {
    return new Tokenizer(partsOfGguf(gguf.metadata));
  }

  /** Ids of special tokens, ascending. */
  get specialIds(): readonly number[] {
    const { addedTokens } = this.#parts;
    return [...addedTokens.values()].flatMap(({ id, special }) => (special ? [id] : [])).sort((a, b) => a - b);
  }

  /** The ids of a text. */
  encode(text: string, options: EncodeOptions = {}): Uint32Array {
    const runs = this.#finish([this.#encodeText(text, options)], options);
    const only = runs.length === 1 ? runs[0]!.ids : undefined;
    return only instanceof Uint32Array ? only : joinIds(runs);
  }

  /** The ids of two texts, as models that compare texts take them. */
  encodePair(first: string, second: string, options: EncodeOptions = {}): EncodedPair {
    const runs = this.#finish([this.#encodeText(first, options), this.#encodeText(second, options)], options);
    const ids = joinIds(runs);
    const typeIds = new Uint32Array(ids.length);
    let at = 0;
    for (const run of runs) typeIds.fill(run.typeId, at, (at += run.ids.length));
    return { ids, typeIds };
  }

  /** The text of ids. Throws `InferenceError` for an id that is not in the vocabulary. */
  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    const list = [...ids];
    for (const id of list) if (!this.#knows(id)) throw this.#unknown(id);
    return this.#textOf(list, options.skipSpecialTokens ?? false);
  }

  /** A decoder for ids that come one by one. Ids that are not in the vocabulary add no text. */
  stream(options: StreamOptions = {}): StreamDecoder {
    const bytesOf = (id: number, skip: boolean): Uint8Array =>
      !this.#knows(id) || (skip && this.#skippable.has(id)) ? new Uint8Array(0) : this.tokenBytes(id);
    return new StreamDecoder(
      {
        textOf: (ids, skip) =>
          this.#textOf(
            ids.filter((id) => this.#knows(id)),
            skip,
          ),
        bytesOf: this.#isByteLevel ? bytesOf : () => undefined,
      },
      options,
    );
  }

  /**
   * The bytes that a token adds to a text, apart from what depends on its place there (a space dropped at the start).
   * They need not be whole characters. Throws `InferenceError` for an id that is not in the vocabulary.
   */
  tokenBytes(id: number): Uint8Array {
    if (!this.#knows(id)) throw this.#unknown(id);
    const text = this.#decoderText(id);
    const { addedTokens, decoder = [], literalAddedTokens } = this.#parts;
    return literalAddedTokens && addedTokens.has(id) ? encodeUtf8(text) : pieceBytes(decoder, text);
  }

  /** The id of a token by its text in the vocabulary (`Ġthe`, `▁the`, `<s>`), or `undefined`. */
  tokenToId(token: string): number | undefined {
    const added = this.#idsByContent.get(token);
    if (added !== undefined) return added;
    const id = this.#parts.model.vocabulary.findText(token);
    return id < 0 ? undefined : id;
  }

  /** The text of a token in the vocabulary, or `undefined`. */
  idToToken(id: number): string | undefined {
    return this.#knows(id) ? this.#decoderText(id) : undefined;
  }

  #knows(id: number): boolean {
    return this.#parts.addedTokens.has(id) || this.#parts.model.vocabulary.has(id);
  }

  #unknown(id: number): InferenceError {
    return new InferenceError(`token id: expected one of the ${this.vocabSize} ids of the vocabulary, got ${id}`);
  }

  #decoderText(id: number): string {
    const added = this.#parts.addedTokens.get(id);
    if (added === undefined) return this.#parts.model.vocabulary.text(id)!;
    return this.#parts.decodedTexts.get(id) ?? added.content;
  }

  #textOf(ids: readonly number[], skipSpecialTokens: boolean): string {
    const kept = skipSpecialTokens ? ids.filter((id) => !this.#skippable.has(id)) : ids;
    if (this.#isByteLevel) return this.#byteLevelText(kept);
    const tokens = kept.map((id) => this.#decoderText(id));
    const { decoder } = this.#parts;
    if (decoder === undefined) return tokens.join(' ');
    return decoder.reduce((chain, step) => step.chain(chain), tokens).join('');
  }

  /** Byte characters are one or two bytes of UTF-8 each; no string per token is needed to read them. */
  #byteLevelText(ids: readonly number[]): string {
    const { model, addedTokens } = this.#parts;
    let bytes = new Uint8Array(256);
    let length = 0;
    for (const id of ids) {
      const token = addedTokens.has(id) ? this.tokenBytes(id) : model.vocabulary.bytes(id);
      if (length + token.length > bytes.length) {
        const larger = new Uint8Array(2 * (length + token.length));
        larger.set(bytes);
        bytes = larger;
      }
      const end = addedTokens.has(id) ? -1 : unmapBytes(token, bytes, length);
      if (end < 0) {
        bytes.set(token, length);
        length += token.length;
      } else length = end;
    }
    return decodeUtf8(bytes.subarray(0, length));
  }

  #encodeText(text: string, options: EncodeOptions): Uint32Array {
    const { rawMatcher, normalizedMatcher, normalizer } = this.#parts;
    const plain = options.parseSpecialTokens === false;
    const source = wellFormed(text);
    const out = new IdList();
    for (const part of rawMatcher.parts(source, plain)) {
      if (part.id !== undefined) {
        out.push(part.id);
        continue;
      }
      const stretch = source.slice(part.start, part.end);
      const draft: Draft = { text: stretch, head: part.start > 0 ? 0 : stretch.codePointAt(0)! > 0xffff ? 2 : 1 };
      normalizer?.(draft);
      for (const inner of normalizedMatcher.parts(draft.text, plain)) {
        if (inner.id !== undefined) out.push(inner.id);
        else this.#encodePiece(draft.text.slice(inner.start, inner.end), Math.max(0, draft.head - inner.start), out);
      }
    }
    return out.toArray();
  }

  #encodePiece(text: string, head: number, out: IdList): void {
    const { model, preTokenizer } = this.#parts;
    let pieces = new Pieces();
    pieces.add(text, head);
    for (const step of preTokenizer?.steps ?? []) {
      const finer = new Pieces();
      const { texts, heads } = pieces;
      for (let i = 0; i < texts.length; i++) step(texts[i]!, heads[i]!, finer);
      pieces = finer;
    }
    const asBytes = preTokenizer?.endsInBytes ?? false;
    for (const word of pieces.texts) model.encode(word, asBytes, out);
  }

  #finish(texts: readonly Uint32Array[], options: EncodeOptions): readonly Run[] {
    const { postProcessor, truncation, padding } = this.#parts;
    const addSpecialTokens = options.addSpecialTokens ?? true;
    let cut = texts;
    const limit = options.maxLength ?? (options.truncate === false ? undefined : truncation?.maxLength);
    if (limit !== undefined) {
      const added = addSpecialTokens ? (postProcessor?.added(texts.length === 2) ?? 0) : 0;
      const { strategy, left } = truncation ?? { strategy: 'LongestFirst', left: false };
      cut = truncate(texts, { maxLength: limit, strategy, left }, added);
    }
    const encoded = cut.map((ids, i): readonly Run[] => [{ ids, typeId: i }]);
    const runs = (postProcessor?.process(encoded, addSpecialTokens) ?? encoded).flat();
    return padding === undefined || options.pad === false ? runs : pad(runs, padding);
  }
}

function joinIds(runs: readonly Run[]): Uint32Array {
  const ids = new Uint32Array(runs.reduce((sum, run) => sum + run.ids.length, 0));
  let at = 0;
  for (const run of runs) {
    ids.set(run.ids, at);
    at += run.ids.length;
  }
  return ids;
}

/** Writes the bytes that a token of the byte alphabet (in UTF-8) stands for; -1 when it has other characters. */
function unmapBytes(token: Uint8Array, target: Uint8Array, at: number): number {
  for (let i = 0; i < token.length; i++) {
    const lead = token[i]!;
    const code = lead < 0x80 ? lead : lead < 0xe0 ? ((lead & 0x1f) << 6) | (token[++i]! & 0x3f) : 0xffff;
    const byte = byteOfChar(code);
    if (byte < 0) return -1;
    target[at++] = byte;
  }
  return at;
}

async function readJson(input: TokenizerInput, options: TokenizerOptions): Promise<unknown> {
  if (typeof input === 'object' && !(input instanceof URL) && !(input instanceof Uint8Array)) return input;
  if (input instanceof Uint8Array) return parseJson(decodeUtf8(input), 'tokenizer.json');
  if (typeof input === 'string' && /^\s*\{/.test(input)) return parseJson(input, 'tokenizer.json');
  const source = await openSource(input, options);
  try {
    if (source.size > MAX_JSON_BYTES) {
      throw new FormatError(`${source.name}: expected at most ${MAX_JSON_BYTES} bytes, got ${source.size}`);
    }
    return parseJson(decodeUtf8(await source.slice(0, source.size)), source.name);
  } finally {
    await source.close();
  }
}

function parseJson(text: string, name: string): unknown {
  try {
    return JSON.parse(text.startsWith('\ufeff') ? text.slice(1) : text);
  } catch (error) {
    throw new FormatError(`${name}: expected JSON, got ${messageOf(error)}`, { cause: error });
  }
}
