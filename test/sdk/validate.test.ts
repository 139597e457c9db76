import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RequestValidationError, UnsupportedError } from '../../src/core/errors.ts';
import { parseReasoningEffort, resolveReasoning } from '../../src/core/sdk/reasoning.ts';
import { RequestBuilder } from '../../src/core/sdk/requestBuilder.ts';
import { normalChat, normalCompletion, normalSampling, promptIds } from '../../src/core/sdk/validate.ts';

const user = { role: 'user', content: 'hi' };

function refusal(run: () => unknown): RequestValidationError {
  try {
    run();
  } catch (error) {
    if (error instanceof RequestValidationError) return error;
    throw error;
  }
  throw new Error('expected a refusal');
}

describe('chat requests', () => {
  it('are accepted with text, as parts too', () => {
    const parts = {
      role: 'user',
      content: [{ type: 'text', text: 'a' } as const, { type: 'text', text: 'b' } as const],
    };
    expect(normalChat({ messages: [user, parts] }).messages.map((m) => m.content)).toEqual(['hi', 'ab']);
  });

  it.each([
    [{}, 'messages'],
    [{ messages: [] }, 'at least one message'],
    [{ messages: 'hi' }, 'messages: expected an array'],
    [{ messages: [null] }, 'messages[0]'],
    [{ messages: [{ role: '', content: 'x' }] }, 'messages[0].role'],
    [{ messages: [{ role: 5, content: 'x' }] }, 'messages[0].role'],
    [{ messages: [{ role: 'user', content: 5 }] }, 'messages[0].content'],
    [{ messages: [{ role: 'user' }] }, 'messages[0].content'],
    [{ messages: [{ role: 'user', content: [{ type: 'smell' }] }] }, 'messages[0].content[0].type'],
    [{ messages: [{ role: 'user', content: 'x', toolCalls: [{}] }] }, 'messages[0].toolCalls[0]'],
    [{ messages: [user], seed: -1 }, 'seed'],
    [{ messages: [user], seed: 0.5 }, 'seed'],
    [{ messages: [user], logprobs: 'yes' }, 'logprobs'],
    [{ messages: [user], logitsProcessors: [1] }, 'logitsProcessors'],
    [{ messages: [user], reasoningEffort: 'huge' }, 'reasoningEffort'],
    [{ messages: [user], enableThinking: 'no' }, 'enableThinking'],
    [null, 'request'],
  ])('refuse %j, naming %s', (request, what) => {
    const error = refusal(() => normalChat(request as never));
    expect(error.code).toBe('invalid_request');
    expect(error.message).toContain(what);
  });

  it.each([
    ['image', { messages: [{ role: 'user', content: [{ type: 'image', image: 'x.png' }] }] }],
    ['audio', { messages: [{ role: 'user', content: [{ type: 'audio', audio: 'x.wav' }] }] }],
    ['video', { messages: [{ role: 'user', content: [{ type: 'video', video: 'x.mp4' }] }] }],
    ['constraint', { messages: [user], constraint: { kind: 'regex', pattern: 'a' } }],
    ['tools', { messages: [user], tools: [{ type: 'function', function: { name: 'f' } }] }],
    ['webSearch', { messages: [user], webSearch: {} }],
    ['codeExecution', { messages: [user], codeExecution: true }],
    ['shell', { messages: [user], shell: true }],
    ['inputFiles', { messages: [user], inputFiles: [{ name: 'a', bytes: new Uint8Array() }] }],
    ['toolDispatchUrl', { messages: [user], toolDispatchUrl: 'http://x' }],
    ['maxToolRounds', { messages: [user], maxToolRounds: 3 }],
  ])('name the feature that is absent: %s', (feature, request) => {
    try {
      normalChat(request as never);
      expect.unreachable();
    } catch (error) {
      expect(error).toBeInstanceOf(UnsupportedError);
      expect((error as UnsupportedError).feature).toBe(feature);
    }
  });

  it('an empty tool list means no tools, and takes the choice with it', () => {
    expect(() => normalChat({ messages: [user], tools: [], toolChoice: 'required' })).not.toThrow();
    expect(() => normalChat({ messages: [user], constraint: { kind: 'none' }, maxToolRounds: 0 })).not.toThrow();
  });

  it('files without an agent are a mistake of the request', () => {
    expect(refusal(() => normalChat(new RequestBuilder().addMessage('user', 'x').requireFile('a'))).code).toBe(
      'files_without_agent',
    );
  });

  it('have no effect on the answer once they are sent', () => {
    const stops = ['a'];
    const request = { messages: [{ ...user }], sampling: { stopToks: { seqs: stops }, logitsBias: new Map([[1, 2]]) } };
    const { messages, sampling } = normalChat(request);
    request.messages[0]!.content = 'changed';
    stops.push('b');
    request.sampling.logitsBias.set(3, 4);
    expect(messages[0]?.content).toBe('hi');
    expect(sampling.stopToks).toEqual({ seqs: ['a'] });
    expect(sampling.logitsBias?.size).toBe(1);
  });
});

