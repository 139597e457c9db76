/** Reads `tokenizer.json`: the parts of a tokenizer from the sections of the file. */
import { FormatError } from '../errors.ts';
import { type AddedToken, TokenMatcher } from './addedTokens.ts';
import { BpeModel } from './bpe.ts';
import { decoderOf } from './decoders.ts';
import {
  arrayField,
  booleanField,
  type Fields,
  fieldsOf,
  integerField,
  integerOf,
  malformed,
  objectField,
  oneOfField,
  optionalFields,
  optionalString,
  stringField,
} from './fields.ts';
import { MergeTable } from './mergeTable.ts';
import type { TokenModel } from './model.ts';
import { type Normalizer, normalizerOf } from './normalize.ts';
import { postProcessorOf } from './postprocess.ts';
import { preTokenizerOf } from './pretokenize.ts';
import type { SpecialTokenIds, TokenizerParts } from './tokenizer.ts';
import { paddingOf, truncationOf } from './truncate.ts';
import { UnigramModel } from './unigram.ts';
import { encodeUtf8 } from './utf8.ts';
import { Vocabulary } from './vocabulary.ts';
import { WordLevelModel, WordPieceModel } from './wordPiece.ts';

const MAX_ADDED_TOKENS = 1 << 20;
const MAX_MERGES = 1 << 24;
const MAX_WORD_CHARACTERS = Number.MAX_SAFE_INTEGER;

export function partsOfJson(json: unknown): TokenizerParts {
  const file = fieldsOf(json, 'tokenizer.json');
  const version = optionalString(file, 'version');
  if (version !== undefined && version !== '1.0') throw malformed('tokenizer.json.version', '"1.0"', version);
  const model = modelOf(objectField(file, 'model'));
  const section = <T>(key: string, read: (value: unknown, path: string) => T): T | undefined => {
    const fields = optionalFields(file, key);
    return fields === undefined ? undefined : read(fields.value, fields.path);
  };
  const normalizer = section('normalizer', (value, path) => normalizerOf(value, path));
  const added = addedTokensOf(file, model, normalizer);
  const truncation = optionalFields(file, 'truncation');
  const padding = optionalFields(file, 'padding');
  const postProcessor = section('post_processor', (value, path) => postProcessorOf(value, path));
  return {
    model,
    normalizer,
    preTokenizer: section('pre_tokenizer', (value, path) => preTokenizerOf(value, path, model.readsBytes)),
    postProcessor,
    decoder: section('decoder', (value, path) => decoderOf(value, path)),
    ...added,
    literalAddedTokens: false,
    truncation: truncation && truncationOf(truncation),
    padding: padding && paddingOf(padding),
    special: specialIdsOf(file, model),
  };
}

function modelOf(fields: Fields): TokenModel {
  const types = ['BPE', 'WordPiece', 'WordLevel', 'Unigram'] as const;
  switch (oneOfField(fields, 'type', types, guessedType(fields))) {
    case 'BPE':
      return bpeOf(fields);
    case 'WordPiece':
      return new WordPieceModel(vocabularyOf(fields), {
        unkToken: stringField(fields, 'unk_token'),
        continuingPrefix: stringField(fields, 'continuing_subword_prefix'),
        maxCharacters: integerField(fields, 'max_input_chars_per_word', 0, MAX_WORD_CHARACTERS),
      });
    case 'WordLevel':
      return new WordLevelModel(vocabularyOf(fields), stringField(fields, 'unk_token'));
    case 'Unigram':
      return unigramOf(fields);
  }
}

/** Files of the first versions do not name the model. */
function guessedType({ value }: Fields): 'BPE' | 'WordPiece' | 'WordLevel' | 'Unigram' {
  if (value['merges'] !== undefined) return 'BPE';
  if (Array.isArray(value['vocab'])) return 'Unigram';
  return value['max_input_chars_per_word'] === undefined ? 'WordLevel' : 'WordPiece';
}

