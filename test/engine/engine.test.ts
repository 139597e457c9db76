import { getEventListeners } from 'node:events';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Engine } from '../../src/core/engine/engine.ts';
import type {
  EngineEvent,
  EngineOptions,
  GenerationRequest,
  GenerationResult,
  GenerationStream,
  SamplingParams,
  TokenDecoder,
} from '../../src/core/engine/types.ts';
import { AbortError, ChannelError, InferenceError, ModelError, RequestValidationError } from '../../src/core/errors.ts';
import { FakeModel, type FakeOptions, greedyAfter, logitsAfter } from './fakeModel.ts';

const VOCAB = 32;
const GREEDY: SamplingParams = { topK: 1 };

function create(model: FakeOptions = {}, options: EngineOptions = {}) {
  const runner = new FakeModel({ vocabSize: VOCAB, ...model });
  return { runner, engine: new Engine(runner, options) };
}

function letters(n: number, seed: number): number[] {
  return Array.from({ length: n }, (_, i) => (Math.imul(i + 1, seed * 2654435761) >>> 27) % VOCAB);
}

function ask(prompt: number[], maxLen: number, more: SamplingParams = GREEDY): GenerationRequest {
  return { prompt, sampling: { ...more, maxLen } };
}

/** Token 65 reads as "A"; tokens of four and more units come in pieces of bytes elsewhere. */
function decoderOf(table: (id: number) => string): () => TokenDecoder {
  return () => ({ push: (id) => table(id) || undefined, flush: () => undefined });
}

async function events(stream: GenerationStream): Promise<EngineEvent[]> {
  const all: EngineEvent[] = [];
  for await (const event of stream) all.push(event);
  return all;
}

function expectIdle(engine: Engine): void {
  expect(engine.stats()).toMatchObject({ running: 0, waiting: 0, blocksUsed: 0 });
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));
const tokensOf = (result: GenerationResult) => result.choices.map((c) => [...c.tokens]);

describe('greedy answers are the same', () => {
  const prompts = [letters(1, 3), letters(21, 5), letters(45, 7), letters(45, 7), letters(30, 9)];
  const expected = prompts.map((p) => greedyAfter(p, 20, VOCAB));
  const ways: [string, FakeOptions, EngineOptions][] = [
    ['plain', {}, { prefixCache: false }],
    ['with the prefix cache', {}, {}],
    ['in pieces of 7 tokens', {}, { maxBatchTokens: 7 }],
    ['one row at a time', {}, { maxBatchTokens: 1 }],
    ['with recurrent states', { stateSlots: 7 }, {}],
    ['with recurrent states, in pieces', { stateSlots: 3 }, { maxBatchTokens: 7 }],
    ['with recurrent states, without a cache', { stateSlots: 3 }, { noKvCache: true }],
    ['without a cache', {}, { noKvCache: true }],
    ['without a cache, in pieces', {}, { noKvCache: true, maxBatchTokens: 7 }],
    ['in a pool that holds one sequence', { blocks: 17 }, {}],
    ['one after the other', {}, { maxNumSeqs: 1 }],
    ['from the largest logits', { remote: true }, {}],
    ['from the largest logits, in pieces', { remote: true }, { maxBatchTokens: 7 }],
    ['from the largest logits, one after the other', { remote: true }, { maxNumSeqs: 1 }],
    ['from the largest logits, in a pool that holds one sequence', { remote: true, blocks: 17 }, {}],
  ];
  it.each(ways)('%s', async (_, model, options) => {
    const { engine, runner } = create(model, options);
    const results = await Promise.all(prompts.map((p) => engine.generate(ask(p, 20))));
    expect(results.map((r) => tokensOf(r)[0])).toEqual(expected);
    expect(results[0]!.choices[0]!.finishReason).toBe('length');
    if (model.remote && !model.blocks) expect(runner.followed).toBeGreaterThan(15);
    if (options.noKvCache) expect(runner.rows).toBeGreaterThan(20 * 60);
    expectIdle(engine);
  });

  it('when the beginning is found in the prefix cache, which then is not run', async () => {
    const { engine, runner } = create();
    const prompt = letters(41, 11);
    const first = await engine.generate(ask(prompt, 3));
    expect(engine.stats().promptTokensComputed).toBe(41);
    const before = runner.rows;
    expect(tokensOf(await engine.generate(ask(prompt, 3)))).toEqual(tokensOf(first));
    // 40 of 41 tokens lie in full blocks; then two more tokens are run.
    expect(runner.rows - before).toBe(1 + 2);
    expect(engine.stats()).toMatchObject({ promptTokensComputed: 42, promptTokens: 82, prefixHits: 10 });
  });

  it.each([true, false])(
    'when sequences are preempted and resumed in a pool of 10 blocks, prefix cache %s',
    async (prefixCache) => {
      const { engine } = create({ blocks: 10 }, { prefixCache });
      const short = [3, 5, 7].map((seed) => letters(5, seed));
      const results = await Promise.all(short.map((p) => engine.generate(ask(p, 33))));
      expect(results.map((r) => tokensOf(r)[0])).toEqual(short.map((p) => greedyAfter(p, 33, VOCAB)));
      expect(engine.stats().preemptions).toBeGreaterThan(0);
      expectIdle(engine);
    },
  );

  it('a prompt of full blocks only is recomputed from its last block', async () => {
    const { engine } = create();
    await engine.generate(ask(letters(40, 11), 1));
    await engine.generate(ask(letters(40, 11), 1));
    expect(engine.stats().promptTokensComputed).toBe(44);
  });
});

