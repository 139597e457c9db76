import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { FormatError, InferenceError, TramontaneError } from '../../src/core/errors.ts';
import { Tokenizer } from '../../src/core/text/tokenizer.ts';
import { fixture, type TokenizerFixture } from './fixtures.ts';

type Json = Record<string, unknown>;

const gpt2 = fixture<TokenizerFixture>('tokenizers/gpt2').tokenizer as Json & { model: Json };
const bert = fixture<TokenizerFixture>('tokenizers/bert_uncased').tokenizer as Json & { model: Json };
const t5 = fixture<TokenizerFixture>('tokenizers/t5_unigram_precompiled').tokenizer as Json & { model: Json };

function deep(key: string, type: string, depth: number): Json {
  let value: Json = { type, [key]: [] };
  for (let i = 0; i < depth; i++) value = { type, [key]: [value] };
  return value;
}

function cyclic(key: string): Json {
  const value: Json = { type: 'Sequence', [key]: [] };
  (value[key] as unknown[]).push(value);
  return value;
}

const template = { type: 'TemplateProcessing', single: [], pair: [], special_tokens: {} };
const added = {
  id: 9,
  content: 'x',
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  special: true,
};

describe('malformed files are refused by path', () => {
  test.each<[string, unknown, string]>([
    ['an array', [], 'tokenizer.json: expected an object, got an array of 0'],
    ['null', { model: null }, 'tokenizer.json.model: expected an object, got null'],
    ['no model', {}, 'tokenizer.json.model: expected an object, got nothing'],
    ['another version', { ...gpt2, version: '2.0' }, 'tokenizer.json.version: expected "1.0", got "2.0"'],
    ['an unknown model', { model: { ...gpt2.model, type: 'GPT' } }, 'tokenizer.json.model.type: expected BPE'],
    ['a vocabulary as list', { model: { ...gpt2.model, vocab: [] } }, 'tokenizer.json.model.vocab: expected an object'],
    ['an id as text', { model: { ...gpt2.model, vocab: { a: '1' } } }, 'vocab["a"]: expected an id from 0'],
    ['a negative id', { model: { ...gpt2.model, vocab: { a: -1 } } }, 'vocab["a"]: expected an id from 0'],
    ['a huge id', { model: { ...gpt2.model, vocab: { a: 4294967295 } } }, 'vocab["a"]: expected an id from 0'],
    ['an id taken twice', { model: { ...gpt2.model, vocab: { a: 0, b: 0 } } }, 'vocab["b"]: expected an id of its own'],
    ['merges as text', { model: { ...gpt2.model, merges: 'a b' } }, 'tokenizer.json.model.merges: expected an array'],
    ['a merge of one', { model: { ...gpt2.model, merges: ['a'] } }, 'merges[0]: expected a pair of tokens, got "a"'],
    ['a merge of numbers', { model: { ...gpt2.model, merges: [[1, 2]] } }, 'merges[0]: expected two strings'],
    ['a merge of no tokens', { model: { ...gpt2.model, merges: [['a', 'zzz']] } }, 'merges[0]: expected tokens of the'],
    ['scores as text', { model: { ...t5.model, vocab: [['a', 'b']] } }, 'vocab[0]: expected a pair of text and score'],
    ['an unknown out of range', { model: { ...t5.model, unk_id: 1e6 } }, 'unk_id: expected an integer from 0 to 570'],
    ['no prefix', { model: { ...bert.model, continuing_subword_prefix: undefined } }, 'prefix: expected a string'],
    [
      'a flag as number',
      { model: { ...gpt2.model, byte_fallback: 1 } },
      'byte_fallback: expected true or false, got 1',
    ],
    ['an unknown normalizer', { ...gpt2, normalizer: { type: 'X' } }, 'normalizer.type: expected Sequence'],
    ['a normalizer as text', { ...gpt2, normalizer: 'NFC' }, 'tokenizer.json.normalizer: expected an object'],
    ['deep normalizers', { ...gpt2, normalizer: deep('normalizers', 'Sequence', 40) }, 'nested at most 16 deep'],
    ['cyclic normalizers', { ...gpt2, normalizer: cyclic('normalizers') }, 'nested at most 16 deep'],
    ['cyclic pre-tokenizers', { ...gpt2, pre_tokenizer: cyclic('pretokenizers') }, 'nested at most 16 deep'],
    ['cyclic decoders', { ...gpt2, decoder: cyclic('decoders') }, 'nested at most 16 deep'],
    ['cyclic processors', { ...gpt2, post_processor: cyclic('processors') }, 'nested at most 16 deep'],
    [
      'very many normalizers',
      { ...gpt2, normalizer: { type: 'Sequence', normalizers: new Array(1000).fill({ type: 'NFC' }) } },
      'normalizers: expected at most 256',
    ],
    [
      'a bad pattern',
      { ...gpt2, pre_tokenizer: { type: 'Split', pattern: { Regex: '(' }, behavior: 'Isolated', invert: false } },
      'tokenizer.json.pre_tokenizer.pattern.Regex: expected a regular expression, got "("',
    ],
    [
      'a bad behaviour',
      { ...gpt2, pre_tokenizer: { type: 'Split', pattern: { String: 'a' }, behavior: 'Odd', invert: false } },
      'pre_tokenizer.behavior: expected Removed | Isolated',
    ],
    ['a mark of two characters', { ...gpt2, pre_tokenizer: { type: 'Metaspace', replacement: 'ab' } }, 'one character'],
    ['a length of zero', { ...gpt2, pre_tokenizer: { type: 'FixedLength', length: 0 } }, 'length: expected an integer'],
    ['a map that is no base 64', { ...t5, normalizer: { type: 'Precompiled', precompiled_charsmap: '!' } }, 'base 64'],
    [
      'a map that lies',
      { ...t5, normalizer: { type: 'Precompiled', precompiled_charsmap: '/////wA=' } },
      'a trie of at',
    ],
    [
      'a template without its token',
      { ...gpt2, post_processor: { ...template, single: [{ SpecialToken: { id: '[A]', type_id: 0 } }] } },
      'post_processor.single[0].SpecialToken.id: expected a token of special_tokens',
    ],
    ['an unknown decoder', { ...gpt2, decoder: { type: 'X' } }, 'decoder.type: expected Sequence'],
    [
      'a huge strip',
      { ...gpt2, decoder: { type: 'Strip', content: ' ', start: 1e12, stop: 0 } },
      'decoder.start: expected',
    ],
    ['an added token as text', { ...gpt2, added_tokens: ['x'] }, 'added_tokens[0]: expected an object, got "x"'],
    [
      'an added token without id',
      { ...gpt2, added_tokens: [{ ...added, id: undefined }] },
      'added_tokens[0].id: expected',
    ],
    [
      'an added token without flags',
      { ...gpt2, added_tokens: [{ id: 1, content: 'x' }] },
      'single_word: expected true or',
    ],
    [
      'a padding of terabytes',
      { ...gpt2, padding: { strategy: { Fixed: 1e13 }, direction: 'Right' } },
      'strategy.Fixed: expected',
    ],
    ['a truncation without length', { ...gpt2, truncation: {} }, 'truncation.max_length: expected an integer'],
  ])('%s', async (_, json, message) => {
    const loading = Tokenizer.fromJson(json as Json);
    await expect(loading).rejects.toThrow(message);
    await expect(loading).rejects.toBeInstanceOf(FormatError);
  });
});

