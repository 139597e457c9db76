/** Quantization at load and again on the GPU, or on a processor that plays one: against the reference back-end. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type LoadOptions, loadModel } from '../../src/index.ts';
import { readCimatrix } from '../../src/quant/cimatrix.ts';
import { logitsOf, relativeError, SMALL, temporaryFolder, writeModel } from '../isq/models.ts';
import { openWebGpu } from './support.ts';

const backend = await openWebGpu();
const missing = typeof backend === 'string' ? backend : undefined;
if (typeof backend !== 'string') await backend.dispose();
if (missing !== undefined) console.warn(`quantization on webgpu: skipped: ${missing}`);

describe.skipIf(missing !== undefined)(missing === undefined ? 'quantization on webgpu' : `webgpu: ${missing}`, () => {
  const dense = writeModel({ ...SMALL, layers: 2 });
  const sparse = writeModel({ ...SMALL, experts: 3 });
  const load = (at: string, device: 'webgpu' | 'reference', isq: LoadOptions['isq']) =>
    loadModel(at, { device, isq, strict: true, pagedAttn: { cacheType: 'f32' } });
  const wanted = async (at: string, isq: string) => {
    const model = await load(at, 'reference', isq);
    const logits = await logitsOf(model);
    const report = model.quantReport();
    await model.dispose();
    return { logits, report };
  };

  it.each([
    ...['Q4_0', 'Q4_1', 'Q5_0', 'Q5_1', 'Q8_0', 'Q8_1', 'Q2K', 'Q3K', 'Q4K', 'Q5K', 'Q6K', 'Q8K'],
    ...['AFQ2', 'AFQ4', 'AFQ8', 'HQQ4', 'HQQ8', 'F8E4M3', 'F8Q8', 'MXFP4', 'IQ4_NL', 'IQ4_XS'],
  ])('%s: logits and report are those of the reference', async (isq) => {
    const { logits, report } = await wanted(dense, isq);
    const model = await load(dense, 'webgpu', isq);
    expect(relativeError(await logitsOf(model), logits)).toBeLessThan(1e-3);
    expect(model.quantReport().layers).toEqual(report.layers);
    await model.dispose();
  });

  it.each(['Q4K', 'AFQ4'])('experts as %s', async (isq) => {
    const { logits } = await wanted(sparse, isq);
    const model = await load(sparse, 'webgpu', isq);
    expect(relativeError(await logitsOf(model), logits)).toBeLessThan(1e-3);
    await model.dispose();
  });

  it('again while the model answers: no request fails, and memory comes back', async () => {
    const model = await load(dense, 'webgpu', 'Q8_0');
    const held = model.memory().persistent;
    const prompt = Array.from({ length: 40 }, (_, i) => (i * 7) % 96);
    const answer = () => model.complete(prompt, { sampling: { maxLen: 8, temperature: 0, ignoreEos: true } });
    const running = [answer(), answer()];
    const swap = model.reIsqModel('Q3K');
    running.push(answer());
    for (const { choices } of await Promise.all(running)) expect(choices[0]?.finishReason).toBe('length');
    await swap;
    expect(relativeError(await logitsOf(model), (await wanted(dense, 'Q3K')).logits)).toBeLessThan(1e-3);
    await model.reIsqModel('Q8_0');
    expect(relativeError(await logitsOf(model), (await wanted(dense, 'Q8_0')).logits)).toBeLessThan(1e-3);
    expect(model.memory().persistent).toBe(held);
    await model.dispose();
  });

  it.each([
    ['dense', dense],
    ['experts', sparse],
  ])('calibrated on traffic as on the reference, while requests run: %s', async (_name, folder) => {
    const ids = (n: number, seed = 7) => Array.from({ length: n }, (_, i) => (i * seed + 3) % 96);
    const calibrated = async (device: 'webgpu' | 'reference') => {
      const model = await load(folder, device, 'Q2K');
      const held = model.memory().persistent;
      await model.beginCalibration();
      for (const prompt of [ids(45), ids(1), ids(20, 5)]) await model.sendRawTokens(prompt);
      const saveCimatrix = join(temporaryFolder(), 'traffic.cimatrix');
      const applying = model.applyCalibration({ saveCimatrix });
      const late = [12, 30].map((maxLen) =>
        model.complete(ids(40), { sampling: { maxLen, temperature: 0, ignoreEos: true } }),
      );
      const [status, ...answers] = await Promise.all([applying, ...late]);
      expect(answers.map((a) => a.choices[0]?.tokenIds.length)).toEqual([12, 30]);
      const logits = await logitsOf(model);
      expect(model.memory().persistent).toBe(held);
      await model.dispose();
      return { status, logits, found: await readCimatrix(new Uint8Array(readFileSync(saveCimatrix))) };
    };
    const [got, want] = [await calibrated('webgpu'), await calibrated('reference')];
    expect(got.status).toEqual(want.status);
    expect([...got.found.keys()]).toEqual([...want.found.keys()]);
    for (const [module, values] of want.found) {
      expect(relativeError(got.found.get(module)!, values)).toBeLessThan(1e-4);
    }
    // A code may fall to the other side where importances differ in the last bits.
    expect(relativeError(got.logits, want.logits)).toBeLessThan(0.02);
  });
});
