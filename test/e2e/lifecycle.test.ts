/** Requests that end early, fail, or are refused: nothing of them is left, and others never notice. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { readGguf } from '../../src/core/io/gguf.ts';
import * as api from '../../src/index.ts';
import { fixtures } from '../models/harness.ts';
import { letters, loadTiny, TINY_VOCAB, tinyBytes, turn } from './tiny.ts';

const GREEDY = { topK: 1, ignoreEos: true };
const greedy = (maxLen: number) => ({ sampling: { ...GREEDY, maxLen } });
const tokens = (response: api.CompletionResponse) => [...response.choices[0]!.tokenIds];
const idle = { running: 0, waiting: 0, blocksUsed: 0 };
const chat = (content: string): api.ChatRequest => ({
  messages: [{ role: 'user', content }],
  sampling: { ...GREEDY, maxLen: 6 },
});

/** Turns of the event loop until a condition holds; at most 20 s of them, as a machine may be busy. */
async function until(condition: () => boolean): Promise<void> {
  const end = performance.now() + 20_000;
  while (!condition()) {
    if (performance.now() > end) throw new Error('the condition did not come true');
    await turn();
  }
}

let model: api.Model;
let steps = 0;
beforeAll(async () => {
  model = await loadTiny();
});
afterAll(() => model?.dispose());
afterEach(async () => {
  await until(() => model.engineStats().running === 0);
  expect(model.engineStats()).toMatchObject(idle);
});

describe('cancellation', () => {
  /** A stream of which one chunk was read, with nothing running beside it. */
  async function started(signal?: AbortSignal): Promise<api.CompletionStream> {
    const stream = model.streamComplete(letters(70, 3), greedy(500), signal ? { signal } : {});
    await stream.next();
    expect(model.engineStats().blocksUsed).toBeGreaterThanOrEqual(3);
    steps = model.engineStats().steps;
    return stream;
  }

  const ways: readonly [string, (stream: api.CompletionStream, abort: AbortController) => unknown][] = [
    ['leaving the loop', (stream) => stream.return?.()],
    ['cancel()', (stream) => stream.cancel()],
    ['the signal', (_, abort) => abort.abort()],
  ];
  it.each(ways)('by %s gives every block back at the next step', async (_, leave) => {
    const abort = new AbortController();
    const stream = await started(abort.signal);
    await leave(stream, abort);
    await until(() => model.engineStats().blocksUsed === 0);
    expect(model.engineStats().steps - steps).toBeLessThanOrEqual(2);
    expect(model.engineStats()).toMatchObject(idle);
  });

  it('ends a stream with its reason, and rejects a call', async () => {
    const stream = await started();
    stream.cancel();
    const response = await stream.final();
    expect(response.choices[0]!.finishReason).toBe('canceled');
    expect(response.choices[0]!.tokenIds.length).toBeGreaterThan(0);
    const abort = new AbortController();
    const call = model.complete(letters(70, 5), greedy(500), { signal: abort.signal });
    await until(() => model.engineStats().running === 1);
    abort.abort(new Error('enough'));
    await expect(call).rejects.toThrow(api.AbortError);
    await expect(call).rejects.toMatchObject({ cause: { message: 'enough' } });
    await expect(model.complete([65], greedy(5), { signal: AbortSignal.abort() })).rejects.toThrow(api.AbortError);
    await expect(model.sendRawTokens(letters(9, 3), { signal: AbortSignal.abort() })).rejects.toThrow(api.AbortError);
  });

  it('of one request leaves the others as they are', async () => {
    const expected = tokens(await model.complete(letters(40, 7), greedy(40)));
    const stream = await started();
    const other = model.complete(letters(40, 7), greedy(40));
    await stream.next();
    stream.cancel();
    expect(tokens(await other)).toEqual(expected);
    await stream.final();
  });
});

describe('readers', () => {
  it('that do not read stall nobody, and get everything later', async () => {
    // More tokens than are kept for a reader.
    const long = { sampling: { ...GREEDY, maxLen: 1500 } };
    const expected = tokens(await model.complete(letters(20, 3), long));
    const slow = model.streamComplete(letters(20, 3), long);
    await slow.next();
    for (const seed of [5, 7, 9, 11, 13]) {
      const { choices } = await model.complete(letters(30, seed), greedy(60));
      expect(choices[0]!.tokenIds.length).toBe(60);
    }
    await until(() => model.engineStats().running === 0 || model.engineStats().steps > 0);
    expect(tokens(await slow.final())).toEqual(expected);
  });
});

