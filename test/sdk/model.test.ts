import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { LogitsProcessor } from '../../src/core/engine/types.ts';
import {
  AbortError,
  ChannelError,
  ModelError,
  ModelNotFoundError,
  RequestValidationError,
  UnsupportedError,
} from '../../src/core/errors.ts';
import type { GenerationDefaults } from '../../src/core/sdk/generationConfig.ts';
import { TextMessages } from '../../src/core/sdk/messages.ts';
import type { Model } from '../../src/core/sdk/model.ts';
import { RequestBuilder } from '../../src/core/sdk/requestBuilder.ts';
import type { ChatCompletionResponse } from '../../src/core/sdk/response.ts';
import { BOS, EOS, fakeModel as fake, fakeText, type Script, says, TURN_END, VOCAB } from './fakes.ts';

const ask = (content: string) => ({ messages: [{ role: 'user', content }] });
const textOf = (r: ChatCompletionResponse) => r.choices[0]?.message.content;

/** All blocks are free, or kept only for prompts to come, and nothing runs. */
async function expectIdle(model: Model): Promise<void> {
  for (let i = 0; i < 100 && model.engineStats().running + model.engineStats().waiting > 0; i++) {
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  expect(model.engineStats()).toMatchObject({ running: 0, waiting: 0, blocksUsed: 0 });
}

describe('chat', () => {
  it('equals sendChatRequest, and the concatenated stream', async () => {
    const { model } = fake(says('Hello, wörld! 👋'));
    expect(await model.chat('hi')).toBe('Hello, wörld! 👋');
    expect(textOf(await model.sendChatRequest(new TextMessages().addMessage('user', 'hi')))).toBe('Hello, wörld! 👋');
    let streamed = '';
    for await (const chunk of model.streamChatRequest(ask('hi'))) streamed += chunk.choices[0]?.delta.content ?? '';
    expect(streamed).toBe('Hello, wörld! 👋');
    await expectIdle(model);
  });

  it('streams what it sends whole, for any text', async () => {
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: 'grapheme', maxLength: 40 }), fc.boolean(), async (answer, logprobs) => {
        const { model } = fake(says(answer));
        const request = { ...ask('q'), logprobs, sampling: { topK: 1, topNLogprobs: 2 } };
        const whole = await model.sendChatRequest(request);
        const stream = model.streamChatRequest(request);
        let text = '';
        const ids: number[] = [];
        for await (const { choices } of stream) {
          text += choices[0]?.delta.content ?? '';
          ids.push(...(choices[0]?.tokenIds ?? []));
        }
        const final = await stream.final();
        expect(text).toBe(textOf(whole));
        expect(ids).toEqual([...(whole.choices[0]?.tokenIds ?? [])]);
        expect(final.choices).toEqual(whole.choices);
        expect(final.usage.completionTokens).toBe(ids.length);
        expect(whole.choices[0]?.logprobs?.content.length ?? ids.length).toBe(ids.length);
      }),
      { numRuns: 60 },
    );
  });

  it('has the shape of the contract', async () => {
    const { model } = fake(says('ok'));
    const response = await model.sendChatRequest({
      ...ask('hi'),
      logprobs: true,
      sampling: { topK: 1, topNLogprobs: 1 },
    });
    expect(response).toMatchObject({
      id: expect.stringMatching(/^chatcmpl-[0-9a-f]{8}-[0-9a-f]{4}-4/),
      object: 'chat.completion',
      model: 'fake',
      systemFingerprint: 'local',
      created: expect.any(Number),
      usage: { promptTokens: 19, completionTokens: 3, totalTokens: 22 },
    });
    expect(response.choices).toHaveLength(1);
    expect(response.choices[0]).toMatchObject({
      finishReason: 'stop',
      index: 0,
      message: { role: 'assistant', content: 'ok' },
      tokenIds: Uint32Array.from([111, 107, TURN_END]),
    });
    const [first] = response.choices[0]?.logprobs?.content ?? [];
    expect(first).toMatchObject({ token: 'o', tokenId: 111, bytes: [111], topLogprobs: [{ token: 111, bytes: 'o' }] });
    expect(first?.logprob).toBeLessThan(0);
  });

  it('ends a stream with the reason and the usage, in the last chunk only', async () => {
    const { model } = fake(says('abc'));
    const chunks = [];
    for await (const chunk of model.streamChatRequest(ask('hi'))) chunks.push(chunk);
    expect(chunks.map((c) => c.kind)).toEqual(chunks.map(() => 'chunk'));
    expect(new Set(chunks.map((c) => c.id)).size).toBe(1);
    expect(chunks.map((c) => c.choices[0]?.finishReason).filter(Boolean)).toEqual(['stop']);
    expect(chunks.findIndex((c) => c.usage)).toBe(chunks.length - 1);
    expect(chunks.at(-1)?.choices[0]?.finishReason).toBe('stop');
  });

  it('several choices stream each on their own, and are sorted in the response', async () => {
    const { model } = fake(says('xyz'));
    const stream = model.streamChatRequest({ ...ask('hi'), sampling: { topK: 1, nChoices: 3 } });
    const texts = ['', '', ''];
    const ends: number[] = [];
    for await (const { choices } of stream) {
      for (const c of choices) {
        texts[c.index] += c.delta.content ?? '';
        if (c.finishReason) ends.push(c.index);
      }
    }
    expect(texts).toEqual(['xyz', 'xyz', 'xyz']);
    expect(ends.sort()).toEqual([0, 1, 2]);
    const whole = await model.sendChatRequest({ ...ask('hi'), sampling: { topK: 1, nChoices: 3 } });
    expect(whole.choices.map((c) => c.index)).toEqual([0, 1, 2]);
    expect(whole.usage.completionTokens).toBe(whole.choices.reduce((n, c) => n + c.tokenIds.length, 0));
    expect(whole.usage.promptTokens).toBe(19);
  });

  it('cuts stop strings, in streams too, and does not show the start of one', async () => {
    const { model } = fake(says('one STOP two'));
    const request = { ...ask('hi'), sampling: { topK: 1, stopToks: { seqs: ['STOP'] } } };
    expect(textOf(await model.sendChatRequest(request))).toBe('one ');
    const pieces: string[] = [];
    for await (const { choices } of model.streamChatRequest(request)) pieces.push(choices[0]?.delta.content ?? '');
    expect(pieces.join('')).toBe('one ');
    expect(pieces.join('|')).not.toContain('S');
  });

  it('takes a stop string that is one special token by its id', async () => {
    const { model } = fake(says('abc', EOS));
    const script = says('abc', 260);
    const special = fake((h) => script(h), { text: fakeText({ fill: true }) });
    const request = { ...ask('hi'), sampling: { topK: 1, maxLen: 8, stopToks: { seqs: ['<|fim_suffix|>'] } } };
    expect((await special.model.sendChatRequest(request)).choices[0]?.finishReason).toBe('stop');
    expect((await model.sendChatRequest(request)).choices[0]?.finishReason).toBe('stop');
  });

  it('trims the space before the first word', async () => {
    const { model } = fake(says('  word '));
    expect(await model.chat('hi')).toBe('word ');
    expect(await model.streamChatRequest(ask('hi')).toText()).toBe('word ');
  });

  it('does not double the begin token of a template that writes it', async () => {
    const plain = fake(says('a'));
    expect([...(await plain.model.tokenize(ask('x')))].filter((id) => id === BOS)).toHaveLength(1);
    const withBos = fake(says('a'), { text: fakeText({ withBos: true }) });
    expect([...(await withBos.model.tokenize(ask('x')))].filter((id) => id === BOS)).toHaveLength(1);
  });

  it('limits the length', async () => {
    const { model } = fake(says('abcdef'));
    const response = await model.sendChatRequest({ ...ask('hi'), sampling: { topK: 1, maxLen: 3 } });
    expect(response.choices[0]).toMatchObject({ finishReason: 'length', message: { content: 'abc' } });
  });
});

