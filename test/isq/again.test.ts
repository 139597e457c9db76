import { describe, expect, it } from 'vitest';
import { AbortError, ConfigError, loadModel, ManagementError } from '../../src/index.ts';
import { damage, logitsOf, relativeError, SMALL, writeModel } from './models.ts';

const folder = writeModel(SMALL);
const cache = { pagedAttn: { cacheType: 'f32' } } as const;

describe.each(['reference', 'cpu'] as const)('quantizing again on %s', (device) => {
  const load = (isq: string, at = folder) => loadModel(at, { device, threads: 1, isq, ...cache });

  it('gives what loading with that type gives, from the checkpoint', async () => {
    const model = await load('Q2K');
    const rough = await logitsOf(model);
    const before = model.memory().persistent;
    await model.reIsqModel('Q8_0');
    const fine = await logitsOf(model);
    expect(model.quantReport().default).toBe('Q8_0');
    const fresh = await load('Q8_0');
    expect(fine).toEqual(await logitsOf(fresh));
    expect(relativeError(rough, fine)).toBeGreaterThan(0.01);
    await model.reIsqModel(2);
    expect(await logitsOf(model)).toEqual(rough);
    expect(model.memory().persistent).toBe(before);
    await Promise.all([model.dispose(), fresh.dispose()]);
  });

  it('fails no request that comes meanwhile, and forgets earlier prompts', async () => {
    const model = await load('Q8_0');
    const ids = Array.from({ length: 70 }, (_, i) => (i * 7) % 96);
    const answer = () => model.complete(ids, { sampling: { maxLen: 12, temperature: 0 } });
    const first = await logitsOf(model, ids);
    const before = await answer();
    const running = [answer(), answer()];
    const swap = model.reIsqModel('Q2K');
    running.push(answer(), answer());
    const results = await Promise.all(running);
    await swap;
    // Those that came first are finished with the weights they began with.
    for (const { choices } of results.slice(0, 2)) expect(choices[0]?.tokenIds).toEqual(before.choices[0]?.tokenIds);
    expect(results.every((r) => r.choices[0]?.finishReason !== undefined)).toBe(true);
    const fresh = await load('Q2K');
    const wanted = await logitsOf(fresh, ids);
    expect(await logitsOf(model, ids)).toEqual(wanted);
    expect(relativeError(first, wanted)).toBeGreaterThan(0.01);
    await Promise.all([model.dispose(), fresh.dispose()]);
  });

  it('leaves the model as it was when it fails', async () => {
    const own = writeModel(SMALL);
    const model = await load('Q4K', own);
    const before = await logitsOf(model);
    const held = model.memory().persistent;
    await expect(model.reIsqModel('Q9')).rejects.toThrow(ConfigError);
    const signal = AbortSignal.abort();
    await expect(model.reIsqModel('Q8_0', { signal })).rejects.toThrow(AbortError);
    damage(own, 'model.layers.0.mlp.up_proj.weight');
    await expect(model.reIsqModel('Q8_0')).rejects.toThrow(/up_proj.*NaN/);
    expect(await logitsOf(model)).toEqual(before);
    expect(model.quantReport().default).toBe('Q4K');
    expect(model.memory().persistent).toBe(held);
    await model.dispose();
  });

  it('runs once at a time', async () => {
    const model = await load('Q4K');
    const first = model.reIsqModel('Q8_0');
    await expect(model.reIsqModel('Q2K')).rejects.toThrow(ManagementError);
    await first;
    expect(model.quantReport().default).toBe('Q8_0');
    await model.reIsqModel('Q4_0');
    await model.dispose();
  });
});