describe('dispose', () => {
  it('while requests run, wait, or are read ends them with ChannelError', async () => {
    const own = await loadTiny({ maxNumSeqs: 1 });
    const stream = own.streamComplete(letters(9, 3), greedy(900));
    await stream.next();
    const calls = [
      own.complete(letters(9, 5), greedy(5)),
      own.sendRawTokens(letters(9, 5)),
      own.sendChatRequest(chat('hi')),
      (async () => {
        for await (const _ of stream);
      })(),
    ];
    const outcomes = Promise.allSettled(calls);
    expect(own.memory().persistent).toBeGreaterThan(0);
    const disposals = [own.dispose(), own.dispose(), own[Symbol.asyncDispose]()];
    expect(own.memory()).toEqual({ persistent: 0, arena: 0 });
    for (const outcome of await outcomes) {
      expect(outcome.status).toBe('rejected');
      expect((outcome as PromiseRejectedResult).reason).toBeInstanceOf(api.ChannelError);
    }
    await Promise.all(disposals);
    await expect(own.complete([65], greedy(1))).rejects.toThrow(api.ChannelError);
    await expect(own.streamComplete([65], greedy(1)).next()).rejects.toThrow(api.ChannelError);
    await expect(own.sendRawTokens([65])).rejects.toThrow(api.ChannelError);
  });
});

describe('200 lives', () => {
  it.each([1, 2])('with random lengths, ways to leave and seeds leave nothing behind (%d threads)', async (threads) => {
    const own = await loadTiny({ threads, pagedAttn: { memory: { contextSize: 32 * 40 } }, maxBatchTokens: 64 });
    let state = 12345;
    const random = (n: number) => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      return (state >>> 8) % n;
    };
    const counts: Record<string, number> = {};
    const live = async (): Promise<void> => {
      const prompt = letters(1 + random(200), random(6));
      const maxLen = 1 + random(60);
      const seed = random(4);
      const params = { sampling: { temperature: 1, maxLen, nChoices: 1 + (random(5) === 0 ? random(3) : 0) }, seed };
      const abort = new AbortController();
      const way = ['whole', 'stream', 'return', 'cancel', 'abort', 'abort call', 'raw', 'never read'][random(8)]!;
      counts[way] = (counts[way] ?? 0) + 1;
      for (let i = random(12); i > 0; i--) await turn();
      if (way === 'whole') {
        await own.complete(prompt, params);
      } else if (way === 'raw') {
        await own.sendRawTokens(prompt);
      } else if (way === 'abort call') {
        const call = own.complete(prompt, params, { signal: abort.signal });
        for (let i = random(20); i > 0; i--) await turn();
        abort.abort();
        await call.catch((error) => expect(error).toBeInstanceOf(api.AbortError));
      } else {
        const stream = own.streamComplete(prompt, params, { signal: abort.signal });
        let left = way === 'stream' ? 1e9 : random(20);
        for await (const _ of stream) {
          if (left-- > 0) continue;
          if (way === 'return' || way === 'never read') break;
          if (way === 'cancel') stream.cancel();
          else abort.abort();
        }
      }
    };
    const lives: Promise<void>[] = [];
    for (let i = 0; i < 200; i++) {
      lives.push(live());
      if (i % 16 === 0) await lives[random(lives.length)];
    }
    await Promise.all(lives);
    await until(() => own.engineStats().running === 0);
    expect(own.engineStats()).toMatchObject(idle);
    expect(Object.keys(counts).length).toBe(8);
    // It still gives what a fresh one gives.
    expect(tokens(await own.complete(letters(100, 3), greedy(20)))).toEqual(
      tokens(await model.complete(letters(100, 3), greedy(20))),
    );
    await own.dispose();
  });
});

