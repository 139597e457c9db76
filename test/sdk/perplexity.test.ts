/** Perplexity of texts under small real models, against the stored logits of the reference implementation. */
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { AbortError, ConfigError, InferenceError, ShapeError } from '../../src/core/errors.ts';
import { crossEntropy, Divergence } from '../../src/core/sdk/divergence.ts';
import { measurePerplexity } from '../../src/core/sdk/perplexity.ts';
import type { Model } from '../../src/index.ts';
import { loadModel } from '../../src/index.ts';
import { readPrompts } from '../models/harness.ts';
import { fakeModel, type ScriptRunner } from './fakes.ts';

const folder = new URL('../fixtures/models/gguf_llama_f16/', import.meta.url);
const load = (name: string) =>
  loadModel(fileURLToPath(new URL(`../fixtures/models/${name}`, import.meta.url)), {
    device: 'reference',
    maxBatchTokens: 7,
  });

let model: Model;
let coarse: Model;
beforeAll(async () => {
  model = await load('gguf_llama_f16/model.gguf');
  coarse = await loadModel(fileURLToPath(new URL('model.gguf', folder)), { device: 'reference', isq: 'Q8_0' });
});
afterAll(async () => {
  await model.dispose();
  await coarse.dispose();
});

const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;

/** Rows of a window, computed apart. */
async function rowsOf(m: Model, ids: readonly number[]): Promise<Float32Array[]> {
  const { vocabSize } = m.config();
  const { logitsChunks } = await m.sendRawTokens(ids);
  const flat = (await Promise.all(logitsChunks.map((t) => t.toFloat32Array()))).flatMap((t) => [...t]);
  return ids.map((_, i) => Float32Array.from(flat.slice(i * vocabSize, (i + 1) * vocabSize)));
}

const text = (length: number, vocab: number) => Array.from({ length }, (_, i) => (i * i * 7 + 3 * i + 5) % vocab);

describe('perplexity', () => {
  it('is that of the stored logits', async () => {
    const { vocabSize } = model.config();
    for (const { ids, logits } of await readPrompts(folder)) {
      const wanted = Array.from({ length: ids.length - 1 }, (_, i) =>
        crossEntropy(logits.subarray(i * vocabSize, (i + 1) * vocabSize), ids[i + 1]!),
      );
      const { loss, count, perplexity } = await measurePerplexity(model, ids, { chunk: ids.length });
      expect(count).toBe(ids.length - 1);
      expect(loss).toBeCloseTo(mean(wanted), 4);
      expect(perplexity).toBe(Math.exp(loss));
    }
  });

  it.each([
    {
      chunk: 10,
      stride: 10,
      prefix: [1],
      windows: [
        [0, 0],
        [10, 0],
        [20, 0],
      ],
    },
    {
      chunk: 10,
      stride: 10,
      prefix: [],
      windows: [
        [0, 1],
        [10, 1],
        [20, 1],
      ],
    },
    {
      chunk: 10,
      stride: 4,
      prefix: [1, 2],
      windows: [
        [0, 0],
        [4, 6],
        [8, 6],
        [12, 6],
        [16, 6],
      ],
    },
    {
      chunk: 24,
      stride: 1,
      prefix: [],
      windows: [
        [0, 1],
        [1, 23],
      ],
    },
  ])('over windows of $chunk every $stride with $prefix.length tokens before them', async (c) => {
    const ids = text(25, model.config().vocabSize);
    const losses: number[][] = [];
    for (const [start, skip] of c.windows as [number, number][]) {
      const window = [...c.prefix, ...ids.slice(start, start + c.chunk)];
      const rows = await rowsOf(model, window);
      const own = window.map((id, i) => (i === 0 ? 0 : crossEntropy(rows[i - 1]!, id)));
      losses.push(own.slice(c.prefix.length + skip));
    }
    const seen: number[] = [];
    const report = await measurePerplexity(model, ids, { ...c, onWindow: (_, done, all) => seen.push(done / all) });
    expect(report.count).toBe(losses.flat().length);
    expect(report.loss).toBeCloseTo(mean(losses.flat()), 9);
    expect(report.windows.map((w) => w.count)).toEqual(losses.map((l) => l.length));
    report.windows.forEach((w, i) => void expect(w.perplexity).toBeCloseTo(Math.exp(mean(losses[i]!)), 6));
    expect(seen).toEqual(losses.map((_, i) => (i + 1) / losses.length));
    expect(report.tokensPerSecond).toBeGreaterThan(0);
  });

  it('stops after some windows', async () => {
    const ids = text(25, model.config().vocabSize);
    const { windows } = await measurePerplexity(model, ids, { chunk: 5, maxWindows: 2 });
    expect(windows.map((w) => w.count)).toEqual([4, 4]);
  });

  it('takes the whole context of a model', async () => {
    const { model: small } = fakeModel((h) => h.at(-1)!, { context: 16 });
    const { windows, count } = await measurePerplexity(small, text(40, 200), { prefix: [1] });
    expect(windows.map((w) => w.count)).toEqual([15, 15, 10]);
    expect(count).toBe(40);
    await expect(measurePerplexity(small, text(40, 200), { prefix: [1], chunk: 16 })).rejects.toThrow(ConfigError);
    await small.dispose();
  });

  it.each([{ chunk: 0 }, { chunk: 1 }, { chunk: 2.5 }, { chunk: 8, stride: 9 }, { stride: 0 }, { maxWindows: 0 }])(
    'refuses %j',
    async (options) => {
      await expect(measurePerplexity(model, text(25, 60), options)).rejects.toThrow(ConfigError);
    },
  );

  it('refuses texts without a token to foretell, and stops when told to', async () => {
    await expect(measurePerplexity(model, [])).rejects.toThrow(ConfigError);
    await expect(measurePerplexity(model, [3])).rejects.toThrow(ConfigError);
    expect((await measurePerplexity(model, [3], { prefix: [1] })).count).toBe(1);
    await expect(measurePerplexity(model, [3, 4], { signal: AbortSignal.abort() })).rejects.toThrow(AbortError);
  });
});

