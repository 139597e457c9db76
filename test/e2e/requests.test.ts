/** What a request may ask for, on real models. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import * as api from '../../src/index.ts';
import { argmax } from '../models/harness.ts';
import { allLogits, greedyCases, loadEmbedded } from './embedded.ts';
import { letters, loadTiny, TINY_VOCAB } from './tiny.ts';

let tiny: api.Model;
let embedded: api.Model;
beforeAll(async () => {
  tiny = await loadTiny();
  embedded = await loadEmbedded();
});
afterAll(async () => {
  await tiny?.dispose();
  await embedded?.dispose();
});
/** Whatever a test did, nothing of it is left. */
afterEach(() => {
  for (const model of [tiny, embedded]) {
    expect(model.engineStats()).toMatchObject({ running: 0, waiting: 0, blocksUsed: 0 });
  }
});

const tokens = (response: { readonly choices: readonly { readonly tokenIds: Uint32Array }[] }) =>
  response.choices.map((c) => [...c.tokenIds]);
const chat = (content: string) => [{ role: 'user', content }];
const months = greedyCases.find((c) => c.text.includes('months'))!;

describe('several choices', () => {
  const sampling = { temperature: 1.2, maxLen: 24, nChoices: 4 };

  it('differ, share the prompt, and come in order', async () => {
    const before = embedded.engineStats();
    const request = { messages: chat('Tell me about a town by the sea.'), sampling, seed: 5 };
    const response = await embedded.sendChatRequest(request);
    expect(response.choices.map((c) => c.index)).toEqual([0, 1, 2, 3]);
    expect(new Set(tokens(response).map(String)).size).toBe(4);
    const after = embedded.engineStats();
    expect(after.promptTokensComputed - before.promptTokensComputed).toBeLessThanOrEqual(response.usage.promptTokens);
    expect(response.usage.completionTokens).toBe(tokens(response).flat().length);
    const stream = embedded.streamChatRequest(request);
    const texts = ['', '', '', ''];
    const seen: number[] = [];
    const ends: (string | undefined)[] = [];
    for await (const { choices } of stream) {
      const c = choices[0]!;
      texts[c.index] += c.delta.content ?? '';
      seen.push(c.index);
      if (c.finishReason !== undefined) ends[c.index] = c.finishReason;
    }
    expect(texts).toEqual(response.choices.map((c) => c.message.content));
    expect(ends).toEqual(response.choices.map((c) => c.finishReason));
    // They grow side by side.
    expect(new Set(seen.slice(0, 8)).size).toBe(4);
    expect(tokens(await stream.final())).toEqual(tokens(response));
  });

  it('the first one is what a single choice would be', async () => {
    const request = { messages: chat('Name a river.'), sampling, seed: 11 };
    const several = await embedded.sendChatRequest(request);
    const one = await embedded.sendChatRequest({ ...request, sampling: { ...sampling, nChoices: 1 } });
    expect(tokens(one)[0]).toEqual(tokens(several)[0]);
  });

  it('the best of several is returned', async () => {
    const params = { sampling: { ...sampling, nChoices: 1 }, bestOf: 5, seed: 3 };
    const best = await tiny.complete(letters(9, 3), params);
    const all = await tiny.complete(letters(9, 3), {
      sampling: { ...sampling, nChoices: 5 },
      seed: 3,
      logprobs: true,
    });
    const means = all.choices.map((c) => {
      const entries = c.logprobs!.content;
      return entries.reduce((n, e) => n + e.logprob, 0) / entries.length;
    });
    expect(tokens(best)).toEqual([tokens(all)[means.indexOf(Math.max(...means))]]);
  });
});