describe('many requests', () => {
  it('64 of random length, with random cancellations, readers and memory', async () => {
    const request = fc.record({
      length: fc.integer({ min: 1, max: 50 }),
      seed: fc.nat(5),
      count: fc.integer({ min: 1, max: 30 }),
      choices: fc.oneof(
        { weight: 4, arbitrary: fc.constant(1) },
        { weight: 1, arbitrary: fc.integer({ min: 2, max: 4 }) },
      ),
      leaveAfter: fc.oneof({ weight: 3, arbitrary: fc.constant(1e9) }, { weight: 1, arbitrary: fc.nat(20) }),
      way: fc.constantFrom('return', 'abort', 'cancel'),
      slow: fc.boolean(),
      stop: fc.option(fc.nat(VOCAB - 1), { nil: undefined }),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(request, { minLength: 64, maxLength: 64 }),
        fc.record({
          blocks: fc.constantFrom(24, 60, 400),
          maxBatchTokens: fc.constantFrom(7, 64, 512),
          remote: fc.boolean(),
        }),
        async (requests, { blocks, maxBatchTokens, remote }) => {
          const { engine } = create({ blocks, remote, realTime: true }, { maxBatchTokens, eventBuffer: 8 });
          await Promise.all(
            requests.map(async (r) => {
              const prompt = letters(r.length, r.seed);
              const abort = new AbortController();
              const stream = engine.submit({
                ...ask(prompt, r.count, {
                  ...GREEDY,
                  nChoices: r.choices,
                  ...(r.stop === undefined ? {} : { stopToks: { ids: [r.stop] } }),
                }),
                signal: abort.signal,
              });
              const answers: number[][] = Array.from({ length: r.choices }, () => []);
              let seen = 0;
              let reason: string | undefined;
              for await (const event of stream) {
                if (r.slow) await turn();
                if (event.kind === 'token') answers[event.index]!.push(event.token);
                if (event.kind === 'finish') reason = event.finishReason;
                if (seen++ === r.leaveAfter) {
                  if (r.way === 'return') break;
                  if (r.way === 'abort') abort.abort();
                  else stream.cancel();
                }
              }
              const whole = greedyAfter(prompt, r.count, VOCAB);
              const stopAt = r.stop === undefined ? -1 : whole.indexOf(r.stop);
              const expected = stopAt < 0 ? whole : whole.slice(0, stopAt + 1);
              for (const answer of answers) expect(answer).toEqual(expected.slice(0, answer.length));
              if (r.leaveAfter === 1e9) {
                expect(answers).toEqual(answers.map(() => expected));
                expect(reason).toBe(stopAt < 0 ? 'length' : 'stop');
              }
            }),
          );
          await turn();
          await turn();
          expectIdle(engine);
          await engine.dispose();
        },
      ),
      { numRuns: 12 },
    );
  });

  it('those that come in together start together', async () => {
    const sizes: number[] = [];
    const { engine } = create({ onForward: (batch) => sizes.push(batch.sequences) });
    await Promise.all([3, 5, 7, 9].map((seed) => engine.generate(ask(letters(9, seed), 2))));
    expect(sizes).toEqual([4, 4]);
  });
});

describe('seeds', () => {
  const sampling: SamplingParams = { temperature: 1.5, maxLen: 25 };
  const seeded: GenerationRequest = { prompt: letters(20, 3), seed: 77, sampling };

  it('the same request and seed give the same tokens, whatever runs beside it', async () => {
    const alone = tokensOf(await create().engine.generate(seeded));
    const crowds: [FakeOptions, EngineOptions][] = [
      [{}, {}],
      [{ blocks: 20 }, {}],
      [{}, { maxBatchTokens: 7, seed: 5 }],
    ];
    for (const [model, options] of crowds) {
      const { engine } = create(model, options);
      const others = [5, 7, 9].map((seed) => engine.generate({ prompt: letters(30, seed), sampling }));
      expect(tokensOf(await engine.generate(seeded))).toEqual(alone);
      await Promise.all(others);
    }
    expect(tokensOf(await create().engine.generate({ ...seeded, seed: 78 }))).not.toEqual(alone);
  });

  it('without a seed, requests differ, and an engine repeats itself', async () => {
    const run = async (seed?: number) => {
      const { engine } = create({}, { seed });
      return [
        await engine.generate({ ...seeded, seed: undefined }),
        await engine.generate({ ...seeded, seed: undefined }),
      ].map(tokensOf);
    };
    const [a, b] = await run();
    expect(a).not.toEqual(b);
    expect(await run()).toEqual([a, b]);
    expect(await run(1)).not.toEqual([a, b]);
  });

  it('the choices of a request differ and share its prompt', async () => {
    const { engine, runner } = create();
    const result = await engine.generate({ ...seeded, sampling: { ...sampling, nChoices: 3 } });
    const [first, second, third] = tokensOf(result);
    expect(first).toEqual(tokensOf(await create().engine.generate(seeded))[0]);
    expect(second).not.toEqual(first);
    expect(third).not.toEqual(second);
    expect(result.choices.map((c) => c.index)).toEqual([0, 1, 2]);
    expect(result.usage).toMatchObject({ promptTokens: 20, completionTokens: 75, totalTokens: 95 });
    expect(runner.rows).toBe(20 + 3 * 24);
  });
});

