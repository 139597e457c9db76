/** Reads the vocabulary in GGUF metadata: the parts of a tokenizer from the `tokenizer.ggml.*` keys. */
import { UnsupportedError } from '../errors.ts';
import { type AddedToken, TokenMatcher } from './addedTokens.ts';
import { BpeModel } from './bpe.ts';
import { Charsmap } from './charsmap.ts';
import {
  byteFallbackDecoder,
  byteLevelDecoder,
  type DecoderStep,
  fuseDecoder,
  replaceDecoder,
  stripDecoder,
} from './decoders.ts';
import { integerOf, malformed } from './fields.ts';
import { type GgufPreTokenizer, ggufPreTokenizer, ggufPreTokenizerNames } from './ggufPre.ts';
import { type Merges, MergeTable, OrderedMerges } from './mergeTable.ts';
import type { TokenModel } from './model.ts';
import { inSequence, type Normalizer, normalizerOf, prepender, replacer } from './normalize.ts';
import { literalFinder, patternFinder } from './pattern.ts';
import { affixes, type PostProcessor } from './postprocess.ts';
import { BYTE_CHARS, finishSteps, type PreTokenizer, preTokenizerOf, splitter } from './pretokenize.ts';
import { SpmModel } from './spm.ts';
import type { SpecialTokenIds, TokenizerParts } from './tokenizer.ts';
import { sequenceLength, UnigramModel } from './unigram.ts';
import { decodeUtf8, encodeUtf8 } from './utf8.ts';
import { type TextColumn, Vocabulary } from './vocabulary.ts';
import { WordPieceModel } from './wordPiece.ts';

const SPACE_MARK = '▁';
const PREFIX = 'tokenizer.ggml.';
const MAX_MERGES = 1 << 24;

/** Token types of GGUF. */
const UNKNOWN = 2;
const CONTROL = 3;
const USER_DEFINED = 4;
const NORMAL = 1;
const UNUSED = 5;

/** End-of-turn tokens that some files list as ordinary ones. */
const CONTROL_TEXTS = [
  '<|eot_id|>',
  '<|im_end|>',
  '<|end|>',
  '<|return|>',
  '<|call|>',
  '<end_of_turn>',
  '<|endoftext|>',
  '<|eom_id|>',
  '<EOT>',
  '_<EOT>',
  '[EOT]',
  '<|end_of_text|>',
  '<end_of_utterance>',
  '<｜end▁of▁sentence｜>',
  '</s>',
  '<eos>',
  '[EOS]',
  '<|calls|>',
  '<|flush|>',
  '<turn|>',
  '<|tool_response>',
];

/** GGUF metadata, also that of the reader of this package, which gives string arrays as bytes. */
type Metadata = ReadonlyMap<string, unknown> & { strings?(key: string): TextColumn | undefined };

export function partsOfGguf(metadata: Metadata): TokenizerParts {
  const file = new GgufVocabulary(metadata);
  switch (file.model) {
    case 'gpt2':
    case 'gemma4':
      return bpeParts(file);
    case 'llama':
      return spmParts(file);
    case 't5':
      return unigramParts(file);
    case 'bert':
      return wordPieceParts(file);
    default:
      throw new UnsupportedError(
        `${PREFIX}model: expected gpt2 | gemma4 | llama | t5 | bert, got ${JSON.stringify(file.model)}; pass the model's tokenizer.json`,
        { feature: 'GGUF vocabulary' },
      );
  }
}

/** The keys of one file, checked as they are read. */
class GgufVocabulary {
  readonly model: string;
  readonly vocabulary: Vocabulary;
  readonly #metadata: Metadata;

  constructor(metadata: Metadata) {
    this.#metadata = metadata;
    this.model = this.text('model') ?? '';
    const tokens = this.texts('tokens');
    if (tokens === undefined) throw malformed(`${PREFIX}tokens`, 'an array of strings', undefined);
    this.vocabulary = Vocabulary.fromTexts(tokens, `${PREFIX}tokens`);
  }

  text(key: string): string | undefined {
    const value = this.#metadata.get(PREFIX + key);
    if (value !== undefined && typeof value !== 'string') throw malformed(PREFIX + key, 'a string', value);
    return value;
  }

  general(key: string): string {
    const value = this.#metadata.get(`general.${key}`);
    return typeof value === 'string' ? value : '';
  }

  switch(key: string, absent: boolean): boolean {
    const value = this.#metadata.get(PREFIX + key) ?? absent;
    if (typeof value !== 'boolean') throw malformed(PREFIX + key, 'true or false', value);
    return value;
  }

