import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Tokenizer } from '../../src/core/text/tokenizer.ts';
import { fixture, type GgufFixture, type TokenizerFixture } from './fixtures.ts';

const FRAGMENTS = [
  ' the',
  'The',
  ' ',
  '  ',
  '\n',
  '\r\n',
  '\t',
  "'s",
  '12',
  'é',
  'e\u0301',
  '中文',
  '🎉',
  '👩‍👩‍👧',
  '▁',
  '<s>',
  '_',
  '\0',
];
const text = fc
  .array(
    fc.oneof({ weight: 3, arbitrary: fc.constantFrom(...FRAGMENTS) }, fc.string({ unit: 'binary', maxLength: 6 })),
    {
      maxLength: 24,
    },
  )
  .map((parts) => parts.join(''));

function load(name: string): Promise<Tokenizer> {
  return Tokenizer.fromJson(fixture<TokenizerFixture>(`tokenizers/${name}`).tokenizer);
}

const plain = { addSpecialTokens: false, parseSpecialTokens: false } as const;

describe.each(['gpt2', 'llama3', 'o200k', 'tekken', 'deepseek', 'falcon', 'smollm_style'])('byte-level: %s', (name) => {
  test('decoding gives the text back, whole and token by token', async () => {
    const tokenizer = await load(name);
    fc.assert(
      fc.property(text, (s) => {
        const ids = tokenizer.encode(s, plain);
        const wellFormed = s.replace(/\p{Surrogate}/gu, '\ufffd');
        expect(tokenizer.decode(ids)).toBe(wellFormed);
        const decoder = tokenizer.stream();
        const pieces = [...ids].map((id) => decoder.push(id) ?? '');
        expect(pieces.join('') + (decoder.flush() ?? '')).toBe(wellFormed);
        const bytes = [...ids].flatMap((id) => [...tokenizer.tokenBytes(id)]);
        expect(bytes).toEqual([...new TextEncoder().encode(s)]);
      }),
      { numRuns: 60 },
    );
  });

  test('any ids give the same text whole and token by token', async () => {
    const tokenizer = await load(name);
    const anyIds = fc.array(fc.nat(tokenizer.vocabSize - 1), { maxLength: 40 });
    fc.assert(
      fc.property(anyIds, fc.boolean(), (ids, skipSpecialTokens) => {
        const decoder = tokenizer.stream({ skipSpecialTokens });
        const pieces = ids.map((id) => decoder.push(id) ?? '');
        const rest = decoder.flush() ?? '';
        expect(pieces.join('') + rest).toBe(tokenizer.decode(ids, { skipSpecialTokens }));
        for (const piece of pieces) expect(piece.endsWith('\ufffd')).toBe(false);
      }),
      { numRuns: 60 },
    );
  });
});

describe.each(['llama2', 'gemma', 'mistral_metaspace', 'unigram_bytefallback'])('with marks: %s', (name) => {
  test('text comes out the same whole and token by token', async () => {
    const tokenizer = await load(name);
    fc.assert(
      fc.property(text, (s) => {
        const ids = tokenizer.encode(s);
        const decoder = tokenizer.stream();
        const pieces = [...ids].map((id) => decoder.push(id) ?? '');
        expect(pieces.join('') + (decoder.flush() ?? '')).toBe(tokenizer.decode(ids));
      }),
      { numRuns: 60 },
    );
  });
});