describe('seeds', () => {
  const sampling = { temperature: 1, topP: 0.95, maxLen: 20 };
  const request = { messages: chat('Write a line of a poem.'), sampling, seed: 1234 };

  it('the same seed gives the same text, whatever the company', async () => {
    const alone = await embedded.sendChatRequest(request);
    const others = [1, 2, 3, 4, 5].map((seed) =>
      embedded.sendChatRequest({ messages: chat(`Say ${'something '.repeat(seed * 5)}`), sampling, seed }),
    );
    const crowded = await embedded.sendChatRequest(request);
    const late = embedded.sendChatRequest(request);
    await Promise.all(others);
    expect(tokens(crowded)).toEqual(tokens(alone));
    expect(tokens(await late)).toEqual(tokens(alone));
    const different = await embedded.sendChatRequest({ ...request, seed: 1235 });
    expect(tokens(different)).not.toEqual(tokens(alone));
  });

  it('and in another engine, with other pieces', async () => {
    const alone = await embedded.sendChatRequest(request);
    const other = await loadEmbedded({ maxBatchTokens: 5, prefixCacheN: 0, threads: 2 });
    const [, answer] = await Promise.all([other.chat('Hello'), other.sendChatRequest(request)]);
    expect(tokens(answer)).toEqual(tokens(alone));
    await other.dispose();
  });

  it('requests without a seed differ', async () => {
    const { seed: _, ...unseeded } = request;
    const [a, b] = [await embedded.sendChatRequest(unseeded), await embedded.sendChatRequest(unseeded)];
    expect(tokens(a)).not.toEqual(tokens(b));
  });
});

describe('log-probabilities', () => {
  it('are those of the logits at each position', async () => {
    const { prompt } = months;
    const response = await embedded.complete(prompt, {
      sampling: { temperature: 0.8, topK: 40, maxLen: 12, topNLogprobs: 5 },
      logprobs: true,
      seed: 7,
    });
    const { tokenIds, logprobs } = response.choices[0]!;
    expect(logprobs!.content.map((e) => e.tokenId)).toEqual([...tokenIds]);
    const vocab = embedded.config().vocabSize;
    const logits = await allLogits(embedded, [...prompt, ...tokenIds]);
    for (const [i, entry] of logprobs!.content.entries()) {
      const from = (prompt.length - 1 + i) * vocab;
      const row = logits.subarray(from, from + vocab).map((v) => v / 0.8);
      const most = row[argmax(row)]!;
      const sum = Math.log(row.reduce((n, v) => n + Math.exp(v - most), 0)) + most;
      expect(Math.abs(entry.logprob - (row[entry.tokenId]! - sum))).toBeLessThan(2e-4);
      const order = [...row.keys()].sort((a, b) => row[b]! - row[a]!).slice(0, 5);
      expect(entry.topLogprobs.map((t) => t.token)).toEqual(order);
      for (const t of entry.topLogprobs) expect(Math.abs(t.logprob - (row[t.token]! - sum))).toBeLessThan(2e-4);
    }
  });

  it('come with every chunk of a stream, and spell the answer', async () => {
    const stream = embedded.streamChatRequest({
      messages: chat(months.text),
      sampling: { topK: 1, maxLen: 10, topNLogprobs: 1 },
      logprobs: true,
    });
    const bytes: number[] = [];
    let text = '';
    for await (const { choices } of stream) {
      const { logprobs, delta } = choices[0]!;
      text += delta.content ?? '';
      if (logprobs === undefined) continue;
      bytes.push(...(logprobs.bytes ?? []));
      expect(logprobs.topLogprobs[0]?.token).toBe(logprobs.tokenId);
    }
    expect(new TextDecoder().decode(Uint8Array.from(bytes))).toBe(text);
    expect(text.length).toBeGreaterThan(20);
  });

  it('are absent when nobody asked', async () => {
    const { choices } = await tiny.complete([65, 66], { sampling: { topK: 1, maxLen: 2, topNLogprobs: 3 } });
    expect(choices[0]!.logprobs).toBeUndefined();
  });
});