  /** A token id; `absent` where the key is missing and that id exists. */
  id(key: string, absent?: number): number | undefined {
    const value = this.#metadata.get(PREFIX + key);
    // Writers that know no such token leave a number out of range.
    const id =
      typeof value === 'number' && value < this.vocabulary.size ? integerOf(value, PREFIX + key, -1, 2 ** 31) : absent;
    return id !== undefined && id >= 0 && id < this.vocabulary.size ? id : undefined;
  }

  texts(key: string): TextColumn | readonly string[] | undefined {
    const column = this.#metadata.strings?.(PREFIX + key);
    if (column !== undefined) return column;
    const value = this.#metadata.get(PREFIX + key);
    if (value === undefined) return undefined;
    if (!Array.isArray(value) || value.some((item) => typeof item !== 'string')) {
      throw malformed(PREFIX + key, 'an array of strings', value);
    }
    return value as readonly string[];
  }

  /** One number per token, or `undefined`. */
  numbers(key: string): ArrayLike<number> | undefined {
    const value = this.#metadata.get(PREFIX + key);
    if (value === undefined) return undefined;
    const numbers =
      ArrayBuffer.isView(value) || Array.isArray(value) ? (value as unknown as ArrayLike<number>) : undefined;
    if (numbers === undefined || numbers.length < this.vocabulary.size || typeof numbers[0] !== 'number') {
      throw malformed(PREFIX + key, `an array of ${this.vocabulary.size} numbers`, value);
    }
    return numbers;
  }

  bytes(key: string): Uint8Array | undefined {
    const value = this.#metadata.get(PREFIX + key);
    if (value === undefined) return undefined;
    if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
    if (!Array.isArray(value)) throw malformed(PREFIX + key, 'an array of bytes', value);
    return Uint8Array.from(value as readonly number[], (byte) => byte & 255);
  }

  special(bos?: number, eos?: number, unk?: number, pad?: number): SpecialTokenIds {
    return {
      bos: this.id('bos_token_id', bos),
      eos: this.id('eos_token_id', eos),
      unk: this.id('unknown_token_id', unk),
      pad: this.id('padding_token_id', pad),
    };
  }

  /** Begin and end tokens, as the switches of the file say. */
  affixes(special: SpecialTokenIds, addBos: boolean, addEos: boolean): PostProcessor {
    const bos = this.switch('add_bos_token', addBos) ? special.bos : undefined;
    const eos = this.switch('add_eos_token', addEos) ? special.eos : undefined;
    return affixes(bos === undefined ? [] : [bos], eos === undefined ? [] : [eos]);
  }
}

type AddedParts = Pick<TokenizerParts, 'addedTokens' | 'decodedTexts' | 'rawMatcher' | 'normalizedMatcher'>;

/** Control, unknown and user-defined tokens are found in the text as a whole. */
function addedOf(file: GgufVocabulary): AddedParts {
  const { vocabulary } = file;
  const types = file.numbers('token_type');
  const addedTokens = new Map<number, AddedToken>();
  const add = (id: number, special: boolean): void => {
    const content = vocabulary.text(id) ?? '';
    if (content === '') return;
    addedTokens.set(id, { id, content, special, singleWord: false, normalized: false, ...strips(file, content) });
  };
  for (let id = 0; types !== undefined && id < vocabulary.size; id++) {
    const type = types[id]!;
    if (type === CONTROL || type === UNKNOWN || type === USER_DEFINED) add(id, type !== USER_DEFINED);
  }
  for (const text of CONTROL_TEXTS) {
    const id = vocabulary.findText(text);
    if (id >= 0 && !addedTokens.get(id)?.special) add(id, true);
  }
  const entries = [...addedTokens.values()].map((token) => ({ token, pattern: token.content }));
  return {
    addedTokens,
    decodedTexts: new Map(),
    rawMatcher: new TokenMatcher(entries, 'longestFirst'),
    normalizedMatcher: new TokenMatcher([], 'leftmost'),
  };
}

/** Files do not say which tokens take white space along; it is known of some models. */
function strips(file: GgufVocabulary, content: string): { readonly lstrip: boolean; readonly rstrip: boolean } {
  const pre = file.text('pre') ?? '';
  const name = file.general('name').toLowerCase();
  const isJina = /jina-v2-(?:de|es|code)/.test(pre) || /nomic-bert-moe|jina-bert-v3/.test(file.general('architecture'));
  const isPhi3 = name.includes('phi-3') || name.includes('phi3');
  return {
    lstrip: (isJina && content === '<mask>') || (name.includes('modern-bert') && content === '[MASK]'),
    rstrip: isPhi3 && !['<unk>', '<s>', '<|endoftext|>'].includes(content),
  };
}

