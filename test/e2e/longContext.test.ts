/** Models whose rotation depends on the length of the sequence, beyond the length where it changes. */
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type LoadOptions, loadModel, type Model } from '../../src/index.ts';
import { argmax, furthest, type Prompt, readPrompts } from '../models/harness.ts';

const fixtures = new URL('../fixtures/models/', import.meta.url);
const TOLERANCE = 2e-4;
const MAX_LEN = 16;
/** Of the dynamic model: 2.5 times what it was trained on. */
const CONTEXT = 40;
const sampling = { topK: 1, maxLen: MAX_LEN, ignoreEos: true };

interface Expected {
  readonly prompt: readonly number[];
  readonly ids: readonly number[];
  /** Logits that each id was chosen from. */
  readonly rows: readonly Float32Array[];
}

/** What follows a prompt when every token is chosen from a run of all tokens, as a prompt of its own. */
async function uncached(model: Model, prompt: readonly number[]): Promise<Expected> {
  const ids = [...prompt];
  const rows: Float32Array[] = [];
  for (let i = 0; i < MAX_LEN; i++) {
    const { logitsChunks } = await model.sendRawTokens(ids);
    const last = (await logitsChunks.at(-1)!.toFloat32Array()).slice(-model.config().vocabSize);
    rows.push(last);
    ids.push(argmax(last));
  }
  return { prompt, ids: ids.slice(prompt.length), rows };
}

/** Log-probabilities from the logits of one position. */
function logprobs(row: Float32Array): Float32Array {
  const most = row.reduce((a, b) => Math.max(a, b));
  const sum = row.reduce((n, v) => n + Math.exp(v - most), 0);
  return row.map((v) => v - most - Math.log(sum));
}

const devices = [
  { device: 'reference', blockSize: 8 },
  { device: 'cpu', blockSize: 32 },
] as const;

interface Way {
  readonly name: string;
  readonly options?: LoadOptions;
  /** The cache has room for one sequence only. */
  readonly cramped?: boolean;
}

const ways: readonly Way[] = [
  { name: 'plain' },
  { name: 'without a cache', options: { noKvCache: true } },
  { name: 'in pieces', options: { maxBatchTokens: 7 } },
  { name: 'without reuse of prompts', options: { prefixCacheN: 0 } },
  { name: 'in a cache that holds little more than one sequence', cramped: true },
];

describe.each(devices)('$device', ({ device, blockSize }) => {
  const opened: Model[] = [];
  afterEach(async () => {
    for (const model of opened.splice(0)) await model.dispose();
  });

  async function load(name: string, options: LoadOptions = {}, positions?: number): Promise<Model> {
    const memory =
      positions === undefined ? {} : { memory: { contextSize: Math.ceil(positions / blockSize) * blockSize } };
    const settings = { device, threads: 1, pagedAttn: { blockSize, ...memory }, ...options } as const;
    const model = await loadModel(fileURLToPath(new URL(name, fixtures)), settings);
    opened.push(model);
    return model;
  }

  describe('factors that switch at a length (phi3_longrope, 40)', () => {
    let alone: Model;
    let source: readonly number[];
    const expected: Expected[] = [];
    beforeAll(async () => {
      const [{ ids }] = (await readPrompts(new URL('phi3_longrope/', fixtures))) as [Prompt];
      source = [...ids];
      alone = await load('phi3_longrope');
      opened.length = 0;
      // Answers end before, at and beyond the limit; the last prompt begins beyond it.
      for (const n of [20, 33, 39, 40, 41]) expected.push(await uncached(alone, source.slice(0, n)));
    });
    afterAll(() => alone?.dispose());

    it.each(ways)('answers that grow beyond it: $name', async ({ options, cramped }) => {
      const model = await load('phi3_longrope', options, cramped ? 60 : undefined);
      const answers = await Promise.all(
        expected.map(({ prompt }) =>
          model.complete(prompt, { sampling: { ...sampling, topNLogprobs: 8 }, logprobs: true }),
        ),
      );
      for (const [i, { choices }] of answers.entries()) {
        expect([...choices[0]!.tokenIds]).toEqual(expected[i]!.ids);
        for (const [k, entry] of choices[0]!.logprobs!.content.entries()) {
          const all = logprobs(expected[i]!.rows[k]!);
          for (const top of entry.topLogprobs) expect(Math.abs(top.logprob - all[top.token]!)).toBeLessThan(TOLERANCE);
        }
      }
      const { blocksUsed, preemptions } = model.engineStats();
      expect(blocksUsed).toBe(0);
      // Two large blocks hold one sequence and no beginning of another.
      if (device === 'reference') expect(preemptions > 0).toBe(cramped === true);
    });

    it('a conversation that grows beyond it, turn by turn', async () => {
      const model = await load('phi3_longrope');
      const history = source.slice(0, 17);
      for (let turn = 0; turn < 4; turn++) {
        const { choices } = await model.complete(history, { sampling });
        const { ids } = await uncached(alone, history);
        expect([...choices[0]!.tokenIds]).toEqual(ids);
        history.push(...ids, 3 + turn);
      }
      expect(model.engineStats().prefixHits).toBeGreaterThan(1);
    });
  });

  /** The reference implementation leaves cached keys as they were rotated: its tokens are those of a run with cache. */
  describe('a base that grows with the length (llama_dynamic, 16)', () => {
    it.each(ways)('$name', async ({ options, cramped }) => {
      const model = await load('llama_dynamic', options, cramped ? CONTEXT : undefined);
      expect(model.maxSequenceLength()).toBe(CONTEXT);
      const prompts = await readPrompts(new URL('llama_dynamic/', fixtures));
      for (let round = 0; round < 2; round++) {
        const answers = await Promise.all([...prompts, ...prompts].map((p) => model.complete(p.ids, { sampling })));
        for (const [i, { choices }] of answers.entries()) {
          const { ids, greedy } = prompts[i % prompts.length]!;
          expect([...choices[0]!.tokenIds]).toEqual([...greedy].slice(0, CONTEXT - ids.length));
        }
      }
      for (const p of prompts) {
        const { logitsChunks } = await model.sendRawTokens(p.ids);
        const rows = await Promise.all(logitsChunks.map((t) => t.toFloat32Array()));
        expect(furthest(Float32Array.from(rows.flatMap((r) => [...r])), p.logits)).toBeLessThan(TOLERANCE);
      }
    });
  });
});