describe('long words: the queue gives what looking for the best pair again and again gives', () => {
  interface BpeJson {
    readonly vocab: Readonly<Record<string, number>>;
    readonly merges: readonly (readonly [string, string])[];
  }

  function merged(characters: readonly string[], ranks: ReadonlyMap<string, number>): string[] {
    const parts = [...characters];
    for (;;) {
      let best = -1;
      let bestRank = Number.POSITIVE_INFINITY;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = ranks.get(`${parts[i]}\0${parts[i + 1]}`) ?? Number.POSITIVE_INFINITY;
        if (rank < bestRank) [best, bestRank] = [i, rank];
      }
      if (best < 0) return parts;
      parts.splice(best, 2, parts[best]! + parts[best + 1]!);
    }
  }

  const words = fc.array(fc.constantFrom('the', 'ing', ' ', '  ', 'er', 'on', 'a', 'th', 'in', 'quick'), {
    minLength: 20,
    maxLength: 60,
  });

  test.each(['llama2', 'gemma'])('%s', async (name) => {
    const json = fixture<TokenizerFixture>(`tokenizers/${name}`).tokenizer;
    const model = json['model'] as unknown as BpeJson;
    const tokenizer = await Tokenizer.fromJson({ ...json, normalizer: null, pre_tokenizer: null, added_tokens: [] });
    const ranks = new Map(model.merges.map(([left, right], rank) => [`${left}\0${right}`, rank]));
    fc.assert(
      fc.property(words, (parts) => {
        const word = parts.join('').replaceAll(' ', '▁');
        const expected = merged([...word], ranks).map((piece) => model.vocab[piece]);
        expect([...tokenizer.encode(word, plain)]).toEqual(expected);
      }),
      { numRuns: 60 },
    );
  });

  test('made-up vocabularies, with runs of one character and marks within tokens', async () => {
    // Every token is made from two earlier ones, in random order.
    const model = fc.array(fc.tuple(fc.nat(), fc.nat()), { minLength: 3, maxLength: 40 }).map((choices) => {
      const tokens = ['a', 'b', '▁', '>'];
      const merges: [string, string][] = [];
      for (const [i, j] of choices) {
        const [left, right] = [tokens[i % tokens.length]!, tokens[j % tokens.length]!];
        if (left.length + right.length > 6 || tokens.includes(left + right)) continue;
        merges.push([left, right]);
        tokens.push(left + right);
      }
      return { type: 'BPE', vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges };
    });
    const word = fc.string({ unit: fc.constantFrom('a', 'a', 'a', 'b', '▁', '>'), minLength: 30, maxLength: 90 });
    await fc.assert(
      fc.asyncProperty(model, word, async (json, characters) => {
        const ranks = new Map(json.merges.map(([left, right], rank) => [`${left}\0${right}`, rank]));
        const tokenizer = await Tokenizer.fromJson({ model: json });
        const expected = merged([...characters], ranks).map((piece) => json.vocab[piece]);
        expect([...tokenizer.encode(characters)]).toEqual(expected);
      }),
      { numRuns: 300 },
    );
  });

  test('vocabularies with scores', () => {
    const { metadata } = fixture<GgufFixture>('gguf/spm_llama2');
    const tokens = metadata['tokenizer.ggml.tokens'] as readonly string[];
    const scores = metadata['tokenizer.ggml.scores'] as readonly number[];
    const ids = new Map(tokens.map((token, id) => [token, id]));
    const tokenizer = Tokenizer.fromGguf({ metadata: new Map(Object.entries(metadata)) });
    const best = (characters: readonly string[]): string[] => {
      const parts = [...characters];
      for (;;) {
        let at = -1;
        let score = Number.NEGATIVE_INFINITY;
        for (let i = 0; i + 1 < parts.length; i++) {
          const id = ids.get(parts[i]! + parts[i + 1]!);
          if (id !== undefined && scores[id]! > score) [at, score] = [i, scores[id]!];
        }
        if (at < 0) return parts;
        parts.splice(at, 2, parts[at]! + parts[at + 1]!);
      }
    };
    fc.assert(
      fc.property(words, (parts) => {
        const expected = best([...` ${parts.join('')}`.replaceAll(' ', '▁')]).map((piece) => ids.get(piece));
        expect([...tokenizer.encode(parts.join(''), plain)]).toEqual(expected);
      }),
      { numRuns: 60 },
    );
  });
});

test('unigram: no other segmentation has a higher score', async () => {
  const { tokenizer: json } = fixture<TokenizerFixture>('tokenizers/albert_unigram');
  const vocab = (json['model'] as { vocab: readonly (readonly [string, number])[] }).vocab;
  const scores = new Map(vocab);
  const tokenizer = await Tokenizer.fromJson({ ...json, normalizer: null, pre_tokenizer: null, added_tokens: [] });
  const bestScore = (word: string): number => {
    const best = [0];
    for (let end = 1; end <= word.length; end++) {
      best[end] = Number.NEGATIVE_INFINITY;
      for (let start = 0; start < end; start++) {
        const score = scores.get(word.slice(start, end));
        if (score !== undefined) best[end] = Math.max(best[end]!, best[start]! + score);
      }
    }
    return best[word.length]!;
  };
  const known = [...scores.keys()].filter((token) => /^[a-z▁]+$/.test(token));
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...known), { minLength: 1, maxLength: 12 }), (parts) => {
      const word = parts.join('');
      const pieces = [...tokenizer.encode(word, plain)].map((id) => vocab[id]!);
      expect(pieces.map(([piece]) => piece).join('')).toBe(word);
      expect(pieces.reduce((sum, [, score]) => sum + score, 0)).toBeCloseTo(bestScore(word), 8);
    }),
    { numRuns: 100 },
  );
});

describe('long texts without a place to split take time in proportion', () => {
  const milliseconds = (work: () => void): number => {
    const start = process.cpuUsage();
    work();
    const { user, system } = process.cpuUsage(start);
    return (user + system) / 1000;
  };

  test.each([
    ['gpt2', 'a'],
    ['llama3', ' '],
    ['llama2', 'a'],
    ['gemma', '\n'],
    ['t5_unigram_precompiled', '中'],
    ['bert_uncased', 'a'],
    ['deepseek', '中'],
  ])('%s: %j', async (name, char) => {
    const tokenizer = await load(name);
    tokenizer.encode(char.repeat(20_000));
    const short = milliseconds(() => tokenizer.encode(char.repeat(25_000)));
    const long = milliseconds(() => tokenizer.encode(char.repeat(200_000)));
    // Eight times the text; a quadratic method takes 64 times as long. Small times are noise.
    expect(long).toBeLessThan(24 * Math.max(short, 10));
  });
});

test('a stream lets malformed bytes out in the end, and forgets tokens without text', async () => {
  const tokenizer = await load('gpt2');
  const bad = tokenizer.tokenToId('ÿ')!;
  const decoder = tokenizer.stream();
  let given = '';
  for (let i = 0; i < 200; i++) given += decoder.push(bad) ?? '';
  expect(given.length).toBeGreaterThan(100);
  expect(given + (decoder.flush() ?? '')).toBe('\ufffd'.repeat(200));
  expect(decoder.flush()).toBeUndefined();

  const marks = await load('llama2');
  const fallback = marks.tokenToId('<0xFF>')!;
  const other = marks.stream();
  let text = '';
  for (let i = 0; i < 200; i++) text += other.push(fallback) ?? '';
  expect(text + (other.flush() ?? '')).toBe('\ufffd'.repeat(200));
});