function parts(
  file: GgufVocabulary,
  special: SpecialTokenIds,
  own: {
    readonly model: TokenModel;
    readonly normalizer?: Normalizer | undefined;
    readonly preTokenizer?: PreTokenizer;
    readonly postProcessor: PostProcessor;
    readonly decoder: readonly DecoderStep[];
  },
): TokenizerParts {
  return {
    normalizer: undefined,
    preTokenizer: undefined,
    ...own,
    ...addedOf(file),
    literalAddedTokens: true,
    truncation: undefined,
    padding: undefined,
    special,
  };
}

function bpeParts(file: GgufVocabulary): TokenizerParts {
  const pre = preTokenizerOfFile(file);
  const merges = file.texts('merges');
  if (merges === undefined) throw malformed(`${PREFIX}merges`, 'an array of strings', undefined);
  if (merges.length > MAX_MERGES) throw malformed(`${PREFIX}merges`, `at most ${MAX_MERGES} merges`, merges.length);
  const { vocabulary } = file;
  const model = new BpeModel(vocabulary, () => mergesOf(merges, vocabulary), {
    byteFallback: pre.plainText,
    // Runs of line breaks are tokens of their own that no merges lead to.
    wholeWords: pre.ignoreMerges ? () => true : pre.plainText ? (word) => /^\n+$/.test(word) : undefined,
  });
  const steps = pre.patterns.map((pattern, i) => splitter(patternFinder(pattern, `${PREFIX}pre[${i}]`), 'Isolated'));
  const special = file.special();
  return parts(file, special, {
    model,
    normalizer: pre.plainText ? replacer(literalFinder(' '), SPACE_MARK) : undefined,
    preTokenizer: finishSteps(pre.plainText ? steps : [...steps, BYTE_CHARS], true),
    postProcessor: file.affixes(special, pre.addBos ?? false, false),
    decoder: pre.plainText
      ? [replaceDecoder(literalFinder(SPACE_MARK), ' '), byteFallbackDecoder, fuseDecoder]
      : [byteLevelDecoder],
  });
}

function preTokenizerOfFile(file: GgufVocabulary): GgufPreTokenizer {
  const name = file.model === 'gemma4' ? 'gemma4' : file.text('pre') || 'default';
  const pre = ggufPreTokenizer(name);
  if (pre !== undefined) return pre;
  throw new UnsupportedError(
    `${PREFIX}pre: expected one of ${ggufPreTokenizerNames().join(', ')}, got ${JSON.stringify(name)}; pass the model's tokenizer.json`,
    { feature: 'GGUF pre-tokenizer' },
  );
}

/** Merges are written as two texts with a space between. Those of texts that are no tokens are left out: no id is theirs. */
function mergesOf(merges: TextColumn | readonly string[], vocabulary: Vocabulary): Merges {
  const ordered = 'starts' in merges ? OrderedMerges.of(merges, vocabulary) : undefined;
  if (ordered !== undefined) return ordered;
  const table = new MergeTable(merges.length);
  const add = (bytes: Uint8Array, start: number, end: number, rank: number): void => {
    const space = bytes.indexOf(0x20, start + 1);
    if (space < 0 || space >= end) return;
    const left = vocabulary.find(bytes, start, space);
    const right = vocabulary.find(bytes, space + 1, end);
    const joined = vocabulary.findJoined(bytes, start, space, space + 1, end);
    if (left >= 0 && right >= 0 && joined >= 0) table.add(left, right, rank, joined);
  };
  if ('starts' in merges) {
    for (let i = 0; i < merges.length; i++) add(merges.bytes, merges.starts[i]!, merges.end(i), i);
  } else {
    merges.forEach((merge, i) => {
      const bytes = encodeUtf8(merge);
      add(bytes, 0, bytes.length, i);
    });
  }
  return table;
}

/** Decoding where spaces are marks and bytes are tokens `<0xNN>`. */
function markDecoder(dropFirstSpace: boolean): readonly DecoderStep[] {
  const steps = [replaceDecoder(literalFinder(SPACE_MARK), ' '), byteFallbackDecoder, fuseDecoder];
  return dropFirstSpace ? [...steps, stripDecoder(' ', 1, 0)] : steps;
}

function scoresOf(file: GgufVocabulary): ArrayLike<number> {
  return file.numbers('scores') ?? new Float32Array(file.vocabulary.size);
}

