import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Block, Inline } from '../src/markdown.ts';
import { parseInline, parseMarkdown } from '../src/markdown.ts';

/** A tree as compact text. */
const shape = (blocks: readonly Block[]): string => blocks.map(blockShape).join(' ');
const blockShape = (b: Block): string => {
  switch (b.kind) {
    case 'paragraph':
      return `p(${inlineShape(b.children)})`;
    case 'heading':
      return `h${b.level}(${inlineShape(b.children)})`;
    case 'code':
      return `code:${b.language}(${b.text})`;
    case 'list':
      return `${b.ordered ? `ol${b.start}` : 'ul'}(${b.items.map(shape).join('; ')})`;
    case 'quote':
      return `quote(${shape(b.blocks)})`;
    case 'rule':
      return 'rule';
  }
};
const inlineShape = (inlines: readonly Inline[]): string =>
  inlines
    .map((i) => {
      if (!('children' in i)) return i.kind === 'text' ? i.text : `\`${i.text}\``;
      if (i.kind === 'link') return `<${i.href}|${inlineShape(i.children)}>`;
      return `${i.kind}{${inlineShape(i.children)}}`;
    })
    .join('');

describe('markdown', () => {
  it('reads what answers are made of', () => {
    const cases: readonly (readonly [string, string])[] = [
      ['a\nb\n\nc', 'p(a\nb) p(c)'],
      ['# A *b*\ntext', 'h1(A em{b}) p(text)'],
      ['- a\n- b\n  more\n\n- c', 'ul(p(a); p(b\nmore); p(c))'],
      ['3. a\n   - x\n   - y\n4. b', 'ol3(p(a) ul(p(x); p(y)); p(b))'],
      ['1. a\n\n   second\n2. b', 'ol1(p(a) p(second); p(b))'],
      ['text\n- a', 'p(text) ul(p(a))'],
      ['```js\nlet a = "*x*";\n\n- no list\n```\nafter', 'code:js(let a = "*x*";\n\n- no list) p(after)'],
      ['```\nopen', 'code:(open)'],
      ['> a\n> - b', 'quote(p(a) ul(p(b)))'],
      ['a\n\n---\n\nb', 'p(a) rule p(b)'],
      ['**bold *both*** and `code *x*`', 'p(strong{bold *both}* and `code *x*`)'],
      ['snake_case_name 2 * 3 * 4', 'p(snake_case_name 2 * 3 * 4)'],
      [
        '\\*no\\* [t](https://a.example/x) [u](javascript:alert(1))',
        'p(*no* <https://a.example/x|t> [u](javascript:alert(1)))',
      ],
      ['<b>not html</b>', 'p(<b>not html</b>)'],
    ];
    for (const [source, expected] of cases) expect(shape(parseMarkdown(source))).toBe(expected);
  });

  it('gives every address a web scheme, loses no letter, and ends, whatever the text', () => {
    const piece = fc.constantFrom(
      '*',
      '**',
      '_',
      '`',
      '```',
      '\n',
      '\n\n',
      '- ',
      '1. ',
      '> ',
      '#',
      '[',
      '](',
      ')',
      '\\',
      'a',
      ' ',
      'javascript:',
      'https://x.example',
    );
    const lettersOf = (inlines: readonly Inline[]): string =>
      inlines.map((i) => ('text' in i ? i.text : lettersOf(i.children))).join('');
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 60 }), (pieces) => {
        const text = pieces.join('');
        parseMarkdown(text);
        const inlines = parseInline(text);
        const links: string[] = [];
        const visit = (list: readonly Inline[]): void => {
          for (const i of list) {
            if (i.kind === 'link') links.push(i.href);
            if ('children' in i) visit(i.children);
          }
        };
        visit(inlines);
        expect(links.every((href) => /^https?:/.test(href))).toBe(true);
        const letters = (s: string): number => s.split('a').length;
        if (links.length === 0) expect(letters(lettersOf(inlines))).toBe(letters(text));
      }),
    );
  });

  it('reads a long hostile text in time', () => {
    for (const unit of ['*a ', '_a ', '`', '[a](', '> ', '- ', '**']) {
      const started = performance.now();
      parseMarkdown(unit.repeat(10_000));
      parseMarkdown(`${unit}\n`.repeat(3000));
      expect(performance.now() - started).toBeLessThan(10_000);
    }
  });
});
