/** Tokenizers written as keys of GGUF files: read back, they encode and decode as before. */
import { describe, expect, it, test } from 'vitest';
import { UnsupportedError } from '../../src/core/errors.ts';
import { readGguf } from '../../src/core/io/gguf.ts';
import { writeGguf } from '../../src/core/io/ggufWrite.ts';
import { ggufTokenizer } from '../../src/core/text/ggufTokenizer.ts';
import { Tokenizer } from '../../src/core/text/tokenizer.ts';
import { fixture, type TokenizerFixture } from './fixtures.ts';

async function written(tokenizer: Record<string, unknown>, settings = {}, more = {}) {
  const files = { tokenizer, settings, chatTemplate: undefined, bos: undefined, eos: undefined, vocabSize: 0, ...more };
  const chunks: Uint8Array[] = [];
  await writeGguf(async (_at, bytes) => void chunks.push(bytes.slice()), ggufTokenizer(files), []);
  return (await readGguf(new Uint8Array(Buffer.concat(chunks)))).metadata;
}

/** Texts that readers of such files treat otherwise, whoever wrote them. */
const OTHERWISE: Readonly<Record<string, (s: string) => boolean>> = {
  // Files have no place for composing characters.
  qwen: (s) => s !== s.normalize('NFC'),
  // Runs of marks are added tokens of this one, which only match marks; readers find them in runs of spaces.
  gemma: (s) => /[ ▁]{2}/.test(s),
  // No mark comes before a text that begins with one, or behind special tokens; readers always put one.
  mistral_metaspace: (s) => /^[ ▁]|<\/?s>|\[/.test(s),
};

describe('a tokenizer.json in a GGUF file', () => {
  test.each([...['gpt2', 'smollm_style', 'llama3', 'qwen', 'o200k', 'tekken', 'llama2', 'mistral_metaspace', 'gemma']])(
    '%s: the ids and texts of before',
    async (name) => {
      const { tokenizer, cases } = fixture<TokenizerFixture>(`tokenizers/${name}`);
      const back = Tokenizer.fromGguf({ metadata: await written(tokenizer) });
      const before = await Tokenizer.fromJson(tokenizer);
      let checked = 0;
      for (const { s, ids, ids0 } of cases) {
        if (OTHERWISE[name]?.(s)) continue;
        checked++;
        expect([...back.encode(s)], JSON.stringify(s)).toEqual(ids);
        expect([...back.encode(s, { addSpecialTokens: false })], JSON.stringify(s)).toEqual(ids0);
        expect(back.decode(ids0), JSON.stringify(s)).toBe(before.decode(ids0));
      }
      expect(checked).toBeGreaterThan(260);
    },
  );

  it('has a text for every row of the token table', async () => {
    const { tokenizer } = fixture<TokenizerFixture>('tokenizers/gpt2');
    const keys = await written(tokenizer, {}, { vocabSize: 800 });
    expect((keys.get('tokenizer.ggml.tokens') as unknown[]).length).toBe(800);
  });

  it('takes special tokens from the settings, else from the post-processor', async () => {
    const { tokenizer } = fixture<TokenizerFixture>('tokenizers/llama2');
    const plain = await written(tokenizer);
    const key = (keys: ReadonlyMap<string, unknown>, name: string) => keys.get(`tokenizer.ggml.${name}`);
    expect([key(plain, 'bos_token_id'), key(plain, 'add_bos_token')]).toEqual([1, true]);
    expect([key(plain, 'eos_token_id'), key(plain, 'add_eos_token')]).toEqual([undefined, false]);
    const stated = await written(tokenizer, {
      ...{ bos_token: { content: '</s>' }, eos_token: '<s>', add_bos_token: false, add_eos_token: true },
    });
    expect([key(stated, 'bos_token_id'), key(stated, 'add_bos_token')]).toEqual([2, false]);
    expect([key(stated, 'eos_token_id'), key(stated, 'add_eos_token')]).toEqual([1, true]);
  });

  test.each([
    ['added_token_flags', /normalizer.*Lowercase/],
    ['clip', /normalizer/],
    ['deepseek', /splitting rules with a name/],
    ['falcon', /Punctuation/],
    ['roberta', /no space before the text/],
    ['t5_unigram_precompiled', /expected BPE, got Unigram/],
    ['albert_unigram', /Unigram/],
    ['unigram_bytefallback', /Unigram/],
    ['bert_uncased', /WordPiece/],
    ['wordlevel', /WordLevel/],
  ])('%s is refused', async (name, message) => {
    const { tokenizer } = fixture<TokenizerFixture>(`tokenizers/${name}`);
    const error = await written(tokenizer).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(UnsupportedError);
    expect((error as Error).message).toMatch(message);
  });
});
