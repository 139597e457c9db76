import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MultimodalMessages, TextMessages } from '../../src/core/sdk/messages.ts';
import type { ChatRequest, SamplingParams } from '../../src/core/sdk/request.ts';
import { RequestBuilder } from '../../src/core/sdk/requestBuilder.ts';
import { normalSampling } from '../../src/core/sdk/validate.ts';

type Mutable<T> = { -readonly [K in keyof T]: T[K] };
interface Plain {
  messages: ChatRequest['messages'][number][];
  sampling: Mutable<SamplingParams> | undefined;
  fields: Mutable<Omit<ChatRequest, 'messages' | 'sampling'>>;
}

/** One setter: what it does to the builder, and the same written by hand. */
interface Step {
  readonly name: string;
  readonly arb: fc.Arbitrary<readonly unknown[]>;
  plain(p: Plain, args: readonly never[]): void;
}

const text = fc.string({ maxLength: 12 });
const role = fc.constantFrom('user', 'assistant', 'system', 'critic');
const image = fc.uint8Array({ maxLength: 3 });
const number = fc.double({ min: 0, max: 2, noNaN: true });
const count = fc.nat(100);
const call = text.map((name) => ({ index: 0, id: 'c1', type: 'function', function: { name, arguments: '{}' } }));
const file = text.map((name) => ({ name, bytes: new Uint8Array(2) }));

const sampling = (name: string, key: keyof SamplingParams, arb: fc.Arbitrary<unknown>): Step => ({
  name,
  arb: fc.tuple(arb),
  plain: (p, [value]) => void (p.sampling = { ...(p.sampling ?? { topK: 1 }), [key]: value }),
});
const field = (name: string, key: keyof ChatRequest, arb: fc.Arbitrary<unknown>, fixed?: unknown): Step => ({
  name,
  arb: fixed === undefined ? fc.tuple(arb) : fc.constant([]),
  plain: (p, [value]) => void Object.assign(p.fields, { [key]: fixed === undefined ? value : fixed }),
});
const append = (name: string, key: 'logitsProcessors' | 'files' | 'inputFiles', arb: fc.Arbitrary<unknown>): Step => ({
  name,
  arb: fc.tuple(arb),
  plain: (p, [value]) => void Object.assign(p.fields, { [key]: [...((p.fields[key] ?? []) as unknown[]), value] }),
});
const media = (name: string, key: 'image' | 'audio' | 'video'): Step => ({
  name,
  arb: fc.tuple(role, text, fc.array(image, { maxLength: 2 })),
  plain: (p, [r, t, list]: readonly never[]) => {
    const parts = (list as unknown as Uint8Array[]).map((m) => ({ type: key, [key]: m }));
    const content = parts.length === 0 ? t : [...parts, { type: 'text', text: t }];
    p.messages.push({ role: r, content } as never);
  },
});