describe('the end of an answer', () => {
  const prompt = letters(12, 3);
  const answer = greedyAfter(prompt, 12, VOCAB);
  // Ends at the first token that did not occur before.
  const at = answer.findIndex((token, i) => i > 3 && answer.indexOf(token) === i);
  const last = answer[at]!;
  const text = (id: number) => String.fromCharCode(65 + id);

  it('an end token: reported, not in the text', async () => {
    const { engine } = create({}, { eosIds: [last] });
    const { choices, usage } = await engine.generate({ ...ask(prompt, 100), createDecoder: decoderOf(text) });
    expect([...choices[0]!.tokens]).toEqual(answer.slice(0, at + 1));
    expect(choices[0]!.text).toBe(answer.slice(0, at).map(text).join(''));
    expect(choices[0]!.finishReason).toBe('stop');
    expect(usage.completionTokens).toBe(at + 1);
  });

  it('ignoreEos goes on, explicit stop ids do not', async () => {
    const { engine } = create({}, { eosIds: [last] });
    const ignoring = await engine.generate(ask(prompt, 12, { ...GREEDY, ignoreEos: true }));
    expect(tokensOf(ignoring)[0]).toEqual(answer);
    const stopToks = { ids: [last] };
    for (const request of [
      ask(prompt, 12, { ...GREEDY, ignoreEos: true, stopToks }),
      { ...ask(prompt, 12, { ...GREEDY, ignoreEos: true }), stopIds: [last] },
    ]) {
      const { choices } = await engine.generate(request);
      expect(choices[0]!.finishReason).toBe('stop');
      expect(choices[0]!.tokens.length).toBe(at + 1);
    }
  });

  it('a stop string wins over the length it completes at, and is never shown', async () => {
    const { engine } = create();
    const stop = answer
      .slice(at - 2, at + 1)
      .map(text)
      .join('');
    const request: GenerationRequest = {
      ...ask(prompt, at + 1, { ...GREEDY, stopToks: { seqs: ['never', stop] } }),
      createDecoder: decoderOf(text),
    };
    const all = await events(engine.submit(request));
    const streamed = all.map((e) => ('text' in e ? e.text : '')).join('');
    const { choices } = await engine.generate(request);
    expect(choices[0]!.text).toBe(
      answer
        .slice(0, at - 2)
        .map(text)
        .join(''),
    );
    expect(streamed).toBe(choices[0]!.text);
    expect(choices[0]!.finishReason).toBe('stop');
    expect(all.filter((e) => e.kind === 'token').length).toBe(at + 1);
  });

  it('text held back for a stop string is released at the end', async () => {
    const { engine } = create();
    const stop = `${answer.slice(10, 12).map(text).join('')}#`;
    const all = await events(
      engine.submit({ ...ask(prompt, 12, { ...GREEDY, stopToks: { seqs: [stop] } }), createDecoder: decoderOf(text) }),
    );
    const finish = all.at(-2)!;
    expect(finish).toMatchObject({ kind: 'finish', finishReason: 'length', text: stop.slice(0, 2) });
    expect(all.at(-1)!.kind).toBe('done');
  });

  it('the context: prompt and answer fill it', async () => {
    const { engine } = create({ contextLength: 16 });
    const { choices } = await engine.generate({ prompt, sampling: GREEDY });
    expect(choices[0]!.finishReason).toBe('length');
    expect(choices[0]!.tokens.length).toBe(4);
    const full = await engine.generate({ prompt: letters(16, 3), sampling: GREEDY });
    expect(full.choices[0]!.tokens.length).toBe(1);
  });

  it('the cache counts as context when it is smaller than the model allows', async () => {
    const { engine } = create({ blocks: 4, blockSize: 4 });
    expect(engine.contextLength).toBe(16);
    const { choices } = await engine.generate({ prompt, sampling: GREEDY });
    expect(choices[0]!.tokens.length).toBe(4);
  });

  it('leading white space is dropped unless it is wanted', async () => {
    const { engine } = create();
    const createDecoder = decoderOf((id) => (id === answer[0] ? ' \n' : ' x'));
    const trimmed = await engine.generate({ ...ask(prompt, 3), createDecoder });
    const whole = await engine.generate({ ...ask(prompt, 3), createDecoder, trimStart: false });
    expect(whole.choices[0]!.text.startsWith(' \n')).toBe(true);
    expect(trimmed.choices[0]!.text).toBe(whole.choices[0]!.text.trimStart());
  });
});