test('files with random damage load, or are refused with a typed error', async () => {
  const originals = ['gpt2', 'llama2', 'bert_uncased', 'unigram_bytefallback', 'added_token_flags', 'roberta'].map(
    (name) => {
      const json = structuredClone(fixture<TokenizerFixture>(`tokenizers/${name}`).tokenizer) as Json & { model: Json };
      // Small enough to be damaged anywhere.
      const { vocab, merges } = json.model as { vocab: unknown; merges?: unknown[] };
      if (Array.isArray(vocab)) json.model['vocab'] = vocab.slice(0, 300);
      if (merges) json.model['merges'] = merges.slice(0, 5);
      return json;
    },
  );
  const junk = fc.oneof(
    fc.constantFrom(null, true, -1, 1e300, 2 ** 40, '', '▁', '\ud800', [], {}, 'Sequence', '(', { type: 'Sequence' }),
    fc.jsonValue({ maxDepth: 2 }),
  );
  const places = (value: unknown, path: readonly (string | number)[] = []): (readonly (string | number)[])[] => {
    if (typeof value !== 'object' || value === null) return [path];
    const keys = Array.isArray(value) ? value.keys() : Object.keys(value);
    return [path, ...[...keys].slice(0, 40).flatMap((key) => places((value as Json)[key], [...path, key]))];
  };
  const all = originals.map((json) => ({ json, paths: places(json).filter((path) => path.length > 0) }));
  const damage = fc
    .nat(all.length - 1)
    .chain((i) => fc.record({ i: fc.constant(i), path: fc.constantFrom(...all[i]!.paths), value: junk }));
  await fc.assert(
    fc.asyncProperty(damage, async ({ i, path, value }) => {
      const json = structuredClone(all[i]!.json);
      let holder: Json = json;
      for (const key of path.slice(0, -1)) holder = holder[key] as Json;
      holder[path.at(-1)!] = value;
      try {
        const tokenizer = await Tokenizer.fromJson(json);
        const ids = tokenizer.encode('Hello <s> wörld\n 中文 [MASK]');
        tokenizer.decode([...ids].filter((id) => tokenizer.idToToken(id) !== undefined));
      } catch (error) {
        if (!(error instanceof TramontaneError)) throw error;
      }
    }),
    { numRuns: 1500 },
  );
});