describe('sampling defaults', () => {
  const defaults: GenerationDefaults = { temperature: 0.5, topK: 7, suppressTokens: [97], eosIds: [] };
  const seen = async (sampling: object | undefined, d = defaults) => {
    const { model } = fake(says('abc'), { defaults: d });
    return model.sendChatRequest({ ...ask('hi'), ...(sampling ? { sampling } : {}) });
  };

  it('of the checkpoint fill what is unset; suppressed tokens never appear', async () => {
    expect(textOf(await seen({ topK: 1, maxLen: 1 }))).not.toBe('a');
    expect(textOf(await seen({ topK: 1, maxLen: 1, logitsBias: new Map([[97, 50]]) }))).toBe('a');
  });

  it('temperature alone samples in a plain request, and stays greedy in the builder, which warns once', async () => {
    const flat: Script = (h) => (h.at(-1) === 58 ? 97 : 98);
    const { model, warnings } = fake(flat);
    const hot = { temperature: 1000, maxLen: 1 };
    const texts = new Set<string>();
    for (let seed = 0; seed < 12; seed++) {
      const r = await model.complete('x:', { sampling: hot, seed });
      texts.add([...(r.choices[0]?.tokenIds ?? [])].join());
    }
    expect(texts.size).toBeGreaterThan(4);
    const builder = () => new RequestBuilder().addMessage('user', 'x').setSamplerTemperature(1000).setSamplerMaxLen(1);
    for (let i = 0; i < 3; i++) expect(textOf(await model.sendChatRequest(builder().setSeed(i)))).toBe('a');
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toContain('topK');
  });

  it('the same seed gives the same answer, whoever else is served', async () => {
    const { model } = fake((h) => h.length % 64);
    const request = { ...ask('q'), sampling: { temperature: 1000, maxLen: 6 }, seed: 5 };
    const alone = await model.sendChatRequest(request);
    const together = await Promise.all([1, 2, 3, 5].map((seed) => model.sendChatRequest({ ...request, seed })));
    expect(together[3]?.choices[0]?.tokenIds).toEqual(alone.choices[0]?.tokenIds);
    expect(together[0]?.choices[0]?.tokenIds).not.toEqual(alone.choices[0]?.tokenIds);
  });
});

