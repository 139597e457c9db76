import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, test } from 'vitest';
import { readGguf } from '../../src/core/io/gguf.ts';
import { Tokenizer } from '../../src/core/text/tokenizer.ts';
import { fixture, fixtureNames, type GgufCase, type GgufFixture } from './fixtures.ts';

function ofMetadata(metadata: Record<string, unknown>): Tokenizer {
  return Tokenizer.fromGguf({ metadata: new Map(Object.entries(metadata)) });
}

function check(tokenizer: Tokenizer, cases: readonly GgufCase[], decode = true): void {
  for (const { s, ids, ids0, ids_noparse, dec0 } of cases) {
    expect([...tokenizer.encode(s)], JSON.stringify(s)).toEqual(ids);
    expect([...tokenizer.encode(s, { addSpecialTokens: false })], JSON.stringify(s)).toEqual(ids0);
    if (ids_noparse !== undefined) {
      const plain = tokenizer.encode(s, { addSpecialTokens: false, parseSpecialTokens: false });
      expect([...plain], JSON.stringify(s)).toEqual(ids_noparse);
    }
    if (decode) expect(tokenizer.decode(ids0), JSON.stringify(s)).toBe(dec0);
  }
}

describe('the embedded model', () => {
  const bytes = readFileSync(new URL('../../models/smollm2-135m-instruct-q4_1.gguf', import.meta.url));
  const { cases } = fixture<{ cases: readonly GgufCase[] }>('gguf/smollm2');
  let metadata: ReadonlyMap<string, unknown>;
  beforeAll(async () => {
    metadata = (await readGguf(new Uint8Array(bytes))).metadata;
  });

  test('from the columns of the reader', () => {
    check(Tokenizer.fromGguf({ metadata }), cases);
  });

  test('from plain arrays', () => {
    check(Tokenizer.fromGguf({ metadata: new Map(metadata) }), cases);
  });

  test('also after so many words that merges moved into a table', () => {
    const tokenizer = Tokenizer.fromGguf({ metadata });
    for (let i = 0; i < 12_000; i++) tokenizer.encode(`word${(i * 7919).toString(36)}without`);
    check(tokenizer, cases);
  });

  test('knows its special tokens', () => {
    const tokenizer = Tokenizer.fromGguf({ metadata });
    expect([tokenizer.bosId, tokenizer.eosId, tokenizer.unkId, tokenizer.padId]).toEqual([1, 2, 0, 2]);
    expect(tokenizer.vocabSize).toBe(49152);
    expect(tokenizer.specialIds.slice(0, 3)).toEqual([0, 1, 2]);
    expect(tokenizer.tokenToId('<|im_end|>')).toBe(2);
    expect(tokenizer.tokenToId('Ġthe')).toBeDefined();
    expect(tokenizer.idToToken(tokenizer.tokenToId('Ġthe')!)).toBe('Ġthe');
    expect(new TextDecoder().decode(tokenizer.tokenBytes(tokenizer.tokenToId('Ġthe')!))).toBe(' the');
  });
});

test.each(['spm_llama2', 'spm_llama2_eos', 't5_a', 't5_b', 't5_c'])('%s', (name) => {
  const { metadata, cases } = fixture<GgufFixture>(`gguf/${name}`);
  check(ofMetadata(metadata), cases);
});

test('user-defined runs of marks decode to the spaces they stand for', () => {
  const { metadata, cases } = fixture<GgufFixture>('gguf/spm_gemma');
  const tokenizer = ofMetadata(metadata);
  check(tokenizer, cases, false);
  for (const { s, ids0, dec0 } of cases) {
    // The mark itself, written in the text, cannot be told from a space.
    if (!s.includes('▁')) expect(tokenizer.decode(ids0)).toBe(dec0.replaceAll('▁', ' '));
  }
});