describe('sampling', () => {
  const prompt = letters(6, 3);

  it('without a temperature it is 1, not greedy', async () => {
    const { engine } = create();
    const { choices } = await engine.generate({ prompt, sampling: { maxLen: 30 } });
    expect([...choices[0]!.tokens]).not.toEqual(greedyAfter(prompt, 30, VOCAB));
  });

  it('reports log-probabilities on demand, one for each token', async () => {
    const { engine } = create();
    const { choices } = await engine.generate({
      ...ask(prompt, 5, { temperature: 0.5, topNLogprobs: 2 }),
      logprobs: true,
    });
    const { tokens, logprobs } = choices[0]!;
    expect(logprobs!.map((l) => l.token)).toEqual([...tokens]);
    const context = [...prompt];
    for (const { token, logprob, top } of logprobs!) {
      const z = Array.from(logitsAfter(context, VOCAB), (x) => x / 0.5);
      const logSum = Math.log(z.reduce((sum, x) => sum + Math.exp(x), 0));
      expect(logprob).toBeCloseTo(z[token]! - logSum, 5);
      expect(top.length).toBe(2);
      expect(top[0]!.logprob).toBeCloseTo(Math.max(...z) - logSum, 5);
      context.push(token);
    }
    const silent = await engine.generate(ask(prompt, 2));
    expect(silent.choices[0]!.logprobs).toBeUndefined();
  });

  it('processors see the whole context and may force tokens', async () => {
    const { engine } = create();
    const contexts: number[][] = [];
    const { choices } = await engine.generate({
      ...ask(prompt, 3),
      logitsProcessors: [
        (logits, context) => {
          contexts.push([...Array.from(context.prompt), ...Array.from(context.generated)]);
          logits[7] = 100;
        },
      ],
    });
    expect([...choices[0]!.tokens]).toEqual([7, 7, 7]);
    expect(contexts).toEqual([prompt, [...prompt, 7], [...prompt, 7, 7]]);
  });
});

describe('cancellation', () => {
  it('takes a waiting request out at once, without a step', async () => {
    const { engine, runner } = create({ realTime: true }, { maxNumSeqs: 1 });
    const running = engine.submit(ask(letters(5, 3), 50));
    await running.next();
    const abort = new AbortController();
    const waiting = engine.submit({ ...ask(letters(5, 5), 50), signal: abort.signal });
    const steps = runner.steps;
    abort.abort();
    expect(engine.stats().waiting).toBe(0);
    expect((await events(waiting)).map((e) => e.kind)).toEqual(['finish', 'done']);
    expect(runner.steps).toBeLessThanOrEqual(steps + 1);
    await running.return();
  });

  it('ends a running request at the next step, with what it has', async () => {
    const { engine, runner } = create({ realTime: true });
    const stream = engine.submit(ask(letters(5, 3), 500));
    await stream.next();
    await stream.next();
    const steps = runner.steps;
    stream.cancel();
    const rest = await events(stream);
    expect(rest.filter((e) => e.kind === 'token').length).toBeLessThanOrEqual(2);
    expect(rest.at(-2)).toMatchObject({ kind: 'finish', finishReason: 'canceled' });
    expect(runner.steps).toBeLessThanOrEqual(steps + 2);
    expectIdle(engine);
    expect(engine.stats().completed.canceled).toBe(1);
  });

  it('leaving the loop gives everything back', async () => {
    const { engine } = create({ realTime: true });
    for await (const _ of engine.submit(ask(letters(30, 3), 500, { ...GREEDY, nChoices: 3 }))) break;
    await turn();
    await turn();
    expectIdle(engine);
  });

  it('a signal that is aborted before or during a call rejects it with AbortError', async () => {
    const { engine } = create({ realTime: true });
    const reason = new Error('enough');
    await expect(engine.generate({ ...ask([1], 5), signal: AbortSignal.abort(reason) })).rejects.toThrow(AbortError);
    const abort = new AbortController();
    const call = engine.generate({ ...ask([1], 500), signal: abort.signal });
    await turn();
    abort.abort(reason);
    await expect(call).rejects.toMatchObject({ name: 'AbortError', cause: reason });
    expectIdle(engine);
    const kept = new AbortController();
    await engine.generate({ ...ask([1], 5), signal: kept.signal });
    await engine.runExclusive(async () => 1, { signal: kept.signal });
    expect(getEventListeners(kept.signal, 'abort')).toEqual([]);
  });

  it('before the prompt is computed', async () => {
    const { engine } = create({ realTime: true }, { maxBatchTokens: 4 });
    const stream = engine.submit(ask(letters(100, 3), 5, { ...GREEDY, nChoices: 4 }));
    await turn();
    await turn();
    expect(engine.stats().running).toBe(4);
    stream.cancel();
    expect((await events(stream)).filter((e) => e.kind === 'finish').length).toBe(4);
    expectIdle(engine);
  });
});

