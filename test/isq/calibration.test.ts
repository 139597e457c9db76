import { existsSync, readFileSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Mean, rowDivergence } from '../../src/core/sdk/divergence.ts';
import type { Model } from '../../src/index.ts';
import {
  ConfigError,
  InferenceError,
  type LoadOptions,
  loadModel,
  ManagementError,
  UnsupportedError,
} from '../../src/index.ts';
import { readCimatrix } from '../../src/quant/cimatrix.ts';
import { dequantize, quantize } from '../../src/quant/rows.ts';
import {
  damage,
  firstInputs,
  logitsOf,
  matricesOf,
  PROMPT,
  relativeError,
  SMALL,
  type Spec,
  temporaryFolder,
  writeModel,
} from './models.ts';

const TWO: Spec = { ...SMALL, layers: 2 };
const SPARSE: Spec = { ...SMALL, experts: 4 };
const cache = { pagedAttn: { cacheType: 'f32' } } as const;
const ids = (n: number, seed = 7) => Array.from({ length: n }, (_, i) => (i * seed + 3) % 96);

const fileIn = (folder: string) => join(folder, 'model.safetensors');
const cimatrix = () => join(temporaryFolder(), 'traffic.cimatrix');
const read = async (path: string) => readCimatrix(new Uint8Array(readFileSync(path)));

async function answer(model: Model, prompt: readonly number[], maxLen = 12): Promise<readonly number[]> {
  const tokens: number[] = [];
  for await (const chunk of model.streamComplete(prompt, { sampling: { maxLen, temperature: 0 } })) {
    tokens.push(...(chunk.choices[0]?.tokenIds ?? []));
  }
  return tokens;
}

