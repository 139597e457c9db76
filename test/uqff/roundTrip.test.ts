import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ISQ_TYPES, loadModel, writeUqff } from '../../src/index.ts';
import { logitsOf, matricesOf, SMALL, type Spec, temporaryFolder, writeModel } from '../isq/models.ts';

const fixture = (name: string) => new URL(`../fixtures/models/${name}`, import.meta.url).pathname;
const IDS = [3, 17, 5, 40, 41, 2, 9, 30];

async function logitsAt(path: string, options = {}): Promise<Float32Array> {
  const model = await loadModel(path, { device: 'reference', pagedAttn: { cacheType: 'f32' }, ...options });
  try {
    return await logitsOf(model, IDS);
  } finally {
    await model.dispose();
  }
}

const SPECS: readonly (readonly [string, Spec])[] = [
  ['Llama', SMALL],
  ['tied Llama', { ...SMALL, tied: true, vocab: 95 }],
  ['Mixtral', { ...SMALL, experts: 3, inner: 256 }],
];

describe.each(SPECS)('%s as UQFF files', (_name, spec) => {
  const folder = writeModel(spec, matricesOf(spec, 7));

  it.each(ISQ_TYPES)('of %s computes exactly what quantizing at load does', async (isq) => {
    const out = join(temporaryFolder(), 'out.uqff');
    await writeUqff(folder, out, { types: [isq] });
    expect(existsSync(out.replace('.uqff', '-0.uqff'))).toBe(true);
    const expected = await logitsAt(folder, { isq });
    expect(await logitsAt(out.replace('.uqff', '-0.uqff'))).toEqual(expected);
  });
});

describe('architectures as UQFF files', () => {
  it.each([
    'qwen2',
    'qwen3_moe',
    'gpt2',
    'gpt_oss',
    'gpt_oss_mxfp4',
    'deepseek_v2',
    'falcon_h1',
    'lfm2_moe',
    'granitemoehybrid',
    'gemma4_text_moe',
    'phi3',
  ])('%s', async (name) => {
    if (!existsSync(fixture(name))) return;
    for (const isq of ['Q8_0', 'HQQ4']) {
      const out = join(temporaryFolder(), 'out.uqff');
      await writeUqff(fixture(name), out, { types: [isq] });
      expect(await logitsAt(out.replace('.uqff', '-0.uqff')), isq).toEqual(await logitsAt(fixture(name), { isq }));
    }
  });
});