function vocabularyOf(fields: Fields): Vocabulary {
  const vocab = objectField(fields, 'vocab');
  return Vocabulary.fromEntries(Object.entries(vocab.value), vocab.path);
}

function bpeOf(fields: Fields): BpeModel {
  const vocabulary = vocabularyOf(fields);
  const continuingPrefix = optionalString(fields, 'continuing_subword_prefix') || undefined;
  const merges = mergesOf(fields, vocabulary, encodeUtf8(continuingPrefix ?? '').length);
  return new BpeModel(vocabulary, () => merges, {
    unkToken: optionalString(fields, 'unk_token'),
    continuingPrefix,
    endSuffix: optionalString(fields, 'end_of_word_suffix') || undefined,
    fuseUnk: booleanField(fields, 'fuse_unk', false),
    byteFallback: booleanField(fields, 'byte_fallback', false),
    wholeWords: booleanField(fields, 'ignore_merges', false) ? () => true : undefined,
  });
}

/** Merges are pairs of texts, in files of old one text with a space between. */
function mergesOf(fields: Fields, vocabulary: Vocabulary, prefixBytes: number): MergeTable {
  const path = `${fields.path}.merges`;
  const merges = arrayField(fields, 'merges');
  if (merges.length > MAX_MERGES) throw malformed(path, `at most ${MAX_MERGES} merges`, merges);
  const table = new MergeTable(merges.length);
  let rank = 0;
  merges.forEach((merge, i) => {
    if (typeof merge === 'string' && merge.startsWith('#version')) return;
    const pair: unknown = typeof merge === 'string' ? merge.split(' ') : merge;
    if (!Array.isArray(pair) || pair.length !== 2) throw malformed(`${path}[${i}]`, 'a pair of tokens', merge);
    const [left, right] = pair as readonly unknown[];
    if (typeof left !== 'string' || typeof right !== 'string') throw malformed(`${path}[${i}]`, 'two strings', merge);
    const joined = prefixBytes === 0 ? left + right : left + dropBytes(right, prefixBytes);
    const ids = [left, right, joined].map((text) => {
      const id = vocabulary.findText(text);
      if (id < 0)
        throw new FormatError(`${path}[${i}]: expected tokens of the vocabulary, got ${JSON.stringify(text)}`);
      return id;
    }) as [number, number, number];
    table.add(ids[0], ids[1], rank++, ids[2]);
  });
  return table;
}

function dropBytes(text: string, count: number): string {
  return new TextDecoder().decode(encodeUtf8(text).subarray(count));
}

function unigramOf(fields: Fields): UnigramModel {
  const path = `${fields.path}.vocab`;
  const items = arrayField(fields, 'vocab');
  const scores = new Float64Array(items.length);
  const texts = items.map((item, i) => {
    const [text, score] = Array.isArray(item) ? (item as readonly unknown[]) : [];
    if (typeof text !== 'string' || typeof score !== 'number') {
      throw malformed(`${path}[${i}]`, 'a pair of text and score', item);
    }
    scores[i] = score;
    return text;
  });
  const unk = fields.value['unk_id'];
  return new UnigramModel(Vocabulary.fromTexts(texts, path), scores, {
    unkId:
      unk === undefined || unk === null
        ? undefined
        : integerOf(unk, `${fields.path}.unk_id`, 0, Math.max(0, texts.length - 1)),
    byteFallback: booleanField(fields, 'byte_fallback', false),
  });
}

type AddedParts = Pick<TokenizerParts, 'addedTokens' | 'decodedTexts' | 'rawMatcher' | 'normalizedMatcher'>;