describe('divergence from a reference model', () => {
  it('is that of the rows of both', async () => {
    const ids = text(25, model.config().vocabSize);
    const wanted = new Divergence();
    for (const start of [0, 10, 20]) {
      const window = [1, ...ids.slice(start, start + 10)];
      const [own, other] = [await rowsOf(coarse, window), await rowsOf(model, window)];
      for (let i = 1; i < window.length; i++) wanted.add(other[i - 1]!, own[i - 1]!, window[i]);
    }
    const report = await measurePerplexity(coarse, ids, { chunk: 10, prefix: [1], reference: model });
    expect(report.divergence).toEqual(wanted.summary());
    expect(report.divergence!.mean).toBeGreaterThan(0);
    const alone = await measurePerplexity(model, ids, { chunk: 10, prefix: [1] });
    expect(report.reference!.loss).toBeCloseTo(alone.loss, 9);
    expect(report.reference!.count).toBe(report.count);
    expect(alone.divergence).toBeUndefined();
  });

  it('of a model from itself is none', async () => {
    const { divergence } = await measurePerplexity(model, text(12, 60), { reference: model });
    expect(divergence).toMatchObject({ mean: 0, median: 0, p99: 0, max: 0, sameTop: 1, rmsDeltaP: 0, count: 11 });
  });

  it('needs one vocabulary', async () => {
    const other = await load('gemma2_plain');
    expect(other.config().vocabSize).not.toBe(model.config().vocabSize);
    await expect(measurePerplexity(other, text(12, 60), { reference: model })).rejects.toThrow(ShapeError);
    await other.dispose();
  });
});

it('logits that are not numbers are an error', async () => {
  const { model: broken, runner } = fakeModel((h) => h.at(-1)!);
  const forward = runner.forward.bind(runner);
  runner.forward = async (batch): ReturnType<ScriptRunner['forward']> => (await forward(batch)).fill(Number.NaN);
  await expect(measurePerplexity(broken, text(12, 60))).rejects.toThrow(InferenceError);
  await broken.dispose();
});