describe('limits', () => {
  it('a full context ends the answer', async () => {
    const own = await loadTiny({ maxModelLen: 48 });
    expect(own.maxSequenceLength()).toBe(48);
    const { choices, usage } = await own.complete(letters(40, 3), greedy(100));
    expect(choices[0]).toMatchObject({ finishReason: 'length' });
    expect(usage).toMatchObject({ promptTokens: 40, completionTokens: 8 });
    // The last token of an answer needs no room: nothing comes after it.
    const full = await own.complete(letters(48, 3), greedy(100));
    expect(full.choices[0]).toMatchObject({ finishReason: 'length' });
    expect(full.usage.completionTokens).toBe(1);
    await own.dispose();
  });

  it('prompts that are too long are refused, or cut when asked', async () => {
    const own = await loadTiny({ maxModelLen: 48 });
    const prompt = letters(60, 3);
    for (const call of [
      own.complete(prompt, greedy(5)),
      own.streamComplete(prompt, greedy(5)).next(),
      own.sendRawTokens(prompt),
      own.sendChatRequest(chat('x'.repeat(100))),
      own.chat('x'.repeat(100)),
    ]) {
      await expect(call).rejects.toMatchObject({
        code: 'prompt_too_long',
        message: expect.stringMatching(/expected at most 4\d tokens, got \d+; shorten it or set truncateSequence/),
      });
    }
    const cut = await own.complete(prompt, { ...greedy(5), truncateSequence: true });
    expect(cut.usage).toMatchObject({ promptTokens: 43, completionTokens: 5 });
    expect(tokens(cut)).toEqual(tokens(await own.complete(prompt.slice(17), greedy(5))));
    expect(own.engineStats()).toMatchObject(idle);
    await own.dispose();
  });

  it('requests that make no sense are refused before anything runs', async () => {
    const before = model.engineStats().steps;
    const bad: readonly [unknown, RegExp][] = [
      [{ messages: [] }, /messages: expected at least one message, got none/],
      [{ messages: 'hi' }, /messages: expected an array, got "hi"/],
      [{}, /messages: expected an array, got undefined/],
      [{ messages: [{ content: 'hi' }] }, /messages\[0\]\.role: expected a role .*, got undefined/],
      [{ messages: [{ role: '', content: 'hi' }] }, /messages\[0\]\.role/],
      [{ messages: [{ role: 7, content: 'hi' }] }, /messages\[0\]\.role: .* got 7/],
      [{ messages: [{ role: 'user', content: 5 }] }, /messages\[0\]\.content/],
      [{ ...chat('hi'), sampling: { maxLen: 0 } }, /maxLen/],
      [{ ...chat('hi'), sampling: { temperature: Number.NaN } }, /temperature/],
      [{ ...chat('hi'), sampling: { nChoices: 0 } }, /nChoices/],
      [null, /request: expected an object/],
    ];
    for (const [request, message] of bad) {
      const call = model.sendChatRequest(request as api.ChatRequest);
      await expect(call).rejects.toThrow(api.RequestValidationError);
      await expect(call).rejects.toThrow(message);
      await expect(model.streamChatRequest(request as api.ChatRequest).next()).rejects.toThrow(message);
    }
    await expect(model.complete([], greedy(1))).rejects.toMatchObject({ code: 'empty_prompt' });
    await expect(model.complete([1, TINY_VOCAB], greedy(1))).rejects.toMatchObject({ code: 'invalid_token' });
    await expect(model.complete([1.5], greedy(1))).rejects.toMatchObject({ code: 'invalid_token' });
    await expect(model.sendRawTokens([-1])).rejects.toMatchObject({ code: 'invalid_token' });
    expect(model.engineStats().steps).toBe(before);
  });

  it('names nobody knows', async () => {
    await expect(model.complete([65], greedy(1), { modelId: 'other' })).rejects.toThrow(api.ModelNotFoundError);
    await expect(model.streamComplete([65], greedy(1), { modelId: 'other' }).next()).rejects.toThrow(/"other"/);
    for (const name of ['no/such-model', 'nothing-of-that-name', './missing.gguf', '/tmp/missing-folder-of-a-model']) {
      const error = await api.loadModel(name, { offline: true }).catch((e: unknown) => e);
      expect(error).toBeInstanceOf(api.ModelLoadError);
      expect((error as Error).message).toContain(name.replace('./', ''));
    }
  });
});

