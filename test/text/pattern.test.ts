import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ggufPreTokenizer, ggufPreTokenizerNames } from '../../src/core/text/ggufPre.ts';
import { compilePattern, type Finder, literalFinder, patternFinder } from '../../src/core/text/pattern.ts';
import { fixture } from './fixtures.ts';

function pieces(finder: Finder, text: string): string[] {
  const result: string[] = [];
  let done = 0;
  finder.find(text, (start, end) => {
    if (start > done) result.push(text.slice(done, start));
    if (end > start) result.push(text.slice(start, end));
    done = end;
  });
  if (done < text.length) result.push(text.slice(done));
  return result;
}

interface PatternFixture {
  readonly S: readonly string[];
  readonly out: readonly { readonly p: string; readonly r?: readonly (readonly string[])[] }[];
}

/** Folding of one character into two (`ß`, `ss`) is not translated. */
const FOLDS_INTO_TWO = ['(?i:ß|k|å|ω)', '(?i:st|ss|ff)'];

describe('patterns split text as in the engine they were written for', () => {
  const { S: texts, out } = fixture<PatternFixture>('patterns');
  test.each(out.filter(({ p, r }) => r !== undefined && !FOLDS_INTO_TWO.includes(p)))('$p', ({ p, r }) => {
    const finder = patternFinder(p, 'pattern');
    texts.forEach((text, i) => {
      expect(pieces(finder, text), JSON.stringify(text)).toEqual(r![i]);
    });
  });
});

test('the parts of a split are the text', () => {
  const finders = ggufPreTokenizerNames()
    .flatMap((name) => ggufPreTokenizer(name)!.patterns)
    .map((pattern) => patternFinder(pattern, 'pre'));
  const text = fc.array(
    fc.oneof(fc.string({ unit: 'binary' }), fc.constantFrom(' ', '\n', "'s", 'Aa', '12', '中', '🎉')),
  );
  fc.assert(
    fc.property(text, (parts) => {
      const joined = parts.join('').replace(/\p{Surrogate}/gu, '');
      for (const finder of finders) expect(pieces(finder, joined).join('')).toBe(joined);
    }),
    { numRuns: 12 },
  );
});

test('an empty literal cuts between all characters', () => {
  expect(pieces(literalFinder(''), 'a🎉b')).toEqual(['a', '🎉', 'b']);
});

test.each([
  ['(', 'missing )'],
  [')', 'unmatched )'],
  ['[a', 'missing ]'],
  ['*', 'nothing to repeat'],
  ['a{3,2}', 'a range that ends before it starts'],
  ['\\p{Nonsense}', 'an unknown property'],
  ['[[:nonsense:]]', 'an unknown class'],
  ['[z-a]', 'a range that ends before it starts'],
  ['\\x{110000}', 'beyond Unicode'],
  ['\\1', 'refers to no group'],
  ['(?#', 'an unterminated comment'],
  ['\\', 'unexpected end'],
  ['('.repeat(300), 'nest deeper'],
  ['['.repeat(300), 'nest deeper'],
  ['x'.repeat(70_000), 'at most'],
])('refuses %s', (pattern, reason) => {
  expect(() => compilePattern(pattern, 'file.pattern')).toThrow(/^file\.pattern: expected/);
  expect(() => compilePattern(pattern, 'file.pattern')).toThrow(reason);
});

test.each(['\\Gx', 'a\\Kb', '\\X', '(?~abc)', '\\g<1>'])('says that %s cannot be translated', (pattern) => {
  expect(() => compilePattern(pattern, 'file.pattern')).toThrow('has no counterpart in JavaScript');
});