describe('slow readers', () => {
  it('pause themselves alone, keep at most the buffer, and miss nothing', async () => {
    const { engine } = create({ realTime: true, blocks: 1200, contextLength: 4000 }, { maxNumSeqs: 2 });
    const prompt = letters(5, 3);
    const slow = [1, 2].map(() => engine.submit(ask(prompt, 1500)));
    // More slow readers than slots: others still get their turn.
    for (const seed of [5, 7, 9]) await engine.generate(ask(letters(9, seed), 1400));
    expect(engine.stats()).toMatchObject({ running: 0, waiting: 2, blocksUsed: 0 });
    const expected = greedyAfter(prompt, 1500, VOCAB);
    const all = await Promise.all(slow.map(events));
    for (const list of all) expect(list.flatMap((e) => (e.kind === 'token' ? [e.token] : []))).toEqual(expected);
    expectIdle(engine);
  });

  it('hold no more events than the buffer takes', async () => {
    for (const nChoices of [1, 3, 40]) {
      const { engine } = create({ blocks: 4000, realTime: true }, { eventBuffer: 64 });
      const stream = engine.submit(ask([1, 2], 200, { ...GREEDY, nChoices }));
      for (let i = 0; i < 300; i++) await turn();
      expect(engine.stats().running).toBe(0);
      const held = (stream as unknown as { size: number }).size;
      expect(held).toBeLessThanOrEqual(Math.max(64, 4 * nChoices + 2));
      expect((await events(stream)).length).toBe(nChoices * 201 + 1);
      expectIdle(engine);
    }
  });

  it('can be cancelled while paused', async () => {
    const { engine } = create({}, { eventBuffer: 8 });
    const stream = engine.submit(ask([1], 100));
    await turn();
    await turn();
    expect(engine.stats()).toMatchObject({ running: 0, waiting: 1 });
    await stream.return();
    await turn();
    expectIdle(engine);
  });
});

describe('failures', () => {
  it('of a step end every running request with what it had; waiting ones and later ones go on', async () => {
    const { engine } = create(
      {
        onForward: (_, step) => {
          if (step === 3) throw new Error('device lost');
        },
      },
      { maxNumSeqs: 2 },
    );
    const prompts = [letters(9, 3), letters(9, 5), letters(9, 7)];
    const createDecoder = decoderOf((id) => `<${id}>`);
    const calls = prompts.map((p) => engine.generate({ ...ask(p, 6), createDecoder }));
    const outcomes = await Promise.allSettled(calls);
    for (const [i, outcome] of outcomes.slice(0, 2).entries()) {
      const error = (outcome as PromiseRejectedResult).reason as ModelError;
      expect(error).toBeInstanceOf(ModelError);
      expect(error.message).toContain('device lost');
      const tokens = greedyAfter(prompts[i]!, 3, VOCAB);
      const partial = error.partialResponse as GenerationResult;
      expect(partial.choices[0]).toMatchObject({
        finishReason: 'error',
        tokens: Uint32Array.from(tokens),
        text: tokens.map((t) => `<${t}>`).join(''),
      });
      expect(partial.usage.completionTokens).toBe(3);
    }
    const third = (outcomes[2] as PromiseFulfilledResult<GenerationResult>).value;
    expect(tokensOf(third)[0]).toEqual(greedyAfter(prompts[2]!, 6, VOCAB));
    expectIdle(engine);
    // Nothing of the failed step is reused.
    const hits = engine.stats().prefixHits;
    expect(tokensOf(await engine.generate(ask(prompts[0]!, 6)))[0]).toEqual(greedyAfter(prompts[0]!, 6, VOCAB));
    expect(engine.stats().prefixHits).toBe(hits);
    expect(engine.stats().completed).toMatchObject({ error: 2, length: 2 });
  });

  it('a stream gives its events first, then the error, then ends', async () => {
    const { engine } = create({
      onForward: (_, step) => {
        if (step === 2) throw new Error('no');
      },
    });
    const stream = engine.submit(ask([1, 2], 9));
    await turn();
    await turn();
    expect((await stream.next()).value).toMatchObject({ kind: 'token' });
    expect((await stream.next()).value).toMatchObject({ kind: 'token' });
    await expect(stream.next()).rejects.toThrow(ModelError);
    expect(await stream.next()).toEqual({ done: true, value: undefined });
  });

  it('logits that are not numbers end their own request only', async () => {
    let bad = -1;
    const { engine } = create({
      onLogits: (logits, batch) => {
        for (let i = 0; i < batch.logitCount; i++) {
          const s = batch.seqStart.findIndex(
            (start, s) => start <= batch.logitRows[i]! && batch.logitRows[i]! < batch.seqStart[s + 1]!,
          );
          if (batch.kvLen[s] === bad) logits[i * VOCAB + 4] = Number.NaN;
        }
      },
    });
    bad = 14;
    const outcomes = await Promise.allSettled([
      engine.generate(ask(letters(11, 3), 6)),
      engine.generate(ask(letters(40, 5), 6)),
    ]);
    const error = (outcomes[0] as PromiseRejectedResult).reason as Error;
    expect(error).toBeInstanceOf(InferenceError);
    expect(error.message).toContain('logits after 14 tokens');
    expect(outcomes[1]!.status).toBe('fulfilled');
    expectIdle(engine);
  });

  it('a processor that throws ends its own request only, with all choices', async () => {
    const { engine } = create();
    const outcomes = await Promise.allSettled([
      engine.generate({
        ...ask(letters(11, 3), 6, { ...GREEDY, nChoices: 3 }),
        logitsProcessors: [
          (_, { generated }) => {
            if (generated.length === 2) throw new RangeError('mine');
          },
        ],
      }),
      engine.generate(ask(letters(12, 5), 6)),
    ]);
    const error = (outcomes[0] as PromiseRejectedResult).reason as Error;
    expect(error).toBeInstanceOf(InferenceError);
    expect(error.cause).toBeInstanceOf(RangeError);
    expect(outcomes[1]!.status).toBe('fulfilled');
    expectIdle(engine);
  });
});