describe('processors', () => {
  it('run in order, after the prompt is known', async () => {
    const calls: string[] = [];
    const force =
      (name: string, id: number): LogitsProcessor =>
      (logits, { prompt, generated }) => {
        calls.push(`${name}:${prompt.length}:${generated.length}`);
        logits[id] = 100 + id;
      };
    const { model } = fake(says('zzz'));
    const response = await model.sendChatRequest({
      ...ask('hi'),
      sampling: { topK: 1, maxLen: 1 },
      logitsProcessors: [force('a', 65), force('b', 66)],
    });
    expect(textOf(response)).toBe('B');
    expect(calls).toEqual(['a:19:0', 'b:19:0']);
  });
});

describe('completion', () => {
  it('continues ids without a tokenizer', async () => {
    const { model } = fake((h) => (h.at(-1)! + 1) % 256, { text: undefined });
    const response = await model.complete([1, 2, 3], { sampling: { topK: 1, maxLen: 3 } });
    expect(response).toMatchObject({ object: 'text_completion', id: expect.stringMatching(/^cmpl-/) });
    expect(response.choices).toEqual([
      { finishReason: 'length', index: 0, text: '', tokenIds: Uint32Array.from([4, 5, 6]) },
    ]);
    const chunks: number[][] = [];
    for await (const c of model.streamComplete([1, 2, 3], { sampling: { topK: 1, maxLen: 3 } })) {
      chunks.push([...(c.choices[0]?.tokenIds ?? [])]);
    }
    expect(chunks.slice(0, 3)).toEqual([[4], [5], [6]]);
  });

  it('refuses text where there is no tokenizer', async () => {
    const { model } = fake(() => 1, { text: undefined });
    for (const call of [
      () => model.complete('hi'),
      () => model.chat('hi'),
      () => model.sendRawChatRequest(ask('hi')),
      () => model.tokenize('hi'),
      () => model.detokenize([1]),
      () => model.streamChatRequest(ask('hi')).next(),
      () => model.complete([1], { echo: true }),
      () => model.complete([1], { suffix: 'x' }),
      () => model.complete([1], { sampling: { stopToks: { seqs: ['a'] } } }),
    ]) {
      await expect(call()).rejects.toThrow(UnsupportedError);
    }
  });

  it('keeps leading space, which belongs to the text', async () => {
    const { model } = fake((h) => [...new TextEncoder().encode(' Paris.'), EOS][h.length - 3] ?? EOS);
    expect((await model.complete('is')).choices[0]?.text).toBe(' Paris.');
  });

  it('echoes the prompt and appends the suffix, in streams too', async () => {
    const { model } = fake((h) => (h.length < 6 ? 97 : EOS));
    const params = { echo: true, suffix: '!' };
    expect((await model.complete('xy', params)).choices[0]?.text).toBe('xyaaa!');
    expect((await model.complete([BOS, 120, 121], params)).choices[0]?.text).toBe('xyaaa!');
    let text = '';
    for await (const { choices } of model.streamComplete('xy', params)) text += choices[0]?.text;
    expect(text).toBe('xyaaa!');
  });

  it('fills in the middle where the tokenizer has the marks', async () => {
    const prompts: number[][] = [];
    const script: Script = (h) => {
      prompts.push([...h]);
      return EOS;
    };
    const { model } = fake(script, { text: fakeText({ fill: true }) });
    const response = await model.complete('a', { suffix: 'b' });
    expect(prompts[0]).toEqual([BOS, 259, 97, 260, 98, 261]);
    expect(response.choices[0]?.text).toBe('');
  });

  it('bestOf returns the most likely answers of those generated', async () => {
    // Token 97 is certain, 98 is as likely as all others together: answers differ by their first token.
    const { model } = fake((h) => (h.length % 3 === 0 ? 97 : 98));
    const params = { sampling: { temperature: 3, maxLen: 4, nChoices: 2 }, bestOf: 8, seed: 1, logprobs: true };
    const best = await model.complete('q', params);
    const every = await model.complete('q', { ...params, sampling: { ...params.sampling, nChoices: 8 } });
    const mean = (c: (typeof best.choices)[number]) =>
      (c.logprobs?.content ?? []).reduce((n, e) => n + e.logprob, 0) / c.tokenIds.length;
    const sorted = every.choices.map(mean).sort((a, b) => b - a);
    expect(best.choices.map(mean)).toEqual(sorted.slice(0, 2));
    expect(best.choices.map((c) => c.index)).toEqual([0, 1]);
    expect((await model.complete('q', { ...params, logprobs: false })).choices[0]?.logprobs).toBeUndefined();
    await expect(model.streamComplete('q', params).next()).rejects.toThrow(UnsupportedError);
  });

  it('streams what it completes', async () => {
    const { model } = fake(says('¡Olé! 👍🏽'));
    const whole = await model.complete('assistant:');
    const stream = model.streamComplete('assistant:');
    expect(await stream.toText()).toBe(whole.choices[0]?.text);
    expect((await stream.final()).choices).toEqual(whole.choices);
  });
});