const steps: readonly Step[] = [
  {
    name: 'addMessage',
    arb: fc.tuple(role, text),
    plain: (p, [r, content]: readonly never[]) => void p.messages.push({ role: r!, content: content! }),
  },
  media('addImageMessage', 'image'),
  media('addAudioMessage', 'audio'),
  media('addVideoMessage', 'video'),
  {
    name: 'addMultimodalMessage',
    arb: fc.tuple(
      role,
      text,
      fc.array(image, { maxLength: 2 }),
      fc.array(image, { maxLength: 1 }),
      fc.array(image, { maxLength: 1 }),
    ),
    plain: (p, [r, t, images, audios, videos]: readonly never[]) => {
      const parts = [
        ...(images as unknown as Uint8Array[]).map((image) => ({ type: 'image' as const, image })),
        ...(audios as unknown as Uint8Array[]).map((audio) => ({ type: 'audio' as const, audio })),
        ...(videos as unknown as Uint8Array[]).map((video) => ({ type: 'video' as const, video })),
      ];
      p.messages.push({ role: r!, content: parts.length === 0 ? t! : [...parts, { type: 'text', text: t! }] });
    },
  },
  {
    name: 'addToolMessage',
    arb: fc.tuple(text, text),
    plain: (p, [content, toolCallId]: readonly never[]) =>
      void p.messages.push({ role: 'tool', content: content!, toolCallId: toolCallId! }),
  },
  {
    name: 'addMessageWithToolCall',
    arb: fc.tuple(role, text, fc.array(call, { maxLength: 2 })),
    plain: (p, [r, content, toolCalls]: readonly never[]) =>
      void p.messages.push({ role: r!, content: content!, toolCalls: toolCalls! }),
  },
  {
    name: 'setSampling',
    arb: fc.tuple(fc.record({ temperature: number, topP: number }, { requiredKeys: [] })),
    plain: (p, [params]: readonly never[]) => void (p.sampling = { ...(params as unknown as SamplingParams) }),
  },
  { name: 'setDeterministicSampler', arb: fc.constant([]), plain: (p) => void (p.sampling = { topK: 1 }) },
  sampling('setSamplerTemperature', 'temperature', number),
  sampling('setSamplerTopK', 'topK', count),
  sampling('setSamplerTopP', 'topP', number),
  sampling('setSamplerMinP', 'minP', number),
  sampling('setSamplerTopNLogprobs', 'topNLogprobs', count),
  sampling('setSamplerFrequencyPenalty', 'frequencyPenalty', number),
  sampling('setSamplerPresencePenalty', 'presencePenalty', number),
  sampling('setSamplerRepetitionPenalty', 'repetitionPenalty', number),
  sampling(
    'setSamplerStopToks',
    'stopToks',
    fc.array(text).map((seqs) => ({ seqs })),
  ),
  sampling('setSamplerMaxLen', 'maxLen', count),
  sampling('setSamplerIgnoreEos', 'ignoreEos', fc.boolean()),
  sampling(
    'setSamplerLogitsBias',
    'logitsBias',
    fc.array(fc.tuple(count, number)).map((e) => new Map(e)),
  ),
  sampling('setSamplerNChoices', 'nChoices', count),
  sampling('setSamplerDryParams', 'dryParams', fc.record({ multiplier: number })),
  field('setSeed', 'seed', count),
  append(
    'addLogitsProcessor',
    'logitsProcessors',
    fc.constant(() => undefined),
  ),
  field('returnLogprobs', 'logprobs', fc.boolean()),
  field(
    'setConstraint',
    'constraint',
    text.map((pattern) => ({ kind: 'regex', pattern })),
  ),
  field('setAdapter', 'adapter', text),
  field('enableThinking', 'enableThinking', fc.boolean()),
  field('withReasoningEffort', 'reasoningEffort', fc.constantFrom('off', 'high')),
  field('withTruncateSequence', 'truncateSequence', fc.boolean()),
  field('setTools', 'tools', fc.array(text.map((name) => ({ type: 'function', function: { name } })))),
  field('setToolChoice', 'toolChoice', fc.constantFrom('none', 'auto', 'required')),
  field('withMaxToolRounds', 'maxToolRounds', count),
  field('withToolDispatchUrl', 'toolDispatchUrl', text),
  field('withWebSearchOptions', 'webSearch', fc.record({ searchContextSize: fc.constant('low') })),
  field('withCodeExecution', 'codeExecution', fc.constant(0), true),
  field('withShellOptions', 'shell', fc.constant({ skills: [] })),
  {
    name: 'withShellExecution',
    arb: fc.constant([]),
    plain: (p) => void (p.fields.shell = p.fields.shell ? p.fields.shell : true),
  },
  {
    name: 'withShellSkill',
    arb: fc.tuple(text, text, text),
    plain: (p, [name, description, sourcePath]: readonly never[]) => {
      const before = typeof p.fields.shell === 'object' ? p.fields.shell.skills : [];
      p.fields.shell = { skills: [...before, { name: name!, description: description!, sourcePath: sourcePath! }] };
    },
  },
  field('withAgentPermission', 'agentPermission', fc.constantFrom('auto', 'ask', 'deny')),
  {
    name: 'withCodeExecutionPermission',
    arb: fc.tuple(fc.constantFrom('auto', 'ask', 'deny')),
    plain: (p, [value]) => void Object.assign(p.fields, { agentPermission: value, codeExecutionPermission: value }),
  },
  field(
    'withAgentApprovalCallback',
    'onApproval',
    fc.constant(() => ({ approve: true, rememberForSession: false })),
  ),
  field('withSessionId', 'sessionId', text),
  {
    name: 'requireFile',
    arb: fc.tuple(text),
    plain: (p, [name]: readonly never[]) => void (p.fields.files = [...(p.fields.files ?? []), { name: name! }]),
  },
  {
    name: 'requireFileDescribed',
    arb: fc.tuple(text, text, text),
    plain: (p, [name, format, description]: readonly never[]) =>
      void (p.fields.files = [...(p.fields.files ?? []), { name: name!, format: format!, description: description! }]),
  },
  field('withFiles', 'files', fc.array(text.map((name) => ({ name })))),
  append('withInputFile', 'inputFiles', file),
  field('withInputFiles', 'inputFiles', fc.array(file)),
];