/** Added tokens get the id they have in the vocabulary, or the next free one: the numbers in the file only confirm it. */
function addedTokensOf(file: Fields, model: TokenModel, normalizer: Normalizer | undefined): AddedParts {
  const items = file.value['added_tokens'] === undefined ? [] : arrayField(file, 'added_tokens');
  if (items.length > MAX_ADDED_TOKENS) {
    throw malformed(`${file.path}.added_tokens`, `at most ${MAX_ADDED_TOKENS} tokens`, items);
  }
  const addedTokens = new Map<number, AddedToken>();
  const ids = new Map<string, number>();
  let next = model.vocabulary.count;
  items.forEach((item, i) => {
    const fields = fieldsOf(item, `${file.path}.added_tokens[${i}]`);
    const content = stringField(fields, 'content');
    integerField(fields, 'id', 0, 2 ** 32 - 1);
    const flags = {
      singleWord: booleanField(fields, 'single_word'),
      lstrip: booleanField(fields, 'lstrip'),
      rstrip: booleanField(fields, 'rstrip'),
      normalized: booleanField(fields, 'normalized'),
      special: booleanField(fields, 'special'),
    };
    if (content === '') return;
    let id = ids.get(content) ?? model.vocabulary.findText(content);
    if (id < 0) id = next++;
    ids.set(content, id);
    addedTokens.set(id, { id, content, ...flags });
  });
  const decodedTexts = new Map<number, string>();
  if (normalizer !== undefined) {
    for (const { id, content, normalized } of addedTokens.values()) {
      if (!normalized) continue;
      const draft = { text: content, head: 0 };
      normalizer(draft);
      if (draft.text !== content) decodedTexts.set(id, draft.text);
    }
  }
  const entries = [...addedTokens.values()].map((token) => ({
    token,
    pattern: decodedTexts.get(token.id) ?? token.content,
  }));
  return {
    addedTokens,
    decodedTexts,
    rawMatcher: new TokenMatcher(
      entries.filter(({ token }) => !token.normalized),
      'leftmost',
    ),
    normalizedMatcher: new TokenMatcher(
      entries.filter(({ token }) => token.normalized),
      'leftmost',
    ),
  };
}

/** The file does not name begin and end tokens; the template of the post-processor shows them, the model its unknown. */
function specialIdsOf(file: Fields, model: TokenModel): SpecialTokenIds {
  const unkToken = objectField(file, 'model').value['unk_token'];
  const unkId = objectField(file, 'model').value['unk_id'];
  const unk = typeof unkToken === 'string' ? model.vocabulary.findText(unkToken) : Number(unkId ?? -1);
  const padding = optionalFields(file, 'padding');
  return {
    ...templateEnds(file.value['post_processor'], 0),
    unk: unk < 0 ? undefined : unk,
    pad: padding && integerField(padding, 'pad_id', 0, 2 ** 32 - 1, 0),
  };
}

/** First and last special token of a template for single texts. The value has been read before, so its shape is known. */
function templateEnds(value: unknown, depth: number): Pick<SpecialTokenIds, 'bos' | 'eos'> {
  if (typeof value !== 'object' || value === null || depth > 16) return {};
  const processor = value as Readonly<Record<string, unknown>>;
  if (processor['type'] === 'Sequence') {
    const ends = (processor['processors'] as readonly unknown[]).map((item) => templateEnds(item, depth + 1));
    return Object.assign({}, ...ends) as Pick<SpecialTokenIds, 'bos' | 'eos'>;
  }
  const named = (key: string): number | undefined => (processor[key] as readonly [unknown, number] | undefined)?.[1];
  if (processor['type'] !== 'TemplateProcessing') return { bos: named('cls'), eos: named('sep') };
  const single = processor['single'] as readonly Readonly<Record<string, { readonly id: string } | undefined>>[];
  const tokens = processor['special_tokens'] as Readonly<Record<string, { readonly ids: readonly number[] }>>;
  const text = single.findIndex((piece) => piece['Sequence'] !== undefined);
  const idOf = (piece: (typeof single)[number] | undefined): number | undefined =>
    piece?.['SpecialToken'] && tokens[piece['SpecialToken'].id]?.ids[0];
  return {
    bos: text > 0 ? idOf(single[0]) : undefined,
    eos: text >= 0 ? idOf(single.slice(text + 1).at(-1)) : undefined,
  };
}
