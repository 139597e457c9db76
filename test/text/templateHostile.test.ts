/** Templates made to hang, to grow or to crash. Each has to end soon, in an error of this package. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FormatError, RequestValidationError } from '../../src/core/errors.ts';
import { parseTemplate } from '../../src/core/text/jinja/parser.ts';
import { ChatTemplate } from '../../src/core/text/template.ts';

const messages = [{ role: 'user', content: 'Hi' }];
const grow = (step: string, last = '', start = '[1]') =>
  `{% set ns = namespace(x=${start}, y=${start}) %}{% for i in range(1000) %}${step}{% endfor %}${last}`;

describe('templates that are too much to read', () => {
  it.each([
    ['brackets', `{{ ${'('.repeat(10_000)}1${')'.repeat(10_000)} }}`, 'at most 200 brackets'],
    ['conditions', '{% if 1 %}'.repeat(10_000) + '{% endif %}'.repeat(10_000), 'at most 200 levels'],
    ['negations', `{{ ${'not '.repeat(50_000)}1 }}`, 'at most 200 levels'],
    ['signs', `{{ ${'-'.repeat(50_000)}1 }}`, 'at most 200 levels'],
    ['alternatives', `{{ ${'a if b else '.repeat(50_000)}1 }}`, 'at most 200 levels'],
    ['sums', `{{ ${'1+'.repeat(50_000)}1 }}`, 'that fit the stack'],
    ['members', `{{ a${'.b'.repeat(50_000)} }}`, 'that fit the stack'],
    ['filters', `{{ a${'|upper'.repeat(50_000)} }}`, 'that fit the stack'],
    ['tokens', `{{ [${'1,'.repeat(600_000)}] }}`, 'at most 1000000 tokens'],
    ['digits', `{{ ${'9'.repeat(10_000)} }}`, 'at most 4300 digits'],
    ['a string without an end', `{{ "${'\\'.repeat(100_001)} }}`, 'unexpected'],
    ['a comment without an end', `{#${' #'.repeat(100_000)}`, 'expected #}'],
    ['a block without an end', `{%${' '.repeat(100_000)}`, 'expected %}'],
    ['raw text without an end', '{% raw %}'.repeat(10_000), 'expected {% endraw %}'],
    ['a loop without an end', '{% for a in b %}', 'expected endfor or else, got the end of the template'],
  ])('%s', (_, source, message) => {
    expect(() => parseTemplate(source)).toThrow(FormatError);
    expect(() => parseTemplate(source)).toThrow(message);
  });
});

describe('templates that are too much to run', () => {
  it.each([
    ['loops', '{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}', 'steps'],
    ['calls', '{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}', 'at most 200 calls'],
    ['two calls', '{% macro m(n) %}{{ m(n-1) ~ m(n-1) if n }}{% endmacro %}{{ m(100) }}', 'steps'],
    ['loops in loops', '{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}', 'at most 200 calls'],
    ['blocks', '{% block a %}{{ self.a() }}{% endblock %}', 'at most 200 calls'],
    ['ranges', '{{ range(10**30) }}', 'Range too big'],
    ['longer ranges', '{{ range(100001) | list }}', 'Range too big'],
    ['texts', grow('{% set ns.x = ns.x ~ ns.x %}', '', '"aaaaaaaa"'), 'at most 67108864 characters'],
    ['lists', grow('{% set ns.x = ns.x + ns.x %}'), 'at most 1048576 items'],
    ['lists of lists', grow('{% set ns.x = [ns.x, ns.x] %}', '{{ ns.x }}'), /steps|stack/],
    ['lists of lists as JSON', grow('{% set ns.x = [ns.x, ns.x] %}', '{{ ns.x | tojson }}'), /steps|nested/],
    [
      'lists of lists, compared',
      grow('{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}', '{{ ns.x == ns.y }}'),
      /steps|stack/,
    ],
    ['tuples as keys', grow('{% set ns.x = (ns.x, ns.x) %}', '{{ {ns.x: 1} }}', '(1,)'), /steps|stack/],
    [
      'deep lists',
      `{% set ns = namespace(x=[]) %}{% for i in range(50000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}`,
      'stack',
    ],
    ['powers', '{{ 10 ** 100000000 }}', 'at most 65536 bits'],
    ['products', grow('{% set ns.x = ns.x * ns.x %}', '', '10 ** 1000'), 'at most 65536 bits'],
    ['digits', '{{ 10 ** 5000 }}', '4300 digits'],
    ['repetition', '{{ "a" * 1000000000 }}', 'at most 67108864 characters'],
    ['repetition of lists', '{{ [1] * 1000000000 }}', 'at most 1048576 items'],
    ['repetition beyond numbers', '{{ "" * 10 ** 30 }}', 'index-sized'],
    ['columns', '{{ "a".center(1000000000) }}', 'at most 67108864 characters'],
    ['tabs', '{{ "\\t".expandtabs(1000000000) }}', 'at most 67108864 characters'],
    ['zeros', '{{ "a".zfill(1000000000) }}', 'at most 67108864 characters'],
    ['widths', '{{ "%1000000000d" % 1 }}', 'at most 67108864 characters'],
    ['digits asked for', '{{ "%.1000000000f" % 1.5 }}', 'at most 67108864 characters'],
    ['fields', '{{ "{:1000000000}".format(1) }}', 'at most 67108864 characters'],
    ['indents', '{{ ("a\\n" * 100000) | indent(1000000) }}', 'at most 67108864 characters'],
    ['replacements', '{{ ("a" * 100000) | replace("a", "b" * 100000) }}', 'at most 67108864 characters'],
    ['separators', '{{ range(100000) | join("a" * 100000) }}', 'at most 67108864 characters'],
    ['JSON with indent', '{{ {"a": 1} | tojson(indent=1000000000) }}', 'an indent of at most 256'],
    ['fills', '{{ [1] | batch(1000000000, 1) | list }}', 'at most 1048576 items'],
    ['slices', '{{ [1] | slice(1000000000) | list }}', /steps|items/],
    ['times', '{{ strftime_now("%1000000000Y") }}', 'widths of at most 1000'],
    [
      'lengths of long texts',
      '{% set s = "😀" * 1000000 %}{% for i in range(100000) %}{% set x = s[5] %}{% endfor %}',
      'steps',
    ],
    ['unpacking', '{% for a, b in [range(100000)] %}{% endfor %}', 'expected 2 values to unpack, got more'],
  ])('%s', (_, source, message) => {
    const run = () => new ChatTemplate(source).render(messages);
    expect(run).toThrow(RequestValidationError);
    expect(run).toThrow(message);
  });
});

describe('what templates must not reach', () => {
  it.each([
    ['{{ "".__class__ }}', ''],
    ['{{ "".__class__.__mro__ is defined }}', undefined],
    ['{{ messages.append(1) }}', undefined],
    ['{{ messages[0].update({}) }}', undefined],
    ['{{ messages[0].pop("role") }}', undefined],
    ['{{ messages.constructor is defined }}{{ messages[0].constructor is defined }}', 'FalseFalse'],
    ['{{ messages[0].__proto__ is defined }}{{ "x".toString is defined }}', 'FalseFalse'],
    ['{{ messages[0]["hasOwnProperty"] is defined }}{{ constructor is defined }}', 'FalseFalse'],
    ['{{ x | constructor }}', undefined],
    ['{{ namespace(__proto__=1) }}', undefined],
    ['{{ dict(__proto__=1) }}', "{'__proto__': 1}"],
    ['{% set ns = namespace() %}{% set ns._x = 1 %}', undefined],
  ])('%s', (source, text) => {
    const run = () => new ChatTemplate(source).render(messages);
    if (text === undefined) expect(run).toThrow();
    else expect(run()).toBe(text);
  });
});

/** Runs a template; anything but a text or an error of this package fails. */
function tries(source: string): string | undefined {
  try {
    return new ChatTemplate(source).render(messages);
  } catch (error) {
    if (error instanceof FormatError || error instanceof RequestValidationError) return undefined;
    throw error;
  }
}