describe.each(['reference', 'cpu'] as const)('calibration on %s', (device) => {
  const load = (folder: string, options: LoadOptions = {}) =>
    loadModel(folder, { device, threads: 1, isq: 'Q2K', ...cache, ...options });

  it('counts rows of prompts and answers, and begins anew when it is begun again', async () => {
    const model = await load(writeModel(TWO));
    const before = model.memory().persistent;
    const off = { collecting: false, layers: 15, layersTracking: 0, totalRows: 0, minRows: 0, maxRows: 0 };
    expect(await model.calibrationStatus()).toEqual(off);
    expect(await model.beginCalibration()).toEqual({ ...off, collecting: true, layersTracking: 15 });
    expect(model.memory().persistent).toBeGreaterThan(before);
    await model.sendRawTokens(ids(20));
    expect(await model.calibrationStatus()).toMatchObject({ totalRows: 15 * 20, minRows: 20, maxRows: 20 });
    await model.complete(ids(9), { sampling: { maxLen: 5, temperature: 0 } });
    // The last layer and the output matrix work on the rows whose logits are wanted.
    const status = await model.calibrationStatus({ perLayer: true });
    expect(status).toMatchObject({ minRows: 25, maxRows: 33 });
    expect(status.perLayer?.find((l) => l.module === 'model.layers.0.mlp.up_proj')?.rows).toBe(33);
    expect(status.perLayer?.find((l) => l.module === 'lm_head')?.rows).toBe(25);
    expect(await model.beginCalibration()).toMatchObject({ collecting: true, layersTracking: 15, totalRows: 0 });
    await model.sendRawTokens(ids(3));
    expect(await model.applyCalibration({ minRows: 4 })).toMatchObject({
      ...{ collecting: true, totalRows: 45 },
      thinLayers: expect.arrayContaining(['lm_head', 'model.layers.1.self_attn.q_proj']),
    });
    expect(await model.calibrationStatus()).toEqual(off);
    expect(model.memory().persistent).toBe(before);
    await model.dispose();
  });

  it('writes means of squares times the number of calls', async () => {
    const matrices = matricesOf(TWO);
    const model = await load(writeModel(TWO, matrices));
    await model.beginCalibration();
    const prompts = [ids(20), ids(37, 5)];
    for (const prompt of prompts) await model.sendRawTokens(prompt);
    const path = cimatrix();
    await model.applyCalibration({ saveCimatrix: path });
    await model.dispose();
    const found = await read(path);
    expect(found.size).toBe(15);
    const { data } = matrices.get('model.embed_tokens.weight')!;
    const table = dequantize('Q6_K', quantize('Q6_K', data, 256), 256);
    const want = firstInputs(matrices, table, prompts.flat());
    for (const part of ['q', 'k', 'v']) {
      const got = found.get(`model.layers.0.self_attn.${part}_proj`)!;
      for (let c = 0; c < 256; c++) expect(Math.abs(got[c]! / (2 * want[c]!) - 1)).toBeLessThan(1e-5);
    }
  });

  it.each([
    ['dense', TWO],
    ['experts', SPARSE],
  ])('gives the weights that loading with its file gives: %s', async (_name, spec) => {
    const folder = writeModel(spec);
    for (const isq of device === 'cpu' ? ['Q2K', 'Q3K', 'Q4K'] : ['Q2K']) {
      const model = await load(folder, { isq });
      const plain = await logitsOf(model);
      await model.beginCalibration();
      await Promise.all([answer(model, ids(40)), answer(model, ids(30, 11))]);
      const path = cimatrix();
      await model.applyCalibration({ saveCimatrix: path });
      const calibrated = await logitsOf(model);
      const fresh = await load(folder, { isq, imatrix: path });
      expect(calibrated).toEqual(await logitsOf(fresh));
      expect(relativeError(calibrated, plain)).toBeGreaterThan(0.001);
      await Promise.all([model.dispose(), fresh.dispose()]);
    }
  });

  it('has zeros for experts that no row came to, and quantizes them all the same', async () => {
    const model = await load(writeModel(SPARSE));
    await model.beginCalibration();
    await model.sendRawTokens([5]);
    const path = cimatrix();
    const status = await model.applyCalibration({ saveCimatrix: path });
    expect([status.minRows, status.maxRows]).toEqual([1, 2]);
    const gate = (await read(path)).get('model.layers.0.block_sparse_moe.experts.gate_proj')!;
    expect(gate.length).toBe(4 * 256);
    const used = [0, 1, 2, 3].filter((e) => gate.slice(e * 256, (e + 1) * 256).some((v) => v > 0));
    expect(used.length).toBe(2);
    expect((await logitsOf(model)).every(Number.isFinite)).toBe(true);
    await model.dispose();
  });

  it('fails no request that runs meanwhile, and shares nothing with those that began before', async () => {
    const folder = writeModel(TWO);
    const model = await load(folder);
    const held = model.memory().persistent;
    const prompt = ids(70);
    const alone = await answer(model, prompt);
    await model.beginCalibration();
    const path = cimatrix();
    const early = [answer(model, prompt), answer(model, ids(50, 3))];
    const applied = model.applyCalibration({ saveCimatrix: path });
    const late = [10, 30].map((n, i) => answer(model, [i, ...prompt], n));
    const [status, before, after] = await Promise.all([applied, Promise.all(early), Promise.all(late)]);
    // Requests before it had ended: their tokens are those of the old weights, and all their rows were seen.
    expect(before[0]).toEqual(alone);
    // Two blocks of the prompt were computed before.
    expect(status.maxRows).toBe(6 + 11 + 50 + 11);
    expect(after.map((t) => t.length)).toEqual([10, 30]);
    const fresh = await load(folder, { imatrix: path });
    expect(await answer(model, prompt)).toEqual(await answer(fresh, prompt));
    expect(await answer(model, [0, ...prompt])).toEqual(await answer(fresh, [0, ...prompt]));
    expect(await logitsOf(model)).toEqual(await logitsOf(fresh));
    expect(model.memory().persistent).toBe(held);
    expect(model.engineStats().blocksUsed).toBe(0);
    await Promise.all([model.dispose(), fresh.dispose()]);
  });

  it('keeps the weights of layers that fail, and says how many', async () => {
    const folder = writeModel(TWO);
    const model = await load(folder);
    await model.beginCalibration();
    await model.sendRawTokens(ids(30));
    damage(folder, 'model.layers.1.mlp.up_proj.weight');
    const error = await model.applyCalibration().catch((e: unknown) => e);
    expect(error).toBeInstanceOf(InferenceError);
    expect((error as Error).message).toMatch(/2 of 15 layers failed.*mlp\.(gate|up)_proj.*NaN/);
    expect(await model.calibrationStatus()).toMatchObject({ collecting: false });
    expect((await logitsOf(model)).every(Number.isFinite)).toBe(true);
    await model.dispose();
  });

  it('takes the present weights where the files are gone, and says so', async () => {
    const folder = writeModel(TWO);
    const lines: string[] = [];
    const model = await load(folder, { isq: 'Q8_0', logging: (level, m) => level === 'warn' && lines.push(m) });
    const before = await logitsOf(model);
    truncateSync(fileIn(folder), 100);
    await model.reIsqModel('Q4K');
    expect(lines.at(-1)).toMatch(/reIsqModel: \d+ matrices .* present/);
    expect(relativeError(await logitsOf(model), before)).toBeLessThan(0.5);
    expect(model.quantReport().default).toBe('Q4K');
    await model.beginCalibration();
    await model.sendRawTokens(ids(30));
    await model.applyCalibration();
    expect(lines.at(-1)).toMatch(/applyCalibration: 9 matrices .* present/);
    expect(relativeError(await logitsOf(model), before)).toBeLessThan(0.5);
    await model.dispose();
  });
});