describe('ids that are not in the vocabulary', () => {
  test.each([-1, 1.5, Number.NaN, 4_000_000_000, 702])('%d', async (id) => {
    const tokenizer = await Tokenizer.fromJson(gpt2);
    expect(() => tokenizer.decode([0, id])).toThrow(InferenceError);
    expect(() => tokenizer.decode([0, id])).toThrow(`got ${id}`);
    expect(() => tokenizer.tokenBytes(id)).toThrow(InferenceError);
    expect(tokenizer.idToToken(id)).toBeUndefined();
    expect(tokenizer.stream().push(id)).toBeUndefined();
  });

  test('holes in the numbering are no ids', async () => {
    const model = { ...gpt2.model, vocab: { a: 0, b: 5 }, merges: [] };
    const tokenizer = await Tokenizer.fromJson({ model, decoder: { type: 'ByteLevel' } });
    expect(tokenizer.vocabSize).toBe(6);
    expect([...tokenizer.encode('ab')]).toEqual([0, 5]);
    expect(tokenizer.idToToken(3)).toBeUndefined();
    expect(() => tokenizer.decode([3])).toThrow(InferenceError);
  });
});

describe('vocabularies that lack what the text needs', () => {
  test('an unknown token that is not there', async () => {
    const model = {
      type: 'WordPiece',
      unk_token: '[UNK]',
      continuing_subword_prefix: '##',
      max_input_chars_per_word: 9,
      vocab: { a: 0 },
    };
    const tokenizer = await Tokenizer.fromJson({ model });
    expect(() => tokenizer.encode('b')).toThrow('expected "[UNK]" in the vocabulary');
  });

  test('a unigram model without an unknown token', async () => {
    const tokenizer = await Tokenizer.fromJson({ model: { type: 'Unigram', vocab: [['a', -1]] } });
    expect([...tokenizer.encode('aa')]).toEqual([0, 0]);
    expect(() => tokenizer.encode('ab')).toThrow(InferenceError);
  });

  test('characters are left out where there is no unknown token', async () => {
    const tokenizer = await Tokenizer.fromJson({ model: { type: 'BPE', vocab: { a: 0 }, merges: [] } });
    expect([...tokenizer.encode('abab')]).toEqual([0, 0]);
  });
});

test('lone surrogates are replaced', async () => {
  const tokenizer = await Tokenizer.fromJson(gpt2);
  expect(tokenizer.decode(tokenizer.encode('a\ud800b'))).toBe('a\ufffdb');
});

describe('truncation and padding', () => {
  const file: Json = {
    ...bert,
    truncation: { direction: 'Right', max_length: 6, strategy: 'LongestFirst', stride: 0 },
    padding: {
      strategy: { Fixed: 8 },
      direction: 'Right',
      pad_id: 0,
      pad_type_id: 0,
      pad_token: '[PAD]',
      pad_to_multiple_of: null,
    },
  };

  test('are obeyed, and can be left out or replaced', async () => {
    const tokenizer = await Tokenizer.fromJson(file);
    const whole = [...(await Tokenizer.fromJson(bert)).encode('one two three four five six')];
    expect(whole.length).toBeGreaterThan(8);
    const end = whole.at(-1)!;
    expect([...tokenizer.encode('one two three four five six')]).toEqual([...whole.slice(0, 5), end, 0, 0]);
    expect([...tokenizer.encode('one two three four five six', { pad: false })]).toEqual([...whole.slice(0, 5), end]);
    expect([...tokenizer.encode('one two three four five six', { truncate: false })]).toEqual(whole);
    expect([...tokenizer.encode('one two three four five six', { maxLength: 4, pad: false })]).toEqual([
      ...whole.slice(0, 3),
      end,
    ]);
    expect(tokenizer.padId).toBe(0);
  });

  test('a limit below the special tokens is refused', async () => {
    const tokenizer = await Tokenizer.fromJson(file);
    expect(() => tokenizer.encode('one', { maxLength: 1 })).toThrow(
      'max_length: expected at least the 2 special tokens',
    );
  });
});