describe('exclusive tasks', () => {
  it('run after everything before them and before everything after them', async () => {
    const { engine, runner } = create({ realTime: true });
    const order: string[] = [];
    const note = (name: string) => () => void order.push(name);
    const calls = [
      engine.generate(ask(letters(9, 3), 12)).then(note('long before')),
      engine.generate(ask(letters(9, 5), 2)).then(note('short before')),
      engine.runExclusive(async () => {
        expect(runner.busy).toBe(false);
        await turn();
        order.push('task');
        return 5;
      }),
      engine.generate(ask(letters(9, 7), 1)).then(note('after')),
    ];
    expect((await Promise.all(calls))[2]).toBe(5);
    expect(order).toEqual(['short before', 'long before', 'task', 'after']);
  });

  it('drop the prefix cache, pass errors on, and can be aborted while they wait', async () => {
    const { engine } = create();
    await engine.generate(ask(letters(20, 3), 1));
    await expect(engine.runExclusive(() => Promise.reject(new RangeError('x')))).rejects.toThrow(RangeError);
    await engine.generate(ask(letters(20, 3), 1));
    expect(engine.stats().prefixHits).toBe(0);
    const abort = new AbortController();
    const busy = engine.generate(ask(letters(20, 3), 50));
    const waiting = engine.runExclusive(async () => 1, { signal: abort.signal });
    abort.abort();
    await expect(waiting).rejects.toThrow(AbortError);
    await busy;
    expectIdle(engine);
  });

  it('leave the prefix cache alone where they keep the model', async () => {
    const { engine } = create();
    await engine.generate(ask(letters(20, 3), 1));
    await engine.runExclusive(async () => undefined, { keepsModel: true });
    await engine.generate(ask(letters(20, 3), 1));
    expect(engine.stats().prefixHits).toBeGreaterThan(0);
  });

  it('make later requests share nothing with those under which the model changed', async () => {
    const { engine } = create({ blockSize: 16 });
    const prompt = letters(5, 3);
    const stream = engine.submit(ask(prompt, 60));
    await stream.next();
    // Not even its first block is full yet.
    await engine.betweenSteps(async () => engine.forgetPrefixes());
    const answer = greedyAfter(prompt, 60, VOCAB);
    await events(stream);
    await engine.generate(ask([...prompt, ...answer.slice(0, 50)], 1));
    expect(engine.stats().prefixHits).toBe(0);
    await engine.generate(ask([...prompt, ...answer.slice(0, 50)], 1));
    expect(engine.stats().prefixHits).toBe(3);
  });

  it('wait for sequences that were preempted, too', async () => {
    const { engine } = create({ blocks: 10 });
    const calls = [3, 5, 7].map((seed) => engine.generate(ask(letters(5, seed), 33)));
    await engine.runExclusive(async () => expect(engine.stats().completed.length).toBe(3));
    expect(engine.stats().preemptions).toBeGreaterThan(0);
    await Promise.all(calls);
  });

  it('do not wait for readers that have stopped reading', async () => {
    const { engine } = create({}, { eventBuffer: 8 });
    const stream = engine.submit(ask([1], 100));
    expect(await engine.runExclusive(async () => 'done')).toBe('done');
    const tokens = (await events(stream)).flatMap((e) => (e.kind === 'token' ? [e.token] : []));
    expect(tokens).toEqual(greedyAfter([1], 100, VOCAB));
  });
});

