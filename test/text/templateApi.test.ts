/** Chat templates as callers use them. */
import { describe, expect, it } from 'vitest';
import { ConfigError, FormatError, RequestValidationError } from '../../src/core/errors.ts';
import { ChatTemplate } from '../../src/core/text/template.ts';
import { toolVariables } from '../../src/core/text/toolVariables.ts';

const user = { role: 'user', content: 'Hi' };
const all = '{{ messages | tojson }}';

function show(messages: readonly unknown[], template = all): unknown {
  return JSON.parse(new ChatTemplate(template).render(messages));
}

describe('messages', () => {
  it('of the SDK get the names that templates read', () => {
    const call = { index: 0, id: 'call_1', type: 'function', function: { name: 'f', arguments: '{"a": [1, 2.0]}' } };
    expect(
      show([
        { role: 'assistant', content: '', toolCalls: [call], name: 'x' },
        { role: 'tool', content: 'r', toolCallId: 'call_1' },
      ]),
    ).toEqual([
      {
        role: 'assistant',
        content: '',
        tool_calls: [{ id: 'call_1', type: 'function', function: { name: 'f', arguments: { a: [1, 2] } } }],
        name: 'x',
      },
      { role: 'tool', content: 'r', tool_call_id: 'call_1' },
    ]);
  });

  it('keep numbers in arguments as they were written', () => {
    const text = '{"a": 2.0, "b": 1e3, "c": 12345678901234567890, "d": -0.5, "e": {"f": [true, null, "\\u00e9\\n"]}}';
    const messages = [{ role: 'assistant', toolCalls: [{ id: 'x', function: { name: 'f', arguments: text } }] }];
    const template = new ChatTemplate('{{ messages[0].tool_calls[0].function.arguments | tojson }}');
    expect(template.render(messages)).toBe(
      '{"a": 2.0, "b": 1000.0, "c": 12345678901234567890, "d": -0.5, "e": {"f": [true, null, "é\\n"]}}',
    );
  });

  it.each(['not json', '[1]', '"text"', '{"a": 1', ''])('keep arguments that are no object: %j', (text) => {
    const messages = [{ role: 'assistant', toolCalls: [{ id: 'x', function: { name: 'f', arguments: text } }] }];
    expect(new ChatTemplate('{{ messages[0].tool_calls[0].function.arguments }}').render(messages)).toBe(text);
  });

  it('in the form of templates reach them unchanged', () => {
    const messages = [{ role: 'assistant', content: null, tool_calls: [{ function: { arguments: '{"a":1}' } }] }];
    expect(show(messages)).toEqual(messages);
  });

  it('without calls have no list of them', () => {
    expect(show([{ ...user, toolCalls: [], toolCallId: undefined }])).toEqual([user]);
  });

  it.each(['reasoningContent', 'reasoning_content', 'thinking', 'reasoning'])('spread %s to its aliases', (name) => {
    const template = '[{{ messages[0].thinking | tojson }}, {{ messages[0].reasoning_content | tojson }}]';
    expect(show([{ role: 'assistant', content: '', [name]: 'hm' }], template)).toEqual(['hm', 'hm']);
  });

  it('may hold what templates cannot read', () => {
    const parts = [
      { type: 'image', image: new Uint8Array(2) },
      { type: 'x', url: new URL('a:b'), f: () => 0 },
    ];
    expect(show([{ role: 'user', content: parts }])).toEqual([
      {
        role: 'user',
        content: [
          { type: 'image', image: '<Uint8Array>' },
          { type: 'x', url: '<URL>', f: '<function>' },
        ],
      },
    ]);
  });

  it('are copied', () => {
    const messages = [{ role: 'user', content: [{ type: 'text', text: 'a' }] }];
    new ChatTemplate('{{ messages[0].content[0].text }}').render(messages, { continueFinalMessage: true });
    expect(messages).toEqual([{ role: 'user', content: [{ type: 'text', text: 'a' }] }]);
  });

  it.each([[null], ['Hi'], [[]], [7]])('that are no objects are refused: %j', (message) => {
    const run = () => new ChatTemplate(all).render([user, message]);
    expect(run).toThrow(RequestValidationError);
    expect(run).toThrow('messages[1]: expected an object');
  });

  it('that contain themselves are refused', () => {
    const message: Record<string, unknown> = { role: 'user' };
    message.self = message;
    expect(() => new ChatTemplate(all).render([message])).toThrow(/nested at most 128 deep/);
  });
});