describe('cancelling', () => {
  it('rejects a promise and leaves nothing behind', async () => {
    const { model } = fake(() => 97);
    const abort = new AbortController();
    const pending = model.sendChatRequest(ask('hi'), { signal: abort.signal });
    setTimeout(() => abort.abort(), 5);
    await expect(pending).rejects.toThrow(AbortError);
    await expectIdle(model);
  });

  it('rejects at once when aborted before', async () => {
    const { model, runner } = fake(() => 97);
    await expect(model.complete('a', {}, { signal: AbortSignal.abort() })).rejects.toThrow(AbortError);
    expect(runner.steps).toBe(0);
  });

  it('leaving a loop frees the sequence', async () => {
    const { model } = fake(() => 97);
    let seen = 0;
    for await (const _ of model.streamChatRequest(ask('hi'))) if (++seen === 3) break;
    await expectIdle(model);
    expect(model.engineStats().completed.canceled).toBe(1);
  });

  it('cancel() ends the stream with its reason, before or after it began', async () => {
    const { model } = fake(() => 97);
    const stream = model.streamChatRequest(ask('hi'));
    await stream.next();
    stream.cancel();
    expect((await stream.final()).choices[0]?.finishReason).toBe('canceled');
    const early = model.streamChatRequest(ask('hi'));
    early.cancel();
    expect((await early.final()).choices[0]?.finishReason).toBe('canceled');
    await expectIdle(model);
  });

  it('a stream that was left has no final response', async () => {
    const { model } = fake(() => 97);
    const stream = model.streamChatRequest(ask('hi'));
    await stream.next();
    await stream.return?.();
    await expect(stream.final()).rejects.toThrow(ChannelError);
    expect(await stream.next()).toEqual({ done: true, value: undefined });
  });

  it('a reader that does not read stalls nobody', async () => {
    const { model } = fake(says('done'));
    const slow = model.streamChatRequest({ ...ask('slow'), sampling: { topK: 1 } });
    await slow.next();
    for (let i = 0; i < 5; i++) expect(await model.chat('hi')).toBe('done');
    expect((await slow.final()).choices[0]?.message.content).toBe('done');
  });
});

