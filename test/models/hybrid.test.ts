/** Engine and recurrent models together: whatever runs beside a request, and whatever is reused, its tokens are the same. */
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createCpuBackend } from '../../src/backends/cpu/index.ts';
import { ReferenceBackend } from '../../src/backends/reference/index.ts';
import type { Backend } from '../../src/core/backend.ts';
import { Engine } from '../../src/core/engine/engine.ts';
import type { EngineOptions } from '../../src/core/engine/types.ts';
import type { Decoder } from '../../src/core/model.ts';
import { DecoderRunner } from '../../src/core/runner.ts';
import { Weights } from '../../src/core/weights.ts';
import { buildDecoder } from '../../src/models/arch.ts';
import { archOf } from '../../src/models/registry.ts';
import { codec, fixtures, openModel, readPrompts } from './harness.ts';

const BLOCK = 8;
/** Few, so that requests lose theirs now and then: the longest needs seven. */
const BLOCKS = 14;

async function load(backend: Backend, name: string): Promise<{ weights: Weights; decoder: Decoder }> {
  const opened = await openModel(new URL(`${name}/`, fixtures));
  const arch = await archOf(opened.config);
  const weights = Weights.open({ backend, source: opened.source, codec, dtype: 'f32' });
  const decoder = buildDecoder(arch, weights, arch.config(opened.config));
  await weights.load();
  return { weights, decoder };
}

const request = fc.record({
  /** Tokens of a common text, then some of its own. */
  shared: fc.integer({ min: 0, max: 30 }),
  own: fc.array(fc.integer({ min: 3, max: 20 }), { minLength: 1, maxLength: 6 }),
  count: fc.integer({ min: 1, max: 14 }),
  choices: fc.constantFrom(1, 1, 1, 2, 3),
  /** Ends it after so many tokens. */
  abortAfter: fc.option(fc.integer({ min: 0, max: 5 }), { nil: undefined, freq: 3 }),
  /** Steps of others before it comes. */
  delay: fc.integer({ min: 0, max: 6 }),
});

describe.each(['granitemoehybrid', 'qwen3_next', 'lfm2_moe'])('%s', (name) => {
  const backend = new ReferenceBackend();
  let model: Awaited<ReturnType<typeof load>>;
  beforeAll(async () => {
    model = await load(backend, name);
  });
  afterAll(() => {
    model?.weights.dispose();
    return backend.dispose();
  });

  const common = Array.from({ length: 30 }, (_, i) => 3 + ((i * 37) % 200));
  const alone = new Map<string, number[]>();

  function create(options: EngineOptions, stateSlots: number) {
    const sizes = { blocks: BLOCKS, blockSize: BLOCK, maxRows: 64, maxSequences: 4, maxBlocks: BLOCKS, stateSlots };
    const runner = new DecoderRunner(backend, model.decoder, sizes);
    return { runner, engine: new Engine(runner, options) };
  }

  const greedy = (prompt: number[], maxLen: number, nChoices = 1) => ({
    prompt,
    sampling: { topK: 1, ignoreEos: true, maxLen, nChoices },
  });

  async function tokensAlone(prompt: number[], count: number): Promise<number[]> {
    const key = prompt.join();
    let known = alone.get(key);
    if (known === undefined || known.length < count) {
      const { runner, engine } = create({ prefixCache: false }, 1);
      known = [...(await engine.generate(greedy(prompt, 14))).choices[0]!.tokens];
      await engine.dispose();
      runner.dispose();
      alone.set(key, known);
    }
    return known.slice(0, count);
  }

  it('gives every request the tokens it gets alone', async () => {
    const property = fc.asyncProperty(
      fc.array(request, { minLength: 2, maxLength: 8 }),
      fc.constantFrom(2, 3, 5, 12),
      fc.constantFrom(3, 8, 64),
      async (requests, stateSlots, maxBatchTokens) => {
        // One engine at a time: both would write their logits into the same memory.
        const expected = new Map<(typeof requests)[number], number[]>();
        const promptOf = (r: (typeof requests)[number]) => [...common.slice(0, r.shared), ...r.own];
        for (const r of requests) expected.set(r, await tokensAlone(promptOf(r), r.count));
        const { runner, engine } = create({ maxNumSeqs: 4, maxBatchTokens }, stateSlots);
        const run = async (r: (typeof requests)[number]) => {
          for (const end = engine.stats().steps + r.delay; engine.stats().steps < end; ) {
            if (engine.stats().running === 0) break;
            await new Promise((resolve) => setImmediate(resolve));
          }
          const stream = engine.submit(greedy(promptOf(r), r.count, r.choices));
          const tokens: number[][] = Array.from({ length: r.choices }, () => []);
          let seen = 0;
          for await (const event of stream) {
            if (event.kind === 'token') tokens[event.index]!.push(event.token);
            if (event.kind === 'token' && seen++ === r.abortAfter) stream.cancel();
          }
          for (const got of tokens) expect(got).toEqual(expected.get(r)!.slice(0, got.length));
          if (r.abortAfter === undefined) for (const got of tokens) expect(got.length).toBe(r.count);
        };
        await Promise.all(requests.map(run));
        expect(engine.stats()).toMatchObject({ running: 0, waiting: 0, blocksUsed: 0, statesUsed: 0 });
        await engine.dispose();
        runner.dispose();
      },
    );
    await fc.assert(property, { numRuns: 12, seed: 5 });
  });

  it('logits are the same with a prefix from the cache', async () => {
    const [prompt] = await readPrompts(new URL(`${name}/`, fixtures));
    const { ids, greedy: continuation } = prompt!;
    const { runner, engine } = create({}, 6);
    const ask = { ...greedy([...ids], continuation.length), logprobs: true };
    const first = await engine.generate(ask);
    const before = engine.stats().promptTokensComputed;
    const second = await engine.generate(ask);
    expect(engine.stats().promptTokensComputed - before).toBe(ids.length - 8 * Math.floor((ids.length - 1) / 8));
    expect([...second.choices[0]!.tokens]).toEqual([...continuation]);
    first.choices[0]!.logprobs!.forEach((want, i) => {
      expect(second.choices[0]!.logprobs![i]!.logprob).toBeCloseTo(want.logprob, 4);
    });
    await engine.dispose();
    runner.dispose();
  });
});

describe('on the CPU', () => {
  it('states are part of the memory that a runner returns', async () => {
    const backend = await createCpuBackend({ threads: 1 });
    const { weights, decoder } = await load(backend, 'qwen3_5_text');
    const before = backend.memory().persistent;
    const sizes = { blocks: 4, blockSize: 32, maxRows: 8, maxSequences: 2, maxBlocks: 4, stateSlots: 5 };
    const runner = new DecoderRunner(backend, decoder, sizes);
    const config = JSON.parse(readFileSync(new URL('qwen3_5_text/config.json', fixtures), 'utf8'));
    const { linear_key_head_dim: dim, linear_num_key_heads: keyHeads, linear_num_value_heads: heads } = config;
    const perLayer = heads * dim * dim + 3 * dim * (2 * keyHeads + heads);
    expect(runner.cacheBytes).toBeGreaterThanOrEqual(5 * 3 * perLayer * 4);
    runner.dispose();
    await backend.flush();
    expect(backend.memory().persistent).toBe(before);
    weights.dispose();
    await backend.dispose();
  });
});
