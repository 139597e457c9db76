import { expect, test } from 'vitest';
import { Tokenizer } from '../../src/core/text/tokenizer.ts';
import { fixture, type TokenizerFixture } from './fixtures.ts';

/** The scheme "first" of Metaspace depends on what normalizers did to the first character. */
interface HeadsFixture {
  readonly strings: readonly string[];
  readonly sets: readonly {
    readonly normalizer: unknown;
    readonly pre_tokenizer: unknown;
    readonly ids: readonly (readonly number[] | null)[];
  }[];
}

test('a mark goes before the beginning of the input only, whatever a normalizer did there', async () => {
  const { strings, sets } = fixture<HeadsFixture>('heads');
  const base = fixture<TokenizerFixture>('tokenizers/llama2').tokenizer;
  const charsmap = fixture<TokenizerFixture>('tokenizers/t5_unigram_precompiled').tokenizer['normalizer'];
  const filled = (value: unknown): unknown =>
    JSON.parse(JSON.stringify(value), (_, item) => (item === 'CHARSMAP' ? charsmap : item));
  for (const { normalizer, pre_tokenizer, ids } of sets) {
    const json = { ...base, normalizer: filled(normalizer), pre_tokenizer, post_processor: null };
    const tokenizer = await Tokenizer.fromJson(json);
    strings.forEach((text, i) => {
      // Where the reference itself fails there is no expected value.
      if (ids[i] === null) return;
      const what = `${JSON.stringify(text)} ${JSON.stringify(normalizer)} ${JSON.stringify(pre_tokenizer)}`;
      expect([...tokenizer.encode(text)], what).toEqual(ids[i]);
    });
  }
});