function spmParts(file: GgufVocabulary): TokenizerParts {
  const special = file.special(1, 2, 0);
  const spacePrefix = file.switch('add_space_prefix', true);
  const marks = replacer(literalFinder(' '), SPACE_MARK);
  return parts(file, special, {
    model: new SpmModel(file.vocabulary, scoresOf(file), special.unk ?? 0),
    normalizer: spacePrefix ? inSequence([prepender(' '), marks]) : marks,
    postProcessor: file.affixes(special, true, false),
    decoder: markDecoder(spacePrefix),
  });
}

function unigramParts(file: GgufVocabulary): TokenizerParts {
  const special = file.special(undefined, 1, 2, 0);
  const types = file.numbers('token_type');
  const scores = Float64Array.from(scoresOf(file));
  let minScore = Number.POSITIVE_INFINITY;
  for (let id = 0; id < file.vocabulary.size; id++) {
    const type = types?.[id] ?? NORMAL;
    if (type === NORMAL) minScore = Math.min(minScore, scores[id]!);
    // User-defined tokens win over any others.
    if (type === USER_DEFINED) scores[id] = 0;
  }
  const isHidden = (id: number): boolean => {
    const type = types?.[id] ?? NORMAL;
    return type !== NORMAL && type !== USER_DEFINED && type !== UNUSED;
  };
  const map = file.bytes('precompiled_charsmap');
  const spacePrefix = file.switch('add_space_prefix', false);
  return parts(file, special, {
    model: new UnigramModel(file.vocabulary, scores, { unkId: special.unk, minScore, isHidden }),
    normalizer: unigramNormalizer(
      map && map.length > 0 ? Charsmap.parse(map, `${PREFIX}precompiled_charsmap`) : undefined,
      spacePrefix,
      file.switch('remove_extra_whitespaces', false),
    ),
    postProcessor: file.affixes(special, false, true),
    decoder: markDecoder(spacePrefix),
  });
}

/** Replaces by the character map (longest match first), and marks spaces: one before the text, or one per run. */
function unigramNormalizer(map: Charsmap | undefined, spacePrefix: boolean, mergeSpaces: boolean): Normalizer {
  return (draft) => {
    const text = map === undefined ? draft.text : mapped(draft.text, map);
    let result = '';
    let prefixed = false;
    let inWord = false;
    for (const char of text) {
      if (char !== ' ') {
        if (!inWord && ((spacePrefix && !prefixed) || mergeSpaces)) {
          result += SPACE_MARK;
          prefixed = true;
        }
        inWord = true;
        result += char;
      } else {
        inWord = false;
        if (!mergeSpaces) result += SPACE_MARK;
      }
    }
    draft.text = result;
    draft.head = 0;
  };
}

function mapped(text: string, map: Charsmap): string {
  const bytes = encodeUtf8(text);
  let result = '';
  for (let at = 0; at < bytes.length; ) {
    const found = map.longest(bytes, at, bytes.length);
    if (found.length > 0) {
      result += found.text;
      at += found.length;
      continue;
    }
    const end = at + sequenceLength(bytes[at]!);
    result += decodeUtf8(bytes.subarray(at, end));
    at = end;
  }
  return result;
}

function wordPieceParts(file: GgufVocabulary): TokenizerParts {
  const special = file.special(101, undefined, 100, 0);
  const sep = file.id('seperator_token_id', 102) ?? file.id('separator_token_id');
  const lowercase = file.switch('normalizer.lowercase', true);
  const normalizer = normalizerOf(
    {
      type: 'BertNormalizer',
      clean_text: true,
      handle_chinese_chars: true,
      strip_accents: file.switch('normalizer.strip_accents', lowercase),
      lowercase,
    },
    `${PREFIX}normalizer`,
  );
  const words = preTokenizerOf({ type: 'BertPreTokenizer' }, `${PREFIX}model`, false);
  return parts(file, special, {
    model: new WordPieceModel(file.vocabulary, {
      unkToken: file.vocabulary.text(special.unk ?? 0) ?? '',
      continuingPrefix: '',
      maxCharacters: Number.MAX_SAFE_INTEGER,
    }),
    normalizer,
    // First pieces of words have a mark in such vocabularies, where others mark continuations.
    preTokenizer: { steps: [...words.steps, (text, _, out) => out.add(SPACE_MARK + text, 0)], endsInBytes: false },
    postProcessor: affixes(special.bos === undefined ? [] : [special.bos], sep === undefined ? [] : [sep]),
    decoder: markDecoder(true),
  });
}
