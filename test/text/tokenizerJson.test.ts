import { describe, expect, test } from 'vitest';
import { Tokenizer } from '../../src/core/text/tokenizer.ts';
import { fixture, fixtureNames, type TokenizerFixture } from './fixtures.ts';

/** The ids that a tokenizer knows: padding and templates may name others, which decoding refuses. */
function known(tokenizer: Tokenizer, ids: readonly number[]): number[] {
  return ids.filter((id) => tokenizer.idToToken(id) !== undefined);
}

// `tokenizers`: the builds in use. `mixed`: random combinations of parts and flags.
describe.each([...fixtureNames('tokenizers'), ...fixtureNames('mixed')])('%s', (name) => {
  const { tokenizer: json, cases, stream, pairs } = fixture<TokenizerFixture>(name);

  test('encodes and decodes as expected', async () => {
    const tokenizer = await Tokenizer.fromJson(json);
    for (const { s, ids, ids0, dec, dec_skip, dec0 } of cases) {
      expect([...tokenizer.encode(s)], JSON.stringify(s)).toEqual(ids);
      expect([...tokenizer.encode(s, { addSpecialTokens: false })], JSON.stringify(s)).toEqual(ids0);
      if (dec === undefined) continue;
      expect(tokenizer.decode(known(tokenizer, ids)), JSON.stringify(s)).toBe(dec);
      expect(tokenizer.decode(known(tokenizer, ids), { skipSpecialTokens: true }), JSON.stringify(s)).toBe(dec_skip);
      expect(tokenizer.decode(known(tokenizer, ids0)), JSON.stringify(s)).toBe(dec0);
    }
  });

  test('encodes pairs', async () => {
    const tokenizer = await Tokenizer.fromJson(json);
    for (const { a, b, ids, type_ids } of pairs) {
      const encoded = tokenizer.encodePair(a, b);
      expect([...encoded.ids], JSON.stringify([a, b])).toEqual(ids);
      expect([...encoded.typeIds], JSON.stringify([a, b])).toEqual(type_ids);
    }
  });

  test('streams text', async () => {
    const tokenizer = await Tokenizer.fromJson(json);
    for (const { ids, chunks } of stream) {
      const decoder = tokenizer.stream({ skipSpecialTokens: true });
      expect(
        ids.map((id) => decoder.push(id) ?? null),
        JSON.stringify(ids),
      ).toEqual(chunks);
    }
  });
});

describe('input', () => {
  const { tokenizer: json } = fixture<TokenizerFixture>('tokenizers/gpt2');
  const text = JSON.stringify(json);

  test.each([
    ['an object', json],
    ['text', text],
    ['text with a byte order mark', new TextEncoder().encode(`\ufeff${text}`)],
    ['bytes', new TextEncoder().encode(text)],
  ])('reads %s', async (_, input) => {
    expect([...(await Tokenizer.fromJson(input)).encode('Hello')]).toEqual([
      ...(await Tokenizer.fromJson(json)).encode('Hello'),
    ]);
  });

  test('says what it needs to open a path', async () => {
    await expect(Tokenizer.fromJson('folder/tokenizer.json')).rejects.toThrow('folder/tokenizer.json: no platform');
  });

  test('names the place where JSON breaks off', async () => {
    await expect(Tokenizer.fromJson('{"model": ')).rejects.toThrow('tokenizer.json: expected JSON');
  });
});

describe('special tokens', () => {
  test('can be read as plain text', async () => {
    const tokenizer = await Tokenizer.fromJson(fixture<TokenizerFixture>('tokenizers/llama3').tokenizer);
    const eot = tokenizer.tokenToId('<|eot_id|>')!;
    const plain = { addSpecialTokens: false, parseSpecialTokens: false };
    expect([...tokenizer.encode('a<|eot_id|>', { addSpecialTokens: false })].at(-1)).toBe(eot);
    const ids = [...tokenizer.encode('a<|eot_id|>', plain)];
    expect(ids).not.toContain(eot);
    expect(tokenizer.decode(ids)).toBe('a<|eot_id|>');
  });

  test('are listed, and named where the template shows their role', async () => {
    const llama = await Tokenizer.fromJson(fixture<TokenizerFixture>('tokenizers/mistral_metaspace').tokenizer);
    expect([llama.bosId, llama.eosId, llama.unkId]).toEqual([1, 2, 0]);
    expect(llama.specialIds).toEqual([0, 1, 2, 1156, 1157]);
    const t5 = await Tokenizer.fromJson(fixture<TokenizerFixture>('tokenizers/t5_unigram_precompiled').tokenizer);
    expect([t5.bosId, t5.eosId, t5.unkId]).toEqual([undefined, 1, 2]);
    const roberta = await Tokenizer.fromJson(fixture<TokenizerFixture>('tokenizers/roberta').tokenizer);
    expect([roberta.bosId, roberta.eosId]).toEqual([700, 701]);
  });

  test('tokens give the bytes they add', async () => {
    const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
    const gemma = await Tokenizer.fromJson(fixture<TokenizerFixture>('tokenizers/gemma').tokenizer);
    expect(text(gemma.tokenBytes(gemma.tokenToId('▁t')!))).toBe(' t');
    expect([...gemma.tokenBytes(gemma.tokenToId('<0xC3>')!)]).toEqual([0xc3]);
    const bert = await Tokenizer.fromJson(fixture<TokenizerFixture>('tokenizers/bert_cased').tokenizer);
    expect(text(bert.tokenBytes(bert.tokenToId('##ing')!))).toBe('ing');
    expect(text(bert.tokenBytes(bert.tokenToId('[MASK]')!))).toBe(' [MASK]');
  });
});