test('bert: as expected where text is not decomposed further than the expected values', () => {
  const { metadata, cases } = fixture<GgufFixture>('gguf/bert_uncased');
  // Expected values leave Hangul composed and enclosing marks in place; vocabularies of this kind were made without.
  check(
    ofMetadata(metadata),
    cases.filter(({ s }) => !/[\p{Script=Hangul}\p{Me}]/u.test(s)),
    false,
  );
});

interface PreFixture {
  readonly metadata: Record<string, unknown>;
  readonly strings: readonly string[];
  readonly pre: Record<string, readonly (readonly [readonly number[], readonly number[]])[]>;
}

describe('pre-tokenizers by name', () => {
  const sets = fixtureNames('gguf').filter((name) => name.startsWith('gguf/bpe_'));
  const cases = sets.flatMap((set) => Object.keys(fixture<PreFixture>(set).pre).map((pre) => [pre, set] as const));
  test.each(cases)('%s', (pre, set) => {
    const { metadata, strings, pre: expected } = fixture<PreFixture>(set);
    const tokenizer = ofMetadata({ ...metadata, 'tokenizer.ggml.pre': pre });
    expected[pre]!.forEach(([ids, plain], i) => {
      expect([...tokenizer.encode(strings[i]!)], JSON.stringify(strings[i])).toEqual(ids);
      expect(
        [...tokenizer.encode(strings[i]!, { addSpecialTokens: false, parseSpecialTokens: false })],
        JSON.stringify(strings[i]),
      ).toEqual(plain);
    });
  });
});

describe('malformed metadata', () => {
  const { metadata } = fixture<GgufFixture>('gguf/spm_llama2');
  const bpe = fixture<PreFixture>('gguf/bpe_gpt2').metadata;
  const drop = (from: Record<string, unknown>, key: string): Record<string, unknown> =>
    Object.fromEntries(Object.entries(from).filter(([name]) => name !== `tokenizer.ggml.${key}`));

  test.each<[string, Record<string, unknown>, string]>([
    ['no tokens', drop(metadata, 'tokens'), 'tokenizer.ggml.tokens: expected an array of strings, got nothing'],
    [
      'tokens that are numbers',
      { ...metadata, 'tokenizer.ggml.tokens': [1, 2] },
      'tokenizer.ggml.tokens: expected an array of strings',
    ],
    [
      'too few scores',
      { ...metadata, 'tokenizer.ggml.scores': [1] },
      'tokenizer.ggml.scores: expected an array of 1156',
    ],
    [
      'types as text',
      { ...metadata, 'tokenizer.ggml.token_type': 'x' },
      'tokenizer.ggml.token_type: expected an array',
    ],
    ['an unknown model', { ...metadata, 'tokenizer.ggml.model': 'rwkv' }, 'tokenizer.ggml.model: expected gpt2'],
    ['a switch as number', { ...metadata, 'tokenizer.ggml.add_bos_token': 1 }, 'add_bos_token: expected true or false'],
    ['no merges', drop(bpe, 'merges'), 'tokenizer.ggml.merges: expected an array of strings'],
    ['an unknown pre-tokenizer', { ...bpe, 'tokenizer.ggml.pre': 'odd' }, 'tokenizer.ggml.pre: expected one of'],
    [
      'a character map that lies about its length',
      { ...fixture<GgufFixture>('gguf/t5_c').metadata, 'tokenizer.ggml.precompiled_charsmap': [255, 255, 255, 127, 1] },
      'precompiled_charsmap: expected a trie',
    ],
  ])('%s', (_, bad, message) => {
    expect(() => ofMetadata(bad)).toThrow(message);
  });

  test('merges of texts that are no tokens are left out', () => {
    const tokenizer = ofMetadata({ ...bpe, 'tokenizer.ggml.pre': 'gpt-2', 'tokenizer.ggml.merges': ['a zz', 'x', ''] });
    expect(tokenizer.decode(tokenizer.encode('azz'))).toBe('azz');
  });
});