describe('raw logits', () => {
  const flat = (chunks: readonly Float32Array[]) => chunks.flatMap((c) => [...c]);
  const expected = (prompt: number[]) => prompt.flatMap((_, i) => [...logitsAfter(prompt.slice(0, i + 1), VOCAB)]);

  it('hold every prompt position and run alone', async () => {
    const sizes: number[] = [];
    const { engine } = create({ onForward: (b) => sizes.push(b.logitCount === b.rows ? b.sequences : 0) });
    const prompt = letters(30, 3);
    await engine.generate(ask(prompt, 1));
    const raw = await engine.rawLogits({ prompt });
    expect(raw.chunks.length).toBe(1);
    expect(flat(raw.chunks)).toEqual(expected(prompt));
    expect([...raw.tokens]).toEqual(prompt);
    expect(raw.usage).toMatchObject({ promptTokens: 30, completionTokens: 0 });
    expect(engine.stats().prefixHits).toBe(0);
    expect(sizes.at(-1)).toBe(1);
    expectIdle(engine);
  });

  it('come in pieces beside other requests, under preemption too', async () => {
    const { engine } = create({ blocks: 24 }, { maxBatchTokens: 7 });
    const prompts = [letters(60, 3), letters(33, 5)];
    const others = [7, 9, 11].map((seed) => engine.generate(ask(letters(20, seed), 30)));
    const raws = await Promise.all(prompts.map((prompt) => engine.rawLogits({ prompt })));
    for (const [i, raw] of raws.entries()) expect(flat(raw.chunks)).toEqual(expected(prompts[i]!));
    for (const [i, other] of (await Promise.all(others)).entries()) {
      expect(tokensOf(other)[0]).toEqual(greedyAfter(letters(20, 7 + 2 * i), 30, VOCAB));
    }
    expectIdle(engine);
  });

  it('go to a reader piece by piece, each position once and in order', async () => {
    const { engine } = create({ blocks: 24 }, { maxBatchTokens: 7 });
    const others = [7, 9, 11].map((seed) => engine.generate(ask(letters(20, seed), 30)));
    const prompts = [letters(60, 3), letters(33, 5)];
    const raws = await Promise.all(
      prompts.map(async (prompt) => {
        const rows: number[] = [];
        const onRows = (piece: Float32Array, first: number) => {
          expect(first * VOCAB).toBe(rows.length);
          rows.push(...piece);
        };
        const { chunks } = await engine.rawLogits({ prompt, onRows });
        expect(chunks).toEqual([]);
        return rows;
      }),
    );
    for (const [i, rows] of raws.entries()) expect(rows).toEqual(expected(prompts[i]!));
    await Promise.all(others);
    expectIdle(engine);
  });

  it('end with what their reader throws, and nothing else does', async () => {
    const { engine } = create({}, { maxBatchTokens: 7 });
    const other = engine.generate(ask(letters(20, 7), 30));
    const onRows = (_: Float32Array, first: number) => {
      if (first > 0) throw new RangeError('enough');
    };
    await expect(engine.rawLogits({ prompt: letters(30, 3), onRows })).rejects.toThrow(RangeError);
    expect(tokensOf(await other)[0]).toEqual(greedyAfter(letters(20, 7), 30, VOCAB));
    expectIdle(engine);
  });

  it('can be aborted, and fail with the step', async () => {
    const { engine } = create({ realTime: true }, { maxBatchTokens: 4 });
    const abort = new AbortController();
    const call = engine.rawLogits({ prompt: letters(60, 3), signal: abort.signal });
    await turn();
    await turn();
    abort.abort();
    await expect(call).rejects.toThrow(AbortError);
    expectIdle(engine);
    const failing = create({
      onForward: () => {
        throw new Error('no');
      },
    });
    await expect(failing.engine.rawLogits({ prompt: [1] })).rejects.toThrow(ModelError);
  });
});

describe('events', () => {
  it('reach their reader before the next step begins', async () => {
    const log: string[] = [];
    const { engine } = create({
      onForward: (_, step) => {
        // A back-end that computes on this thread.
        const end = performance.now() + 2;
        while (performance.now() < end);
        log.push(`step ${step}`);
      },
    });
    for await (const event of engine.submit(ask([1], 3))) {
      await Promise.resolve();
      log.push(event.kind);
    }
    expect(log).toEqual(['step 0', 'token', 'step 1', 'token', 'step 2', 'token', 'finish', 'done']);
  });

  it('let timers of the host run between steps', async () => {
    const { engine } = create({
      onForward: () => {
        const end = performance.now() + 2;
        while (performance.now() < end);
      },
    });
    let ticks = 0;
    const timer = setInterval(() => ticks++, 1);
    await engine.generate(ask([1], 20));
    clearInterval(timer);
    expect(ticks).toBeGreaterThan(5);
  });

  it('several readers at once each get their own', async () => {
    const { engine } = create();
    const stream = engine.submit(ask([1], 2));
    const results = await Promise.all(Array.from({ length: 6 }, () => stream.next()));
    expect(results.map((r) => r.value?.kind)).toEqual(['token', 'token', 'finish', 'done', undefined, undefined]);
  });

  it('leave nothing behind that keeps the process alive', async () => {
    const ports = () => process.getActiveResourcesInfo().filter((name) => name === 'MessagePort').length;
    const before = ports();
    const { engine } = create({ realTime: true });
    await engine.generate(ask([1], 5));
    await turn();
    expect(ports()).toBeLessThanOrEqual(before);
  });
});

