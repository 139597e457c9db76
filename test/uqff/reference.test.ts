import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { readUqff } from '../../src/entry-core.ts';
import { loadModel, UqffTextModelBuilder } from '../../src/index.ts';
import { FakeHub } from '../io/fakeHub.ts';
import { relativeError, temporaryFolder } from '../isq/models.ts';
import { fixtures, llama, logitsAt, tensorsOf, u32, written } from './support.ts';

const TYPES: Readonly<Record<string, readonly string[]>> = {
  llama: [
    ...['q8_0', 'q4_1', 'q4k', 'afq2', 'afq3', 'afq4', 'afq6', 'afq8'],
    ...['hqq4', 'hqq8', 'fp8', 'f8q8', 'mxfp4'],
  ],
  tied: ['q5_0', 'afq4'],
  mixtral: ['q4_0', 'q8_0'],
};
const cases = Object.entries(TYPES).flatMap(([model, types]) => types.map((type) => [model, type] as const));

async function expected(model: string, type: string): Promise<Float32Array> {
  const { data } = (await tensorsOf(join(fixtures, model, 'expected.safetensors'))).get(type)!;
  return new Float32Array((data as Uint8Array).buffer);
}

function difference(a: Float32Array, b: Float32Array): number {
  return a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i]!)), 0);
}

describe('UQFF files of the reference implementation', () => {
  it.each(cases)('%s %s', async (model, type) => {
    const want = await expected(model, type);
    const got = await logitsAt(join(fixtures, model), { fromUqff: type });
    expect(difference(got, want)).toBeLessThan(2e-4);
    const cpu = await logitsAt(join(fixtures, model, `${type}-0.uqff`), { device: 'cpu', threads: 1 });
    expect(relativeError(cpu, want)).toBeLessThan(0.02);
  });

  it('hold what readUqff says', async () => {
    const { version, modules, tensors, metadata } = await readUqff(llama('afq4-0.uqff'));
    expect(version).toEqual({ major: 1, minor: 2, patch: 0 });
    expect(metadata.get('uqff.producer')).toBe('mistral.rs');
    expect(tensors.get('lm_head.weight')?.type.name).toBe('U32');
    const { format, shape, numbers } = modules.get('model.layers.0.mlp.up_proj')!;
    expect([format, shape, numbers.get('bits'), numbers.get('group_size')]).toEqual(['afq', [64, 64], 4, 64]);
    expect((await readUqff(readFileSync(llama('q4k-0.uqff')))).modules.size).toBe(9);
  });

  it('are chosen by file, type and number of bits', async () => {
    const q4k = await logitsAt(llama('q4k-0.uqff'));
    for (const name of ['4', 'q4k', 'Q4_K', 'q4k-0.uqff']) {
      expect(await logitsAt(join(fixtures, 'llama'), { fromUqff: name }), name).toEqual(q4k);
    }
    expect(await logitsAt(join(fixtures, 'llama'), { files: ['q4k-0.uqff'] })).toEqual(q4k);
    expect(await logitsAt(join(fixtures, 'llama'), { fromUqff: 'F8E4M3' })).toEqual(
      await logitsAt(llama('fp8-0.uqff')),
    );
    const model = await new UqffTextModelBuilder(join(fixtures, 'llama'), ['afq4']).withDevice('reference').build();
    expect(model.config().hasTokenizer).toBe(false);
    await model.dispose();
    await expect(loadModel(join(fixtures, 'llama'))).rejects.toThrow(
      /expected one set of UQFF files, got several.*afq2-0/s,
    );
    await expect(loadModel(join(fixtures, 'llama'), { fromUqff: 'q3k' })).rejects.toThrow(/"q3k", found none.*afq2-0/s);
    expect(() => new UqffTextModelBuilder('m', [])).toThrow(/names of UQFF files/);
  });

  it('are loaded out of a hub repository, and nothing else is', async () => {
    const hub = await new FakeHub().start();
    const names = ['config.json', 'residual.safetensors', 'afq4-0.uqff', 'q4k-0.uqff', 'uqff_report.json'];
    const [quant, shards] = ['Mine', ['q4k-0.uqff']];
    const outputs = [{ quant, shards, layers: 9, actual_counts: { q4_1: 9 }, fallback_count: 9 }];
    const report = { schema: 1, generated_by: { tool: 't' }, uqff_version: '1.2.0', outputs };
    const bytesOf = (name: string) =>
      name === 'uqff_report.json' ? new TextEncoder().encode(JSON.stringify(report)) : readFileSync(llama(name));
    hub.files = Object.fromEntries(names.map((name) => [name, { data: bytesOf(name) }]));
    try {
      const cache = { hfEndpoint: hub.endpoint, hfCachePath: temporaryFolder(), tokenSource: 'none' };
      expect(await logitsAt(hub.id, { ...cache, fromUqff: 'mine' })).toEqual(await logitsAt(llama('q4k-0.uqff')));
      expect(hub.requests.some((r) => r.includes('q4k-0.uqff'))).toBe(true);
      expect(hub.requests.some((r) => r.includes('resolve') && r.includes('afq4'))).toBe(false);
    } finally {
      hub.stop();
    }
  });

  it('of version 1.1 and 1.0 keep tables dense beside a quantized output matrix', async () => {
    const folder = temporaryFolder();
    cpSync(join(fixtures, 'tied'), folder, { recursive: true });
    const file = join(folder, 'q5_0-0.uqff');
    const all = await tensorsOf(file);
    for (const [name, data] of [...all]) {
      if (!name.startsWith('model.embed_tokens')) continue;
      all.delete(name);
      all.set(name.replace('model.embed_tokens', 'lm_head'), data);
    }
    rmSync(join(folder, 'afq4-0.uqff'));
    for (const minor of [1, 0]) {
      all.set('uqff.version.minor', u32(minor));
      writeFileSync(file, written(all));
      // Without a table of its own, the output matrix is the table.
      expect(difference(await logitsAt(folder), await expected('tied', 'q5_0'))).toBeLessThan(2e-4);
      // A table of zeros makes all logits zero.
      const rest = await tensorsOf(join(fixtures, 'tied', 'residual.safetensors'));
      rest.set('model.embed_tokens.weight', { type: 'F32', shape: [48, 64], data: new Float32Array(48 * 64) });
      writeFileSync(join(folder, 'residual.safetensors'), written(rest));
      expect((await logitsAt(folder)).every((x) => x === 0)).toBe(true);
      cpSync(join(fixtures, 'tied', 'residual.safetensors'), join(folder, 'residual.safetensors'));
    }
  });
});