describe('failures', () => {
  it('in a step carry what had been said', async () => {
    const { model, runner } = fake(says('abcdef'));
    runner.failAt = 4;
    const error = await model.sendChatRequest(ask('hi')).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ModelError);
    const partial = (error as ModelError).partialResponse as ChatCompletionResponse;
    expect(partial.choices[0]).toMatchObject({ finishReason: 'error', message: { content: 'abc' } });
    runner.failAt = undefined;
    expect(await model.chat('hi')).toBe('abcdef');
  });

  it.each([
    ['prompt_too_long', () => ({ ...ask('x'.repeat(600)) })],
    ['n_zero', () => ({ ...ask('x'), sampling: { nChoices: 0 } })],
    ['max_tokens_zero', () => ({ ...ask('x'), sampling: { maxLen: 0 } })],
    ['stop_prefix', () => ({ ...ask('x'), sampling: { stopToks: { ids: [113] } } })],
    ['effort_conflict', () => ({ ...ask('x'), enableThinking: true, reasoningEffort: 'off' as const })],
    ['invalid_request', () => ({ messages: [] })],
  ])('%s is refused before the first step, by all forms', async (code, request) => {
    const { model, runner } = fake(says('a'));
    for (const call of [
      () => model.sendChatRequest(request()),
      () => model.streamChatRequest(request()).next(),
      () => model.streamChatRequest(request()).final(),
    ]) {
      const error = await call().catch((e: unknown) => e);
      expect(error).toBeInstanceOf(RequestValidationError);
      expect((error as RequestValidationError).code).toBe(code);
    }
    expect(runner.steps).toBe(0);
  });

  it('a prompt too long is cut at the front when asked to', async () => {
    const { model } = fake(says('ok'), { context: 64 });
    const request = { ...ask('x'.repeat(600)), truncateSequence: true, sampling: { topK: 1, maxLen: 8 } };
    const response = await model.sendChatRequest(request);
    expect(textOf(response)).toBe('ok');
    expect(response.usage.promptTokens).toBe(56);
  });

  it('without a template there is no chat, but completion', async () => {
    const { model } = fake(() => EOS, { text: fakeText({ template: false }) });
    const error = await model.chat('hi').catch((e: unknown) => e);
    expect((error as RequestValidationError).code).toBe('no_chat_template');
    expect((await model.complete('hi')).choices[0]?.finishReason).toBe('stop');
  });

  it('an unknown model is named', async () => {
    const { model } = fake(says('a'));
    await expect(model.chat('hi', { modelId: 'other' })).rejects.toThrow(ModelNotFoundError);
    expect(await model.chat('hi', { modelId: 'default' })).toBe('a');
    expect(() => model.config({ modelId: 'other' })).toThrow(ModelNotFoundError);
  });

  it('after dispose, calls that wait and calls that come reject with ChannelError', async () => {
    const { model } = fake(() => 97);
    const waiting = model.complete('a').catch((e: unknown) => e);
    await new Promise((resolve) => setTimeout(resolve, 2));
    await model.dispose();
    expect(await waiting).toBeInstanceOf(ChannelError);
    await expect(model.chat('hi')).rejects.toThrow(ChannelError);
    await expect(model[Symbol.asyncDispose]()).resolves.toBeUndefined();
  });
});