describe('calibration', () => {
  const folder = writeModel(SMALL);
  const load = (options: LoadOptions = {}) =>
    loadModel(folder, { device: 'reference', isq: 'Q2K', ...cache, ...options });

  it('needs quantized weights, a beginning and rows', async () => {
    const stored = await load({ isq: undefined });
    await expect(stored.beginCalibration()).rejects.toThrow(UnsupportedError);
    await expect(stored.calibrationStatus()).rejects.toThrow(UnsupportedError);
    await expect(stored.applyCalibration()).rejects.toThrow(UnsupportedError);
    await stored.dispose();
    const model = await load();
    await expect(model.applyCalibration()).rejects.toThrow(/beginCalibration first/);
    // Not even wrong options come before that.
    await expect(model.applyCalibration({ saveCimatrix: 'x.bin' })).rejects.toThrow(InferenceError);
    await model.beginCalibration();
    await expect(model.applyCalibration()).rejects.toThrow(/expected rows/);
    expect(await model.calibrationStatus()).toMatchObject({ collecting: true, totalRows: 0 });
    await model.sendRawTokens(PROMPT);
    const bad = join(temporaryFolder(), 'x.bin');
    await expect(model.applyCalibration({ saveCimatrix: bad })).rejects.toThrow(ConfigError);
    await expect(model.applyCalibration({ minRows: -1 })).rejects.toThrow(ConfigError);
    expect(existsSync(bad)).toBe(false);
    expect(await model.calibrationStatus()).toMatchObject({ collecting: true, maxRows: 8 });
    // A file that cannot be written ends nothing either.
    await expect(model.applyCalibration({ saveCimatrix: '/dev/null/x.cimatrix' })).rejects.toThrow();
    expect(await model.calibrationStatus()).toMatchObject({ collecting: true, maxRows: 8 });
    await model.applyCalibration();
    await model.dispose();
  });

  it.each(['HQQ4', 'HQQ8', 'F8E4M3', 'F8Q8', 'MXFP4'])('%s refuses it', async (isq) => {
    const model = await load({ isq, topology: {} });
    await expect(model.beginCalibration()).rejects.toThrow(UnsupportedError);
    expect(await model.calibrationStatus()).toMatchObject({ collecting: false, layersTracking: 0 });
    await model.sendRawTokens(PROMPT);
    await model.dispose();
  });

  it('keeps cached prompts until weights change', async () => {
    const model = await load();
    const hits = async () => {
      const before = model.engineStats().prefixHits;
      await answer(model, ids(70), 2);
      return model.engineStats().prefixHits - before;
    };
    expect(await hits()).toBe(0);
    await model.beginCalibration();
    await model.calibrationStatus();
    expect(await hits()).toBe(2);
    await model.sendRawTokens(PROMPT);
    await model.applyCalibration();
    expect(await hits()).toBe(0);
    expect(await hits()).toBe(2);
    await model.dispose();
  });

  it.each(['Q2K', 'Q3K'])('brings %s nearer to full precision, on other text', async (isq) => {
    const matrices = matricesOf(TWO);
    for (const [name, { shape, data }] of matrices) {
      // Columns that matter more than others, as in trained models.
      const change = shape.length === 1 ? (v: number) => Math.exp(12 * (v - 1)) : (v: number) => v;
      data.set(data.map(name === 'lm_head.weight' ? (v) => v / 4 : change));
    }
    const uneven = writeModel(TWO, matrices);
    const exact = await loadModel(uneven, { device: 'reference', dtype: 'f32', ...cache });
    const want = await logitsOf(exact, ids(90, 13));
    const model = await loadModel(uneven, { device: 'cpu', threads: 1, isq, ...cache });
    const divergence = async () => {
      const got = await logitsOf(model, ids(90, 13));
      const mean = new Mean();
      for (let at = 0; at < want.length; at += 96) {
        mean.add(rowDivergence(want.subarray(at, at + 96), got.subarray(at, at + 96)).kl);
      }
      return mean.mean;
    };
    const before = await divergence();
    await model.beginCalibration();
    await model.sendRawTokens(ids(200, 31));
    await model.applyCalibration();
    expect(await divergence()).toBeLessThan(0.9 * before);
    await Promise.all([model.dispose(), exact.dispose()]);
  });

  it('leaves types without importance as they are', async () => {
    for (const isq of ['Q8_0', 'Q8K', 'AFQ4']) {
      const model = await load({ isq });
      const before = await logitsOf(model);
      await model.beginCalibration();
      await model.sendRawTokens(PROMPT);
      await model.applyCalibration();
      expect(await logitsOf(model)).toEqual(before);
      await model.dispose();
    }
  });

  it('keeps pins and promotions, and follows reIsqModel', async () => {
    const model = await load({ topology: { '/down_proj/': { isq: 'Q5K' } } });
    await model.reIsqModel('Q3K');
    await model.beginCalibration();
    await model.sendRawTokens(ids(40));
    const path = cimatrix();
    await model.applyCalibration({ saveCimatrix: path });
    const stored = new Map(model.quantReport().layers.map((l) => [l.module, l.stored]));
    expect(stored.get('model.layers.0.mlp.down_proj')).toBe('Q5K');
    const fresh = await load({ isq: 'Q3K', imatrix: path, topology: { '/down_proj/': { isq: 'Q5K' } } });
    expect(await logitsOf(model)).toEqual(await logitsOf(fresh));
    // Quantizing again goes by what was measured.
    await model.reIsqModel('Q2K');
    const other = await load({ imatrix: path, topology: { '/down_proj/': { isq: 'Q5K' } } });
    expect(await logitsOf(model)).toEqual(await logitsOf(other));
    await Promise.all([model.dispose(), fresh.dispose(), other.dispose()]);
  });

  it('is applied once at a time, and not while the model is quantized again', async () => {
    const model = await load();
    await model.beginCalibration();
    await model.sendRawTokens(PROMPT);
    const applying = model.applyCalibration();
    await expect(model.applyCalibration()).rejects.toThrow(ManagementError);
    await expect(model.reIsqModel('Q4K')).rejects.toThrow(ManagementError);
    await applying;
    const again = model.reIsqModel('Q4K');
    await expect(model.applyCalibration()).rejects.toThrow(ManagementError);
    await again;
    await model.dispose();
  });

  it('ends with the model', async () => {
    const model = await load();
    await model.beginCalibration();
    await model.sendRawTokens(PROMPT);
    const applying = model.applyCalibration();
    applying.catch(() => undefined);
    await model.dispose();
    await expect(applying).rejects.toThrow();
    await expect(model.calibrationStatus()).rejects.toThrow();
  });

  it('calls can be taken back', async () => {
    const model = await load();
    await model.beginCalibration();
    await model.sendRawTokens(PROMPT);
    await expect(model.applyCalibration({}, { signal: AbortSignal.abort() })).rejects.toThrow(/aborted/);
    expect(await model.calibrationStatus()).toMatchObject({ collecting: true });
    await model.dispose();
  });
});
