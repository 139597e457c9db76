/** The embedded model on the CPU, through the public entry: its answers, and that nothing but the request shapes them. */
import { readFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type LoadOptions, loadModel, type Model } from '../../src/index.ts';
import { fixtures, furthest, readPrompts } from '../models/harness.ts';
import { allLogits, greedyCases, loadEmbedded, relativeError } from './embedded.ts';

/** The bar for exact arithmetic. Integer products are exact too: measured differences are 0. */
const TOLERANCE = 2e-4;

const opened: Model[] = [];
afterEach(async () => {
  for (const model of opened.splice(0)) await model.dispose();
});

async function open(options: LoadOptions): Promise<Model> {
  const model = await loadEmbedded(options);
  opened.push(model);
  return model;
}

const whole = (ids: readonly number[]) => ({ sampling: { topK: 1, maxLen: ids.length } });

/** Greedy answers to some prompts, one after the other or all together. */
async function answers(model: Model, cases: typeof greedyCases, together: boolean): Promise<number[][]> {
  const ask = ({ prompt, ids }: (typeof greedyCases)[number]) =>
    model.complete(prompt, whole(ids)).then((r) => [...r.choices[0]!.tokenIds]);
  if (together) return Promise.all(cases.map(ask));
  const all: number[][] = [];
  for (const c of cases) all.push(await ask(c));
  return all;
}

const clear = greedyCases.filter((c) => c.margin > 0.2);
/** A chat and the whole of its answer. */
const long = [...greedyCases[2]!.prompt, ...greedyCases[2]!.ids];

describe('greedy answers', () => {
  let model: Model;
  beforeAll(async () => {
    model = await loadEmbedded();
  });
  afterAll(() => model?.dispose());

  it.each(greedyCases)('are those of llama.cpp: $text', async ({ kind, text, prompt, ids, out }) => {
    const { sampling } = whole(ids);
    if (kind === 'raw') {
      expect([...(await model.tokenize(text))]).toEqual(prompt);
      const { choices } = await model.complete(text, { sampling });
      expect([...choices[0]!.tokenIds]).toEqual(ids);
      expect(choices[0]!.text).toBe(out);
      return;
    }
    const request = { messages: [{ role: 'user', content: text }], sampling } as const;
    expect([...(await model.tokenize(request))]).toEqual(prompt);
    const { choices, usage } = await model.sendChatRequest(request);
    expect([...choices[0]!.tokenIds]).toEqual(ids);
    expect(choices[0]!.message.content).toBe(out);
    expect(choices[0]!.finishReason).toBe(ids.at(-1) === 2 ? 'stop' : 'length');
    expect(usage).toMatchObject({ promptTokens: prompt.length, completionTokens: ids.length });
    const stream = model.streamChatRequest(request);
    let streamed = '';
    for await (const chunk of stream) streamed += chunk.choices[0]?.delta.content ?? '';
    expect(streamed).toBe(out);
  });

  it('are the same in a mixed batch, with equal log-probabilities', async () => {
    const { prompt, ids } = greedyCases[2]!;
    const request = { sampling: { ...whole(ids).sampling, topNLogprobs: 20 }, logprobs: true };
    const alone = await model.complete(prompt, request);
    // Seven others: some read their prompts while this one answers, some answer while it reads.
    const early = greedyCases.slice(0, 2).map((c) => model.complete(c.prompt, whole(c.ids)));
    const late: Promise<unknown>[] = [];
    const stream = model.streamComplete(prompt, request);
    for await (const _ of stream) {
      const other = greedyCases[late.length];
      if (other && late.length < 5) late.push(model.complete([...long, ...other.prompt], whole(other.ids)));
    }
    const mixed = await stream.final();
    for (const [i, { choices }] of (await Promise.all(early)).entries()) {
      expect([...choices[0]!.tokenIds]).toEqual(greedyCases[i]!.ids);
    }
    await Promise.all(late);
    expect([...mixed.choices[0]!.tokenIds]).toEqual(ids);
    const [a, b] = [alone, mixed].map((r) =>
      Float32Array.from(r.choices[0]!.logprobs!.content.flatMap((e) => e.topLogprobs.map((t) => t.logprob))),
    ) as [Float32Array, Float32Array];
    expect(a.length).toBe(20 * ids.length);
    expect(furthest(a, b)).toBeLessThan(TOLERANCE);
    expect(model.engineStats()).toMatchObject({ running: 0, waiting: 0, blocksUsed: 0 });
  });
});