describe('variables', () => {
  const names = (text: string, options = {}): string =>
    new ChatTemplate(text, { bosToken: '<s>', eosToken: undefined }).render([user], options);

  it('are tokens, tools, switches and whatever else is given', () => {
    expect(names('{{ bos_token }}{{ eos_token is defined }}{{ tools is none }}{{ documents is none }}')).toBe(
      '<s>FalseTrueTrue',
    );
    expect(names('{{ add_generation_prompt }}{{ enable_thinking is defined }}')).toBe('FalseFalse');
    const options = {
      addGenerationPrompt: true,
      enableThinking: false,
      reasoningEffort: 'high',
      custom_thing: [1, null],
    };
    const text =
      '{{ add_generation_prompt }}{{ enable_thinking }}{{ reasoning_effort }}{{ reasoning_strength }}{{ custom_thing }}';
    expect(names(text, options)).toBe('TrueFalsehighhigh[1, None]');
    expect(names('{{ x is defined }}{{ y is none }}', { x: undefined, y: null })).toBe('FalseTrue');
  });

  it('may be given under their own names, too', () => {
    expect(
      names('{{ add_generation_prompt }}{{ enable_thinking }}', { add_generation_prompt: true, enable_thinking: 1 }),
    ).toBe('True1');
  });

  it('number whole numbers as integers', () => {
    expect(names('{{ a }} {{ b }} {{ c }} {{ d }}', { a: 3, b: 0.5, c: -0, d: 1e21 })).toBe(
      '3 0.5 0 1000000000000000000000',
    );
  });

  it('know the time', () => {
    const date = new Date(2024, 1, 29, 13, 5, 9);
    expect(names('{{ strftime_now("%d %b %Y %H:%M %j %V") }}', { now: date })).toBe('29 Feb 2024 13:05 060 09');
    expect(names('{{ strftime_now("%Y") }}')).toBe(String(new Date().getFullYear()));
    expect(names('{{ now }}', { now: date })).toBe('');
  });
});

describe('templates by name', () => {
  const named = (names: Record<string, string>) =>
    new ChatTemplate(Object.entries(names).map(([name, template]) => ({ name, template })));

  it('serve tools from tool_use and everything else from default', () => {
    const template = named({ default: 'D', tool_use: 'T{{ tools | length }}', rag: 'R' });
    expect(template.render([user])).toBe('D');
    expect(template.render([user], { tools: [{}] })).toBe('T1');
    expect(template.render([user], { tools: null })).toBe('D');
  });

  it('serve tools from default where it knows them, and refuse them where it does not', () => {
    expect(named({ default: '{{ tools | length }}', rag: '' }).render([user], { tools: [{}] })).toBe('1');
    expect(() => named({ default: 'D', rag: 'R' }).render([user], { tools: [{}] })).toThrow(
      /expected one named "tool_use"/,
    );
  });

  it('may be one of any name, but not several without a default', () => {
    expect(named({ chat: 'C' }).render([user])).toBe('C');
    expect(() => named({ a: '', b: '' }).render([user])).toThrow(ConfigError);
    expect(() => named({}).render([user])).toThrow('expected one named "default", got none');
  });
});

describe('errors', () => {
  it('are those of the template file when it is no template, and only when it is used', () => {
    const template = new ChatTemplate('a\n{% if %}');
    expect(() => template.render([user])).toThrow(FormatError);
    expect(() => template.render([user])).toThrow('chat template, line 2: expected an expression, got %}');
  });

  it.each([
    ['{{ "a"\n + 1 }}', "chat template, line 1: unsupported operand type(s) for +: 'str' and 'int'"],
    [
      '\n{% for m in messages %}\n{{ m.content.nope() }}{% endfor %}',
      "chat template, line 3: 'str object' has no attribute 'nope'",
    ],
    ['{{ nope.x }}', "chat template, line 1: 'nope' is undefined"],
    ['{{ [].append(1) }}', "chat template, line 1: access to attribute 'append' of 'list' object is unsafe."],
    ['{{ raise_exception("No " ~ messages[0].role) }}', 'No user'],
  ])('name the line and the problem: %j', (source, message) => {
    const run = () => new ChatTemplate(source).render([user]);
    expect(run).toThrow(RequestValidationError);
    expect(run).toThrow(expect.objectContaining({ code: 'template_error', message }));
  });
});

