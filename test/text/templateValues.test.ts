/** Values of templates, by laws they obey. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ChatTemplate } from '../../src/core/text/template.ts';

function show(expression: string, variables: Readonly<Record<string, unknown>>): string {
  return new ChatTemplate(`{{ ${expression} }}`).render([], variables);
}

const json = fc.jsonValue({ maxDepth: 4 }).map((value) => JSON.parse(JSON.stringify(value)) as unknown);
const text = fc.string({ unit: 'grapheme', maxLength: 12 });

describe('JSON', () => {
  it('reads back as what it was', () => {
    fc.assert(
      fc.property(json, fc.constantFrom('', '(indent=2)', '(ensure_ascii=true)', '(sort_keys=true)'), (value, how) => {
        expect(JSON.parse(show(`x | tojson${how}`, { x: value }))).toEqual(value);
      }),
    );
  });

  it('of arguments keeps its text', () => {
    fc.assert(
      fc.property(fc.dictionary(text, json), (value) => {
        const written = show('x | tojson', { x: value });
        const messages = [{ role: 'assistant', toolCalls: [{ id: 'a', function: { name: 'f', arguments: written } }] }];
        const template = new ChatTemplate('{{ messages[0].tool_calls[0].function.arguments | tojson }}');
        expect(template.render(messages)).toBe(written);
      }),
    );
  });
});

describe('text', () => {
  it('is a sequence of code points', () => {
    const index = fc.option(fc.integer({ min: -15, max: 15 }), { nil: undefined });
    fc.assert(
      fc.property(text, index, index, (s, from, to) => {
        const chars = Array.from(s);
        expect(show('s | length', { s })).toBe(String(chars.length));
        expect(show(`s[${from ?? ''}:${to ?? ''}]`, { s })).toBe(chars.slice(from, to).join(''));
        expect(show('s[::-1]', { s })).toBe(chars.toReversed().join(''));
        expect(show('s[i]', { s, i: from ?? 0 })).toBe(chars.at(from ?? 0) ?? '');
      }),
    );
  });

  it('is split and joined without loss', () => {
    fc.assert(
      fc.property(text, text, (s, by) => {
        fc.pre(by !== '');
        expect(show('by.join(s.split(by))', { s, by })).toBe(s);
        expect(show('by.join(s.rsplit(by, 1))', { s, by })).toBe(s);
        expect(show('s.partition(by) | join', { s, by })).toBe(s);
        expect(show('s.replace(by, "") == s.split(by) | join', { s, by })).toBe('True');
      }),
    );
  });
});

describe('numbers', () => {
  const integer = fc.bigInt({ min: -(10n ** 30n), max: 10n ** 30n });

  it('divide as Python does', () => {
    fc.assert(
      fc.property(integer, integer, (a, b) => {
        fc.pre(b !== 0n);
        expect(show('a // b * b + a % b == a', { a, b })).toBe('True');
        expect(show('(a % b) * b >= 0', { a, b })).toBe('True');
      }),
    );
  });

  it('of any size are exact', () => {
    fc.assert(
      fc.property(integer, integer, (a, b) => {
        expect(show('(a + b) ~ " " ~ (a - b) ~ " " ~ a * b', { a, b })).toBe(`${a + b} ${a - b} ${a * b}`);
        expect(show('[a < b, a == b, a > b]', { a, b })).toBe(
          `[${[a < b, a === b, a > b].map((is) => (is ? 'True' : 'False')).join(', ')}]`,
        );
      }),
    );
  });

  it('with a fraction read back from their text', () => {
    fc.assert(
      fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), (x) => {
        fc.pre(!Number.isInteger(x));
        expect(Number(show('x', { x }))).toBe(x);
        expect(Number(show('"%.17e" % x', { x }))).toBe(x);
        expect(show('"%.3f" % x', { x: x % 1e6 }).replace(/^-(?=[0.]+$)/, '')).toMatch(/^-?\d+\.\d{3}$/);
      }),
    );
  });
});

describe('order', () => {
  it('sorts as comparing does, and keeps equal items in place', () => {
    fc.assert(
      fc.property(fc.array(fc.record({ k: fc.integer({ min: 0, max: 3 }), n: fc.nat() })), (items) => {
        const expected = items.toSorted((a, b) => a.k - b.k);
        expect(JSON.parse(show('items | sort(attribute="k") | tojson', { items }))).toEqual(expected);
        const back = items.toSorted((a, b) => b.k - a.k);
        expect(JSON.parse(show('items | sort(attribute="k", reverse=true) | tojson', { items }))).toEqual(back);
      }),
    );
  });
});
