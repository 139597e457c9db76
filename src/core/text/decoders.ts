/** Decoders of tokenizer files: from the texts of tokens back to text. */
import {
  arrayField,
  booleanField,
  charField,
  type Fields,
  fieldsOf,
  integerField,
  malformed,
  oneOfField,
  stringField,
} from './fields.ts';
import { finderOf } from './normalize.ts';
import type { Finder } from './pattern.ts';
import { decodeUtf8, encodeUtf8, fromByteChars } from './utf8.ts';

/** One step: `chain` changes the list of token texts, `piece` says what the step makes of a token within other text. */
export interface DecoderStep {
  chain(tokens: string[]): string[];
  /** A byte array ends the decoding of the piece. */
  piece(token: string): string | Uint8Array;
}

const MAX_DEPTH = 16;
const MAX_STEPS = 256;
const MAX_STRIP = 1 << 20;

/** The steps of a decoder, sequences flattened. */
export function decoderOf(value: unknown, path: string, depth = 0): readonly DecoderStep[] {
  const fields = fieldsOf(value, path);
  const type = stringField(fields, 'type');
  switch (type) {
    case 'Sequence': {
      const items = arrayField(fields, 'decoders');
      if (depth >= MAX_DEPTH) throw malformed(`${path}.decoders`, `sequences nested at most ${MAX_DEPTH} deep`, items);
      if (items.length > MAX_STEPS) throw malformed(`${path}.decoders`, `at most ${MAX_STEPS} decoders`, items);
      return items.flatMap((item, i) => decoderOf(item, `${path}.decoders[${i}]`, depth + 1));
    }
    case 'ByteLevel':
      return [byteLevelDecoder];
    case 'ByteFallback':
      return [byteFallbackDecoder];
    case 'Fuse':
      return [fuseDecoder];
    case 'Replace':
      return [replaceDecoder(finderOf(fields), stringField(fields, 'content'))];
    case 'Strip':
      return [
        stripDecoder(
          charField(fields, 'content'),
          integerField(fields, 'start', 0, MAX_STRIP),
          integerField(fields, 'stop', 0, MAX_STRIP),
        ),
      ];
    case 'Metaspace':
      return [metaspaceDecoder(fields)];
    case 'WordPiece':
      return [wordPieceDecoder(stringField(fields, 'prefix'), booleanField(fields, 'cleanup'))];
    case 'BPEDecoder':
      return [suffixDecoder(stringField(fields, 'suffix'))];
    case 'CTC':
      return [ctcDecoder(fields)];
    default:
      throw malformed(
        `${path}.type`,
        'Sequence | ByteLevel | ByteFallback | Fuse | Replace | Strip | Metaspace | WordPiece | BPEDecoder | CTC',
        type,
      );
  }
}

/** The bytes that one token adds to a text, apart from what depends on its place there. */
export function pieceBytes(steps: readonly DecoderStep[], token: string): Uint8Array {
  let piece = token;
  for (const step of steps) {
    const next = step.piece(piece);
    if (typeof next !== 'string') return next;
    piece = next;
  }
  return encodeUtf8(piece);
}

/** The bytes of a token of a byte-level vocabulary; a token with other characters stands for itself. */
export function byteLevelBytes(token: string): Uint8Array {
  return fromByteChars(token) ?? encodeUtf8(token);
}

export const byteLevelDecoder: DecoderStep = {
  chain(tokens) {
    const pieces = tokens.map(byteLevelBytes);
    const bytes = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
    let at = 0;
    for (const piece of pieces) {
      bytes.set(piece, at);
      at += piece.length;
    }
    return [decodeUtf8(bytes)];
  },
  piece: byteLevelBytes,
};

/** The byte of a token `<0xNN>`, or -1. */
export function byteOfToken(token: string): number {
  const match = token.length === 6 ? /^<0x([0-9a-fA-F]{2})>$/.exec(token) : null;
  return match === null ? -1 : Number.parseInt(match[1]!, 16);
}