describe('weights that are not numbers', () => {
  const BAD = 77;
  const folders: string[] = [];
  afterAll(() => {
    for (const folder of folders) rmSync(folder, { recursive: true });
  });

  /** The tiny GGUF model with NaN scales in one row of its embeddings. */
  async function badGguf(): Promise<Uint8Array> {
    const bytes = tinyBytes.slice();
    const info = (await readGguf(bytes)).tensors.get('token_embd.weight')!;
    const rowBytes = info.bytes / TINY_VOCAB;
    for (let block = 0; block < rowBytes; block += 34) {
      new DataView(bytes.buffer).setUint16(info.offset + BAD * rowBytes + block, 0x7e00, true);
    }
    return bytes;
  }

  /** A BF16 model in Hugging Face layout with NaN in one row of its embeddings. */
  function badFolder(): string {
    const folder = mkdtempSync(join(tmpdir(), 'model-'));
    folders.push(folder);
    const from = fileURLToPath(new URL('llama/', fixtures));
    const bytes = readFileSync(join(from, 'model.safetensors'));
    const header = Number(bytes.readBigUInt64LE(0));
    const table = JSON.parse(bytes.subarray(8, 8 + header).toString()) as Record<string, { data_offsets: number[] }>;
    const [start] = table['model.embed_tokens.weight']!.data_offsets as [number];
    for (let i = 0; i < 64; i++) bytes.writeUInt16LE(0x7fc0, 8 + header + start + (BAD * 64 + i) * 2);
    writeFileSync(join(folder, 'model.safetensors'), bytes);
    writeFileSync(join(folder, 'config.json'), readFileSync(join(from, 'config.json')));
    return folder;
  }

  it.each([{}, { simd: 'off' }, { dtype: 'f32' }] as const)(
    'in block scales are refused at load: %o',
    async (options) => {
      const bad = await badGguf();
      const call = loadTiny(options, bad);
      if ('dtype' in options) {
        // Expanded to floats, they show when they are used.
        const own = await call;
        await expect(own.complete([40, BAD], greedy(5))).rejects.toThrow(api.InferenceError);
        expect((await own.complete([40, 41], greedy(1))).choices[0]!.finishReason).toBe('length');
        await own.dispose();
        return;
      }
      await expect(call).rejects.toThrow(api.WeightError);
      await expect(call).rejects.toThrow(
        /embed_tokens.*: expected finite scales, got infinity or NaN in row 77; the file/,
      );
    },
  );

  it.each(['cpu', 'reference'] as const)(
    'in float weights (%s): the error says where; others go on, in the same blocks',
    async (device) => {
      const settings = { device, threads: 1, prefixCacheN: 0 } as const;
      const good = await api.loadModel(fileURLToPath(new URL('llama', fixtures)), settings);
      // Few blocks, so that those of the failed request are used again.
      const memory = { contextSize: 96 };
      const own = await api.loadModel(badFolder(), { ...settings, pagedAttn: { memory } });
      const expected = tokens(await good.complete(letters(50, 3), greedy(20)));
      expect(expected).not.toContain(BAD);
      for (const prompt of [
        [40, BAD],
        [BAD, ...letters(60, 5)],
        [...letters(40, 9), BAD, 50, 51],
      ]) {
        for (const sampling of [{ topK: 1 }, { temperature: 1 }, { temperature: 0.5, topK: 20, topP: 0.9 }]) {
          const call = own.complete(prompt, { sampling: { ...sampling, maxLen: 5 }, seed: 1 });
          await expect(call).rejects.toThrow(api.InferenceError);
          await expect(call).rejects.toThrow(
            new RegExp(`logits after ${prompt.length} tokens: expected finite numbers, got NaN .*weights`),
          );
        }
        const [bad, fine] = await Promise.allSettled([
          own.complete(prompt, greedy(5)),
          own.complete(letters(50, 3), greedy(20)),
        ]);
        expect(bad.status).toBe('rejected');
        if (fine.status === 'rejected') throw fine.reason;
        expect(tokens(fine.value)).toEqual(expected);
      }
      expect(own.engineStats()).toMatchObject(idle);
      await own.dispose();
      await good.dispose();
    },
  );
});