describe('random templates', () => {
  const words = fc.constantFrom(
    ...'{{ }} {% %} {# #} {%- -%} {{- -}} {%+ +%} ( ) [ ] { } . , : | ~ + - * / // % ** == != < > <= >= = "a" \'b\' 1 2.5 if else elif endif for in endfor not and or is set endset macro endmacro call endcall filter endfilter raw endraw with endwith block endblock generation endgeneration break continue true none defined string upper list map select tojson messages m loop x y namespace range \n é'.split(
      ' ',
    ),
    ' ',
  );

  it('end in a text or in an error of this package', () => {
    fc.assert(
      fc.property(fc.array(words, { maxLength: 40 }), (parts) => void tries(parts.join(' '))),
      { numRuns: 3000 },
    );
    fc.assert(
      fc.property(fc.array(words, { maxLength: 12 }), (parts) => void tries(`{{ ${parts.join(' ')} }}`)),
      { numRuns: 3000 },
    );
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 60 }), (text) => void tries(text)),
      { numRuns: 2000 },
    );
  });

  it('leave text without tags as it is', () => {
    const text = fc.string({ unit: 'binary' }).filter((s) => !/\{[{%#]/.test(s));
    fc.assert(
      fc.property(text, (s) => {
        expect(tries(s)).toBe(s.replace(/\r\n?/g, '\n').replace(/\n$/, ''));
      }),
    );
  });

  it('cut at any place, read or refuse what is left', () => {
    const source = `{% set x = {'a': [1, "b\\n"]} -%} {# c #} {% for k, v in x.items() if v %}{{ loop.index ~ (v | tojson) }}{% else %}-{% endfor %}`;
    for (let end = 0; end <= source.length; end++) tries(source.slice(0, end));
    expect(tries(source)).toBe(' 1[1, "b\\n"]');
  });
});