export const byteFallbackDecoder: DecoderStep = {
  chain(tokens) {
    const result: string[] = [];
    let bytes: number[] = [];
    const flush = (): void => {
      if (bytes.length === 0) return;
      const text = strictUtf8(Uint8Array.from(bytes));
      if (text !== undefined) result.push(text);
      else for (const _ of bytes) result.push('\ufffd');
      bytes = [];
    };
    for (const token of tokens) {
      const byte = byteOfToken(token);
      if (byte >= 0) bytes.push(byte);
      else {
        flush();
        result.push(token);
      }
    }
    flush();
    return result;
  },
  piece(token) {
    const byte = byteOfToken(token);
    return byte < 0 ? token : Uint8Array.of(byte);
  },
};

function strictUtf8(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

export const fuseDecoder: DecoderStep = { chain: (tokens) => [tokens.join('')], piece: (token) => token };

/** Every match of a finder becomes `content`. */
export function replaceDecoder(finder: Finder, content: string): DecoderStep {
  return mapDecoder((token) => {
    let result = '';
    let done = 0;
    finder.find(token, (start, end) => {
      result += token.slice(done, start) + content;
      done = end;
    });
    return result + token.slice(done);
  });
}

function mapDecoder(change: (token: string) => string): DecoderStep {
  return { chain: (tokens) => tokens.map(change), piece: change };
}

/** Removes up to `start` leading and `stop` trailing characters that are `content`. */
export function stripDecoder(content: string, start: number, stop: number): DecoderStep {
  const strip = (token: string): string => {
    let from = 0;
    let to = token.length;
    for (let i = 0; i < start && token.startsWith(content, from); i++) from += content.length;
    for (let i = 0; i < stop && to > from && token.endsWith(content) && token.slice(0, to).endsWith(content); i++) {
      to -= content.length;
    }
    return token.slice(from, to);
  };
  return { chain: (tokens) => tokens.map(strip), piece: (token) => token };
}

function metaspaceDecoder(fields: Fields): DecoderStep {
  const replacement = charField(fields, 'replacement');
  const absent = fields.value['add_prefix_space'] === false ? 'never' : 'always';
  const scheme = oneOfField(fields, 'prepend_scheme', ['first', 'never', 'always'], absent);
  const spaced = (token: string): string => token.replaceAll(replacement, ' ');
  return {
    chain: (tokens) =>
      tokens.map((token, i) => (i === 0 && scheme !== 'never' ? token.replaceAll(replacement, '') : spaced(token))),
    piece: spaced,
  };
}

function wordPieceDecoder(prefix: string, cleanup: boolean): DecoderStep {
  const follow = (token: string): string => (token.startsWith(prefix) ? token.slice(prefix.length) : ` ${token}`);
  const clean = cleanup ? cleanSpaces : (token: string): string => token;
  return {
    chain: (tokens) => tokens.map((token, i) => clean(i === 0 ? token : follow(token))),
    piece: (token) => clean(follow(token)),
  };
}

/** Takes away the space before English punctuation and contractions. */
function cleanSpaces(text: string): string {
  return text
    .replaceAll(' .', '.')
    .replaceAll(' ?', '?')
    .replaceAll(' !', '!')
    .replaceAll(' ,', ',')
    .replaceAll(" ' ", "'")
    .replaceAll(" n't", "n't")
    .replaceAll(" 'm", "'m")
    .replaceAll(' do not', " don't")
    .replaceAll(" 's", "'s")
    .replaceAll(" 've", "'ve")
    .replaceAll(" 're", "'re");
}

function suffixDecoder(suffix: string): DecoderStep {
  const replace = (token: string, by: string): string => (suffix === '' ? token : token.replaceAll(suffix, by));
  return {
    chain: (tokens) => tokens.map((token, i) => replace(token, i === tokens.length - 1 ? '' : ' ')),
    piece: (token) => replace(token, ' '),
  };
}

function ctcDecoder(fields: Fields): DecoderStep {
  const pad = stringField(fields, 'pad_token');
  const delimiter = stringField(fields, 'word_delimiter_token');
  const cleanup = booleanField(fields, 'cleanup');
  const clean = (token: string): string => {
    const bare = pad === '' ? token : token.replaceAll(pad, '');
    return cleanup ? cleanSpaces(bare).replaceAll(delimiter, ' ') : bare;
  };
  return {
    chain: (tokens) =>
      tokens
        .filter((token, i) => token !== tokens[i - 1])
        .map(clean)
        .filter((token) => token !== ''),
    piece: clean,
  };
}