describe('stop strings', () => {
  const text = months.out;
  const messages = chat(months.text);
  const ask = (stop: string, maxLen = 48) => ({
    messages,
    sampling: { topK: 1, maxLen, stopToks: { seqs: ['@@never@@', stop] } },
  });

  it('that begin in one token and end in another are cut, and never shown in part', async () => {
    // Every place in the first words, every length from 2 to 12: across one, two and three tokens.
    let tried = 0;
    for (let at = 3; at < 40; at += 5) {
      const stop = text.slice(at, at + 2 + (at % 11));
      const cut = text.slice(0, text.indexOf(stop));
      const stream = embedded.streamChatRequest(ask(stop));
      let streamed = '';
      for await (const { choices } of stream) {
        streamed += choices[0]!.delta.content ?? '';
        expect(cut.startsWith(streamed)).toBe(true);
      }
      const response = await stream.final();
      expect(response.choices[0]).toMatchObject({ finishReason: 'stop', message: { content: cut } });
      expect(streamed).toBe(cut);
      tried++;
    }
    expect(tried).toBe(8);
  });

  it('that are not complete when the answer ends are shown', async () => {
    const whole = await embedded.sendChatRequest({ messages, sampling: { topK: 1, maxLen: 6 } });
    const content = whole.choices[0]!.message.content!;
    const stop = `${content.slice(-5)}#`;
    const response = await embedded.sendChatRequest(ask(stop, 6));
    expect(response.choices[0]).toMatchObject({ finishReason: 'length', message: { content } });
  });

  it('of characters that take several tokens', async () => {
    // "é" and "…" come in pieces of bytes: the processor makes the model say them.
    const say = [...(await embedded.tokenize('Café du port… fin', { addSpecialTokens: false }))];
    const force: api.LogitsProcessor = (logits, { generated }) => {
      logits.fill(Number.NEGATIVE_INFINITY);
      logits[say[generated.length] ?? 2] = 0;
    };
    const sampling = { topK: 1, maxLen: say.length + 1 };
    const plain = await embedded.sendChatRequest({ messages, sampling, logitsProcessors: [force] });
    expect(plain.choices[0]).toMatchObject({ finishReason: 'stop', message: { content: 'Café du port… fin' } });
    for (const [stop, cut] of [
      ['é', 'Caf'],
      ['é du', 'Caf'],
      ['t…', 'Café du por'],
    ] as const) {
      const stream = embedded.streamChatRequest({ ...ask(stop, say.length), logitsProcessors: [force] });
      let streamed = '';
      for await (const { choices } of stream) streamed += choices[0]!.delta.content ?? '';
      expect(streamed).toBe(cut);
    }
  });

  it('end tokens and stop ids end the answer, and are in no text', async () => {
    // No other token begins with this word.
    const [id] = (await embedded.tokenize(' November')) as unknown as [number];
    const response = await embedded.complete(months.prompt, {
      sampling: { topK: 1, maxLen: 48, stopToks: { ids: [id] } },
    });
    const first = months.ids.indexOf(id);
    expect(tokens(response)[0]).toEqual(months.ids.slice(0, first + 1));
    expect(response.choices[0]).toMatchObject({
      finishReason: 'stop',
      text: await embedded.detokenize(months.ids.slice(0, first)),
    });
  });
});

describe('logits processors', () => {
  it('see prompt and answer, and decide', async () => {
    const prompt = letters(7, 3);
    const seen: number[][] = [];
    const response = await tiny.complete(prompt, {
      sampling: { topK: 1, maxLen: 5, logitsBias: new Map([[40, 1000]]) },
      logitsProcessors: [
        (logits, { prompt: p, generated }) => {
          expect(logits.length).toBe(TINY_VOCAB);
          // After the bias.
          expect(argmax(logits)).toBe(40);
          seen.push([...Array.from(p), -1, ...Array.from(generated)]);
          logits[41] = 5000;
        },
        (logits, { generated }) => {
          if (generated.length === 3) logits[42] = 9000;
        },
      ],
    });
    expect(tokens(response)[0]).toEqual([41, 41, 41, 42, 41]);
    expect(seen.at(-1)).toEqual([...prompt, -1, 41, 41, 41, 42]);
  });

  it('that throw end their own request', async () => {
    const others = tiny.complete(letters(20, 5), { sampling: { topK: 1, maxLen: 30, ignoreEos: true } });
    const bad = tiny.complete(letters(7, 3), {
      sampling: { topK: 1, maxLen: 5 },
      logitsProcessors: [
        () => {
          throw new RangeError('mine');
        },
      ],
    });
    await expect(bad).rejects.toThrow(api.InferenceError);
    await expect(bad).rejects.toMatchObject({ cause: expect.any(RangeError) });
    expect(tokens(await others)[0]!.length).toBe(30);
  });

  it('that make everything impossible are told so', async () => {
    const bad = tiny.complete([65, 66, 67], {
      sampling: { topK: 1, maxLen: 5 },
      logitsProcessors: [(logits) => logits.fill(Number.NEGATIVE_INFINITY)],
    });
    await expect(bad).rejects.toThrow(/after 3 tokens: expected finite numbers, got only -Infinity/);
  });
});