describe('usage', () => {
  it('tells prompt and answer apart', async () => {
    let time = 1000;
    const { engine } = create(
      { onForward: (batch) => void (time += batch.rows > 1 ? 500 : 100) },
      { now: () => time, maxBatchTokens: 10 },
    );
    const stream = engine.submit(ask(letters(20, 3), 5));
    time += 250;
    const done = (await events(stream)).at(-1)!;
    expect(done).toEqual({
      kind: 'done',
      usage: {
        promptTokens: 20,
        completionTokens: 5,
        totalTokens: 25,
        totalTimeSec: 0.25 + 1 + 0.4,
        totalPromptTimeSec: 1,
        totalCompletionTimeSec: 0.4,
        avgPromptTokPerSec: 20,
        avgComplTokPerSec: 5 / 0.4,
        avgTokPerSec: 25 / 1.65,
      },
    });
  });

  it('has rates of 0 where no time passed', async () => {
    const { engine } = create({}, { now: () => 5 });
    const { usage } = await engine.generate(ask([1], 2));
    expect(usage).toMatchObject({ totalTimeSec: 0, avgTokPerSec: 0, avgPromptTokPerSec: 0, avgComplTokPerSec: 0 });
  });
});

describe('refusals', () => {
  const code = async (call: () => unknown) => {
    try {
      await call();
    } catch (error) {
      if (error instanceof RequestValidationError) return error.code;
      throw error;
    }
    return undefined;
  };

  it('come before anything runs', async () => {
    const { engine, runner } = create({ contextLength: 16 });
    expect(await code(() => engine.submit(ask([], 1)))).toBe('empty_prompt');
    expect(await code(() => engine.submit(ask([1], 0)))).toBe('max_tokens_zero');
    expect(await code(() => engine.submit(ask([1], 1, { nChoices: 0 })))).toBe('n_zero');
    expect(await code(() => engine.submit(ask([1, VOCAB], 1)))).toBe('invalid_token');
    expect(await code(() => engine.submit(ask(letters(17, 3), 1)))).toBe('prompt_too_long');
    expect(await code(() => engine.rawLogits({ prompt: letters(17, 3) }))).toBe('prompt_too_long');
    expect(await code(() => engine.rawLogits({ prompt: [] }))).toBe('empty_prompt');
    expect(runner.steps).toBe(0);
    expectIdle(engine);
  });

  it('a prompt that is too long loses its beginning on demand', async () => {
    const { engine } = create({ contextLength: 16 });
    const prompt = letters(40, 3);
    const stream = engine.submit({ ...ask(prompt, 6), truncateSequence: true });
    expect([...stream.promptTokens]).toEqual(prompt.slice(30));
    const tokens = (await events(stream)).flatMap((e) => (e.kind === 'token' ? [e.token] : []));
    expect(tokens).toEqual(greedyAfter(prompt.slice(30), 6, VOCAB));
    const raw = await engine.rawLogits({ prompt, truncateSequence: true });
    expect([...raw.tokens]).toEqual(prompt.slice(25));
  });

  it('a full queue', async () => {
    const { engine } = create({}, { maxQueue: 2 });
    const first = engine.submit(ask([1], 1));
    const second = engine.submit(ask([1], 1));
    expect(await code(() => engine.submit(ask([1], 1)))).toBe('queue_full');
    await Promise.all([events(first), events(second)]);
    await engine.generate(ask([1], 1));
  });
});

describe('dispose', () => {
  it('ends what runs, waits or is read later with ChannelError', async () => {
    const { engine, runner } = create({ realTime: true }, { maxNumSeqs: 1 });
    const running = engine.submit(ask([1], 500));
    await running.next();
    const pending = [
      engine.generate(ask([2], 5)),
      engine.rawLogits({ prompt: [1, 2] }),
      engine.runExclusive(async () => 1),
    ];
    const outcomes = Promise.allSettled(pending);
    await engine.dispose();
    expect(runner.busy).toBe(false);
    for (const outcome of await outcomes) {
      expect((outcome as PromiseRejectedResult).reason).toBeInstanceOf(ChannelError);
    }
    await expect(events(running)).rejects.toThrow(ChannelError);
    expect(() => engine.submit(ask([1], 1))).toThrow(ChannelError);
    await expect(engine.rawLogits({ prompt: [1] })).rejects.toThrow(ChannelError);
    expectIdle(engine);
    await engine.dispose();
  });
});
