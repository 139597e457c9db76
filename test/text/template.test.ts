/**
 * Chat templates against jinja2 3.1.6 as transformers 5 sets it up: conversations in the style of models in use, and
 * small templates for every part of the language.
 */
import { describe, expect, it } from 'vitest';
import { RequestValidationError, TramontaneError } from '../../src/core/errors.ts';
import { toValue } from '../../src/core/text/jinja/convert.ts';
import { render } from '../../src/core/text/jinja/interpreter.ts';
import { parseTemplate } from '../../src/core/text/jinja/parser.ts';
import { Tuple, type Value } from '../../src/core/text/jinja/values.ts';
import { ChatTemplate } from '../../src/core/text/template.ts';
import { fixture } from './fixtures.ts';

interface Chats {
  readonly now: string;
  readonly special: { readonly [name: string]: string };
  readonly messages: Readonly<Record<string, readonly unknown[]>>;
  readonly tools: Readonly<Record<string, readonly unknown[] | null>>;
  readonly documents: readonly unknown[];
  readonly templates: Readonly<Record<string, string>>;
  readonly cases: readonly {
    readonly template: string;
    readonly messages: string;
    readonly tools: string;
    readonly add_generation_prompt: boolean;
    readonly kwargs: Readonly<Record<string, unknown>>;
    readonly documents?: boolean;
    readonly continue_final_message?: boolean;
    readonly text?: string;
    readonly generation_spans?: readonly (readonly [number, number])[];
    readonly error?: string;
    readonly error_kind?: 'raise_exception' | 'engine';
  }[];
}

const chats = fixture<Chats>('templates/chats');
const now = new Date(chats.now);

type Case = Chats['cases'][number];

function rendered(template: ChatTemplate, c: Case) {
  return template.renderSpans(chats.messages[c.messages] ?? [], {
    tools: chats.tools[c.tools] ?? undefined,
    documents: c.documents ? chats.documents : undefined,
    addGenerationPrompt: c.add_generation_prompt,
    continueFinalMessage: c.continue_final_message,
    now,
    ...c.kwargs,
  });
}

function outcome(run: () => unknown): unknown {
  try {
    return run();
  } catch (error) {
    return error;
  }
}

describe('conversations', () => {
  it('cover every template in many ways', () => {
    expect(chats.cases).toHaveLength(1142);
    expect(new Set(chats.cases.map((c) => c.template)).size).toBe(39);
  });

  it.each(Object.keys(chats.templates))('%s', (name) => {
    const template = new ChatTemplate(chats.templates[name] ?? '', {
      bosToken: chats.special.bos_token,
      eosToken: chats.special.eos_token,
      unkToken: chats.special.unk_token,
      padToken: chats.special.pad_token,
    });
    for (const c of chats.cases.filter((one) => one.template === name)) {
      const what = JSON.stringify({ ...c, text: undefined });
      const result = outcome(() => rendered(template, c));
      if (c.error === undefined) {
        expect(result, what).toMatchObject({ text: c.text });
        if (c.generation_spans) expect(result, what).toMatchObject({ generated: c.generation_spans });
      } else {
        expect(result, what).toBeInstanceOf(RequestValidationError);
        expect(result, what).toMatchObject({ code: 'template_error' });
        const said = c.error.replace('TemplateError: ', '');
        if (c.error_kind === 'raise_exception') expect((result as Error).message, what).toBe(said);
      }
    }
  });
});

describe('the language', () => {
  const { variables, cases } = fixture<{
    readonly variables: Readonly<Record<string, unknown>>;
    /** Template and text; without a text it is an error. */
    readonly cases: readonly (readonly [string, string?])[];
  }>('templates/language');
  const given = new Map<string, Value>(Object.entries(variables).map(([name, data]) => [name, toValue(data)]));
  given.set('big', 10n ** 20n).set('tup', new Tuple([1, 'x']));

  it('does with every small template what the original does', () => {
    expect(cases.length).toBeGreaterThan(27_000);
    const wrong: unknown[] = [];
    for (const [template, text] of cases) {
      const result = outcome(() => render(parseTemplate(template), () => given, { now: () => now }).text);
      const right = text === undefined ? result instanceof TramontaneError : result === text;
      if (!right) wrong.push({ template, text, result: result instanceof Error ? result.message : result });
    }
    expect(wrong).toEqual([]);
  });
});