describe('how the work is cut changes nothing', () => {
  let logits: Float32Array;
  beforeAll(async () => {
    const model = await loadEmbedded();
    logits = await allLogits(model, long);
    await model.dispose();
  });

  const cuts: readonly [string, LoadOptions][] = [
    ['pieces of 64', { maxBatchTokens: 64 }],
    ['pieces of 7', { maxBatchTokens: 7 }],
    ['token by token', { maxBatchTokens: 1 }],
    ['2 threads', { threads: 2 }],
    ['3 threads', { threads: 3 }],
    ['2 threads, pieces of 7', { threads: 2, maxBatchTokens: 7 }],
  ];
  it.each(cuts)('%s', async (_, options) => {
    const model = await open(options);
    expect(model.config().backend.threads).toBe(options.threads ?? 1);
    expect(furthest(await allLogits(model, long), logits)).toBeLessThan(TOLERANCE);
    expect(await answers(model, clear, true)).toEqual(clear.map((c) => c.ids));
  });

  it('decoding far into a context, which threads share, gives the logits of a prefill', async () => {
    const prompt = Array.from({ length: 600 }, (_, i) => 100 + ((i * 7919) % 40000));
    const answer = { sampling: { topK: 1, maxLen: 10, topNLogprobs: 20, ignoreEos: true }, logprobs: true };
    const rows: Float32Array[] = [];
    for (const threads of [1, 2]) {
      const model = await open({ threads });
      // Beside others, whose number changes how the threads share the work.
      const others = [3, 5].map((n) => model.complete(prompt.slice(0, 300 + n), whole(prompt.slice(0, 4))));
      const { choices } = await model.complete(prompt, answer);
      await Promise.all(others);
      const ids = [...choices[0]!.tokenIds];
      const vocab = model.config().vocabSize;
      const logits = await allLogits(model, [...prompt, ...ids]);
      for (const [i, { topLogprobs }] of choices[0]!.logprobs!.content.entries()) {
        const row = logits.subarray((prompt.length - 1 + i) * vocab, (prompt.length + i) * vocab);
        const first = topLogprobs[0]!;
        for (const t of topLogprobs) {
          expect(Math.abs(t.logprob - first.logprob - (row[t.token]! - row[first.token]!))).toBeLessThan(TOLERANCE);
        }
      }
      rows.push(logits.slice(-vocab));
    }
    expect(furthest(rows[0]!, rows[1]!)).toBeLessThan(TOLERANCE);
  });

  it('one after the other, without reuse of prompts', async () => {
    expect(await answers(await open({ prefixCacheN: 0 }), clear, false)).toEqual(clear.map((c) => c.ids));
  });
});

describe('instructions', () => {
  /**
   * What 8-bit activations do to the logits: 2 to 4.5 percent in this model, with every instruction set and in llama.cpp
   * alike; 1.5 to 2.4 percent in the small ones.
   */
  const ROUNDED = 0.06;
  const ROUNDED_SMALL = 0.03;

  it('give what the stored weights give in exact arithmetic, within the rounding of activations', async () => {
    const ids = greedyCases[1]!.prompt;
    const exact = await allLogits(await open({ dtype: 'f32' }), ids);
    for (const options of [{ simd: 'auto' }, { simd: 'simd' }, { strict: true }] as const) {
      const model = await open(options);
      expect(relativeError(await allLogits(model, ids), exact)).toBeLessThan(ROUNDED);
      await model.dispose();
    }
  });

  it('strict: the same bits in two runs, whatever the threads', async () => {
    const runs: Uint8Array[] = [];
    for (const threads of [1, 2]) {
      const model = await open({ strict: true, threads });
      runs.push(new Uint8Array((await allLogits(model, long)).buffer));
      await model.dispose();
    }
    expect(Buffer.compare(runs[0]!, runs[1]!)).toBe(0);
  });

  it.each(['gguf_llama_q8_0', 'gguf_llama_q4_k_m', 'gguf_gemma2_q8_0'])('none at all: %s', async (name) => {
    const folder = new URL(`${name}/`, fixtures);
    const bytes = readFileSync(new URL('model.gguf', folder));
    const load = async (options: LoadOptions) => {
      const model = await loadModel(bytes, { device: 'cpu', threads: 1, ...options });
      opened.push(model);
      return model;
    };
    const off = await load({ simd: 'off' });
    const auto = await load({});
    const strict = await load({ strict: true });
    for (const p of await readPrompts(folder)) {
      // Without instructions the stored weights are used as they are, in float32.
      expect(furthest(await allLogits(off, p.ids), p.logits)).toBeLessThan(TOLERANCE);
      const greedy = await off.complete(p.ids, { sampling: { topK: 1, maxLen: 16, ignoreEos: true } });
      expect([...greedy.choices[0]!.tokenIds]).toEqual([...p.greedy]);
      expect(relativeError(await allLogits(auto, p.ids), p.logits)).toBeLessThan(ROUNDED_SMALL);
      expect(relativeError(await allLogits(strict, p.ids), p.logits)).toBeLessThan(ROUNDED_SMALL);
    }
  });
});