describe('raw logits', () => {
  it('are rows for every position of the prompt', async () => {
    const { model } = fake((h) => h.at(-1)! % 200);
    const ids = Array.from({ length: 150 }, (_, i) => i);
    const { logitsChunks, tokens } = await model.sendRawTokens(ids);
    expect([...tokens]).toEqual(ids);
    const rows = logitsChunks.reduce((n, t) => n + (t.shape[0] ?? 0), 0);
    expect(rows).toBe(150);
    for (const t of logitsChunks) expect(t.shape[1]).toBe(VOCAB);
    const all = (await Promise.all(logitsChunks.map((t) => t.toFloat32Array()))).flatMap((a) => [...a]);
    for (const row of [0, 63, 64, 149]) expect(all[row * VOCAB + (row % 200)]).toBe(10);
    const chat = await model.sendRawChatRequest(ask('hi'));
    expect([...chat.tokens]).toEqual([...(await model.tokenize(ask('hi')))]);
    await expect(model.sendRawChatRequest({ ...ask('hi'), sampling: { nChoices: 2 } })).rejects.toThrow(
      UnsupportedError,
    );
  });

  it('by argument names keep the shape of the input', async () => {
    const { model } = fake((h) => h.at(-1)!);
    const { logits } = await model.inner().forward({ input_ids: [5, 6, 7] });
    expect(logits?.shape).toEqual([3, VOCAB]);
    const batch = { data: Int32Array.from([1, 2, 3, 4]), shape: [2, 2] };
    const two = (
      await model.inner().forward({ input_ids: batch, attention_mask: { data: [1, 1, 1, 1], shape: [2, 2] } })
    )['logits'];
    expect(two?.shape).toEqual([2, 2, VOCAB]);
    const values = await two?.toFloat32Array();
    for (let row = 0; row < 4; row++) expect(values?.[row * VOCAB + row + 1]).toBe(10);
    await expect(model.inner().forward({ pixel_values: [1] })).rejects.toThrow(/pixel_values/);
    await expect(model.inner().forward({})).rejects.toThrow(/input_ids/);
    await expect(model.inner().forward({ input_ids: { data: [1], shape: [2] } })).rejects.toThrow(/shape/);
    await expect(model.inner().forward({ input_ids: [1, 2], attention_mask: [1, 0] })).rejects.toThrow(
      UnsupportedError,
    );
  });
});

describe('tokens and text', () => {
  it('go there and back', async () => {
    const { model } = fake(says('a'));
    expect([...(await model.tokenize('ab'))]).toEqual([BOS, 97, 98]);
    expect([...(await model.tokenize('ab', { addSpecialTokens: false }))]).toEqual([97, 98]);
    expect(await model.detokenize([BOS, 97, 98])).toBe('<s>ab');
    expect(await model.detokenize([BOS, 97, 98], { skipSpecialTokens: true })).toBe('ab');
    expect(await model.detokenize([])).toBe('');
    await expect(model.detokenize([9999])).rejects.toThrow(RequestValidationError);
    const prompt = await model.tokenize(ask('x'), { addGenerationPrompt: false });
    expect(await model.detokenize(prompt, { skipSpecialTokens: true })).toBe('user:x\n');
  });
});