const plainOf = (p: Plain): ChatRequest => ({
  messages: p.messages,
  ...p.fields,
  ...(p.sampling === undefined ? {} : { sampling: p.sampling }),
});

describe('RequestBuilder', () => {
  it('has a step in this test for every setter', () => {
    const own = Object.getOwnPropertyNames(RequestBuilder.prototype).filter(
      (n) => !['constructor', 'toRequest', 'isTemperatureUnused'].includes(n),
    );
    expect(steps.map((s) => s.name).sort()).toEqual(own.sort());
  });

  it('gives the plain object, for any sequence of setters', () => {
    const sequence = fc.array(
      fc.nat(steps.length - 1).chain((i) => steps[i]!.arb.map((args) => ({ step: steps[i]!, args }))),
      { maxLength: 12 },
    );
    fc.assert(
      fc.property(sequence, (list) => {
        const builder = new RequestBuilder();
        const plain: Plain = { messages: [], sampling: undefined, fields: {} };
        for (const { step, args } of list) {
          const set = builder[step.name as 'setSeed'] as (...a: unknown[]) => RequestBuilder;
          expect(set.apply(builder, [...args])).toBe(builder);
          step.plain(plain, args as never);
        }
        expect(builder.toRequest()).toEqual(plainOf(plain));
      }),
      { numRuns: 300 },
    );
  });

  it('starts greedy, as a request without sampling is', () => {
    const request = new RequestBuilder().addMessage('user', 'hi').toRequest();
    expect(request).toEqual({ messages: [{ role: 'user', content: 'hi' }] });
    expect(normalSampling(request.sampling)).toEqual({ topK: 1 });
  });

  it('stays greedy with a temperature alone, and knows that this is a trap', () => {
    const builder = new RequestBuilder().setSamplerTemperature(0.9);
    expect(builder.toRequest().sampling).toEqual({ topK: 1, temperature: 0.9 });
    expect(builder.isTemperatureUnused).toBe(true);
    expect(builder.setSamplerTopK(40).isTemperatureUnused).toBe(false);
    expect(new RequestBuilder().setSampling({ temperature: 0.9 }).isTemperatureUnused).toBe(false);
    expect(new RequestBuilder().isTemperatureUnused).toBe(false);
  });

  it('takes over message collections and plain requests', () => {
    const messages = new TextMessages().addMessage('user', 'a').enableThinking(false).withReasoningEffort('off');
    expect(RequestBuilder.from(messages).toRequest()).toEqual(messages.toRequest());
    const plain: ChatRequest = { messages: [{ role: 'user', content: 'b' }], sampling: { topP: 0.5 }, seed: 3 };
    expect(RequestBuilder.from(plain).toRequest()).toEqual(plain);
    expect(RequestBuilder.from(plain).setSamplerTemperature(1).isTemperatureUnused).toBe(false);
  });
});

describe('message collections', () => {
  it('put media before the text, kinds in a fixed order', () => {
    const [a, b, c] = [Uint8Array.of(1), Uint8Array.of(2), Uint8Array.of(3)];
    const [message] = new MultimodalMessages().addMultimodalMessage('user', 't', [a], [b], [c]).toRequest().messages;
    expect(message?.content).toEqual([
      { type: 'image', image: a },
      { type: 'audio', audio: b },
      { type: 'video', video: c },
      { type: 'text', text: 't' },
    ]);
    expect(new MultimodalMessages().addImageMessage('user', 't', []).toRequest().messages[0]?.content).toBe('t');
  });

  it('clear() removes messages and nothing else', () => {
    const m = new TextMessages().addMessage('user', 'a').enableThinking(true).clear().addMessage('user', 'b');
    expect(m.toRequest()).toEqual({ messages: [{ role: 'user', content: 'b' }], enableThinking: true });
  });

  it('are copied when sent', () => {
    const m = new TextMessages().addMessage('user', 'a');
    const request = m.toRequest();
    m.addMessage('user', 'b');
    expect(request.messages).toHaveLength(1);
  });
});