describe('generated parts', () => {
  it('can be cut out of the text', () => {
    const template = new ChatTemplate(
      '{{ bos_token }}{% for m in messages %}{% if m.role == "assistant" %}<a>{% generation %}{{ m.content }}</a>{% endgeneration %}{% else %}<u>{{ m.content }}{% endif %}{% endfor %}',
      { bosToken: '😀' },
    );
    const turns = [
      user,
      { role: 'assistant', content: 'é😀' },
      { role: 'user', content: '😀' },
      { role: 'assistant', content: '' },
    ];
    const { text, generated } = template.renderSpans(turns);
    expect(generated.map(([start, end]) => text.slice(start, end))).toEqual(['é😀</a>', '</a>']);
    expect(template.render(turns)).toBe(text);
  });
});

describe('an unfinished last message', () => {
  const template = new ChatTemplate('{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}');
  const trimming = new ChatTemplate('{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>{% endfor %}');
  const last = { role: 'assistant', content: 'Roses are ' };

  it('ends the text', () => {
    expect(template.render([user, last], { continueFinalMessage: true })).toBe('<user>Hi</><assistant>Roses are ');
    expect(trimming.render([user, last], { continueFinalMessage: true })).toBe('<user>Hi</><assistant>Roses are');
    expect(template.render([user, last], { continue_final_message: true })).toBe('<user>Hi</><assistant>Roses are ');
    expect(template.render([user, last], { continueFinalMessage: false })).toBe('<user>Hi</><assistant>Roses are </>');
  });

  it('may be in parts, or in another field', () => {
    const parts = new ChatTemplate(
      '{% for m in messages %}{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endfor %}',
    );
    const content = [{ type: 'text', text: 'a' }, { type: 'text', text: 'b' }, { type: 'image' }];
    expect(parts.render([{ role: 'user', content }], { continueFinalMessage: true })).toBe('[a][b');
    const thinking = new ChatTemplate('{{ messages[0].thinking }}|{{ messages[0].content }}');
    const message = { role: 'assistant', content: 'c', reasoningContent: 'hm' };
    expect(thinking.render([message], { continueFinalMessage: 'reasoning_content' })).toBe('hm');
  });

  it('must be there, and shown', () => {
    const run =
      (messages: readonly unknown[], source = '{{ messages[0].content }}') =>
      () =>
        new ChatTemplate(source).render(messages, { continueFinalMessage: true });
    expect(run([])).toThrow('expected a last message with a text as "content", got no message');
    expect(run([{ role: 'assistant', content: null }])).toThrow('got none');
    expect(run([{ role: 'assistant', content: [{ type: 'image' }] }])).toThrow('got none');
    expect(run([last], 'x')).toThrow(/expected a template that shows the last message/);
  });
});

describe('the begin token', () => {
  it('is known where the text begins with it', () => {
    const template = new ChatTemplate('', { bosToken: '<s>' });
    expect([template.startsWithBos('<s>x'), template.startsWithBos('x<s>')]).toEqual([true, false]);
    expect(new ChatTemplate('', { bosToken: '' }).startsWithBos('x')).toBe(false);
    expect(new ChatTemplate('').startsWithBos('undefined')).toBe(false);
  });
});

describe('further names of tools', () => {
  const tools = [{ function: { name: 'f' } }, { function: { name: 'python' } }];

  it('are given to templates that mention them', () => {
    expect(toolVariables('{{ xml_tools }}{{ builtin_tools }}', tools)).toEqual({
      xml_tools: tools,
      builtin_tools: ['python'],
    });
    expect(toolVariables('{{ tools }}', tools)).toEqual({});
    expect(toolVariables('{{ builtin_tools }}', tools.slice(0, 1))).toEqual({});
    expect(toolVariables('{{ xml_tools }}', [])).toEqual({});
    expect(toolVariables('{{ xml_tools }}', undefined)).toEqual({});
  });
});