describe('sampling', () => {
  it('is greedy when absent and neutral when given', () => {
    expect(normalSampling(undefined)).toEqual({ topK: 1 });
    expect(normalSampling({ temperature: 0.9 })).toEqual({ temperature: 0.9 });
  });

  it.each([
    [{ maxLen: 0 }, 'max_tokens_zero'],
    [{ nChoices: 0 }, 'n_zero'],
    [{ temperature: Number.NaN }, 'invalid_request'],
    [{ temperature: -1 }, 'invalid_request'],
    [{ temperature: '1' }, 'invalid_request'],
    [{ topK: 1.5 }, 'invalid_request'],
    [{ topP: Number.POSITIVE_INFINITY }, 'invalid_request'],
    [{ maxLen: -3 }, 'invalid_request'],
    [{ maxLen: 2 ** 60 }, 'invalid_request'],
    [{ nChoices: 1e9 }, 'invalid_request'],
    [{ topNLogprobs: 1e9 }, 'invalid_request'],
    [{ repetitionPenalty: 0 }, 'invalid_request'],
    [{ stopToks: { seqs: [''] } }, 'invalid_request'],
    [{ stopToks: { seqs: ['a'], ids: [1] } }, 'invalid_request'],
    [{ stopToks: ['a'] }, 'invalid_request'],
    [{ stopToks: { ids: [-1] } }, 'invalid_request'],
    [{ logitsBias: { 5: 1 } }, 'invalid_request'],
    [{ logitsBias: new Map([[1, Number.NaN]]) }, 'invalid_request'],
    [{ dryParams: { multiplier: 'x' } }, 'invalid_request'],
    [{ ignoreEos: 1 }, 'invalid_request'],
    [{ max_tokens: 5 }, 'invalid_request'],
    [5, 'invalid_request'],
  ])('refuses %j with %s', (params, code) => {
    expect(refusal(() => normalSampling(params as never)).code).toBe(code);
  });

  it('bestOf must cover the choices asked for', () => {
    expect(refusal(() => normalCompletion({ bestOf: 2, sampling: { nChoices: 3 } })).message).toContain('bestOf');
    expect(normalCompletion({ bestOf: 3, sampling: { nChoices: 3 } }).bestOf).toBe(3);
  });

  it('never throws anything but a typed error, whatever it is given', () => {
    fc.assert(
      fc.property(fc.anything(), fc.anything(), (a, b) => {
        for (const run of [
          () => normalChat(a as never),
          () => normalChat({ messages: [user], sampling: a, tools: b } as never),
          () => normalSampling({ stopToks: a, dryParams: b } as never),
          () => promptIds(a as never, 10),
        ]) {
          try {
            run();
          } catch (error) {
            if (!(error instanceof RequestValidationError || error instanceof UnsupportedError)) throw error;
          }
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe('prompt ids', () => {
  it('are checked against the vocabulary', () => {
    expect([...promptIds([0, 9], 10)]).toEqual([0, 9]);
    expect(refusal(() => promptIds([], 10)).code).toBe('empty_prompt');
    expect(refusal(() => promptIds([10], 10)).code).toBe('invalid_token');
    expect(refusal(() => promptIds([-1], 10)).code).toBe('invalid_token');
    expect(refusal(() => promptIds([1.5], 10)).code).toBe('invalid_token');
    expect(refusal(() => promptIds({ length: -1 } as never, 10)).code).toBe('invalid_request');
    expect(refusal(() => promptIds({ length: 1e15 } as never, 10)).code).toBe('invalid_request');
  });
});

describe('reasoning controls', () => {
  it.each([
    [undefined, undefined, true, undefined],
    [false, undefined, false, undefined],
    [true, undefined, true, undefined],
    [undefined, 'off', false, 'off'],
    [false, 'off', false, 'off'],
    [undefined, 'low', true, 'low'],
    [true, 'xhigh', true, 'xhigh'],
  ] as const)('%s with %s', (enabled, effort, thinking, passed) => {
    expect(resolveReasoning(enabled, effort)).toEqual({ enableThinking: thinking, reasoningEffort: passed });
  });

  it('that contradict each other are refused', () => {
    expect(refusal(() => resolveReasoning(true, 'off')).code).toBe('effort_conflict');
    expect(refusal(() => resolveReasoning(false, 'low')).code).toBe('effort_conflict');
  });

  it('are read leniently', () => {
    expect([' None ', 'MAX', 'High'].map(parseReasoningEffort)).toEqual(['off', 'xhigh', 'high']);
    expect(() => parseReasoningEffort('enormous')).toThrow(RequestValidationError);
  });
});
