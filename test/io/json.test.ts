import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FormatError } from '../../src/core/errors.ts';
import { parseJson } from '../../src/core/io/json.ts';

const parse = (text: string, more: object = {}): unknown => parseJson(text, { name: 'config.json', ...more });
/** The own parser alone, without the quick way through `JSON.parse`. */
const own = (text: string): unknown => parse(text, { duplicateKeys: 'error' });

describe('parseJson', () => {
  it('reads what JSON.parse reads, in any layout', () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 6 }), fc.nat(3), (value, indent) => {
        const text = JSON.stringify(value, null, indent);
        expect(own(text)).toEqual(JSON.parse(text));
        expect(parse(text)).toEqual(JSON.parse(text));
      }),
    );
  });

  it('agrees with JSON.parse on what is no JSON', () => {
    const pieces = [
      '{',
      '}',
      '[',
      ']',
      ',',
      ':',
      '"a"',
      '"b',
      '\\u00e4',
      '\\',
      '1',
      '-',
      '01',
      '1.',
      '2e5',
      'true',
      'nul',
      ' ',
    ];
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...pieces), { maxLength: 8 }), (parts) => {
        const text = parts.join('');
        let expected: unknown;
        try {
          expected = JSON.parse(text);
        } catch {
          expect(() => own(text)).toThrow(FormatError);
          return;
        }
        let got: unknown;
        try {
          got = own(text);
        } catch (error) {
          // The only difference wanted: one key twice.
          expect(String(error)).toContain('is there twice');
          return;
        }
        expect(got).toEqual(expected);
      }),
      { numRuns: 3000 },
    );
  });

  it('takes the numbers that Python writes', () => {
    expect(parse('{"a": NaN, "b": [Infinity, -Infinity], "c": -1}')).toEqual({
      a: Number.NaN,
      b: [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY],
      c: -1,
    });
  });

  it('names file, line and column of an error', () => {
    expect(() => parse('{\n  "a": 1,\n  "b": x\n}')).toThrow('config.json:3:8: expected a value, got "x\\n}"');
    expect(() => parse('{"a": [1, 2')).toThrow('config.json:1:12: expected "," or "]", got the end of the text');
    expect(() => parse('')).toThrow('config.json:1:1: expected a value, got the end of the text');
    expect(() => parse('{"a":1}}')).toThrow('config.json:1:8: expected the end');
    expect(() => parse('{"a":"\t"}')).toThrow('expected the end of a string');
  });

  it('skips a byte order mark', () => {
    expect(parse('\ufeff{"a":1}')).toEqual({ a: 1 });
  });

  it('finds a key that is there twice, also when it is escaped', () => {
    expect(() => own('{"a":1,"\\u0061":2}')).toThrow(/config.json:1:8: expected every key once, "a" is there twice/);
    expect(parse('{"a":1,"a":2}')).toEqual({ a: 2 });
  });

  it('keeps keys that objects have by themselves as data', () => {
    const value = own('{"__proto__": {"x": 1}, "constructor": 2}') as Record<string, unknown>;
    expect(Object.keys(value)).toEqual(['__proto__', 'constructor']);
    expect(Object.getPrototypeOf(value)).toBe(Object.prototype);
    expect(value['x']).toBeUndefined();
  });

  it('refuses deep nesting and too many values instead of running out of stack or memory', () => {
    const deep = (n: number): string => '['.repeat(n) + ']'.repeat(n);
    expect(parse(deep(200))).toBeDefined();
    expect(() => parse(deep(300))).toThrow('at most 256 levels');
    expect(() => parse('['.repeat(1_000_000))).toThrow(FormatError);
    expect(() => parse('{"a":'.repeat(100_000))).toThrow(FormatError);
    // Brackets in strings are text.
    expect(parse(`["${'['.repeat(1000)}\\"${'['.repeat(1000)}\\\\"]`)).toBeDefined();
    expect(() => parse('[1,2,3,4]', { maxValues: 4 })).toThrow('at most 4 values');
    expect(parse('[1,2,3]', { maxValues: 4 })).toEqual([1, 2, 3]);
  });
});
