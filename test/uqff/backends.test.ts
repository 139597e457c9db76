import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ISQ_TYPES, type LoadOptions, loadModel, writeUqff } from '../../src/index.ts';
import { logitsOf, SMALL, temporaryFolder, writeModel } from '../isq/models.ts';
import { openWebGpu } from '../webgpu/support.ts';

const backend = await openWebGpu();
const missing = typeof backend === 'string' ? backend : undefined;
if (typeof backend !== 'string') await backend.dispose();
if (missing !== undefined) console.warn(`UQFF on webgpu: skipped: ${missing}`);

const folder = writeModel({ ...SMALL, experts: 2 });

/** Logits, and the memory that the model takes. */
async function loaded(path: string, options: LoadOptions): Promise<{ logits: Float32Array; persistent: number }> {
  const model = await loadModel(path, { pagedAttn: { cacheType: 'f32' }, ...options });
  try {
    return { logits: await logitsOf(model), persistent: model.memory().persistent };
  } finally {
    await model.dispose();
  }
}

/** Loaded from files, a model computes and takes what it does when it is quantized at load. */
async function compare(isq: string, options: LoadOptions): Promise<void> {
  const out = join(temporaryFolder(), 'out.uqff');
  await writeUqff(folder, out, { types: [isq] });
  const expected = await loaded(folder, { ...options, isq });
  const got = await loaded(out.replace('.uqff', '-0.uqff'), options);
  expect(got.logits).toEqual(expected.logits);
  expect(got.persistent).toBe(expected.persistent);
}

describe('logits and memory of a model from UQFF files', () => {
  it.each(ISQ_TYPES)('of %s on the CPU', (isq) => compare(isq, { device: 'cpu', threads: 1 }));
});

describe.skipIf(missing !== undefined)(missing === undefined ? 'UQFF on webgpu' : `webgpu: ${missing}`, () => {
  it.each(['Q4K', 'Q8_0', 'AFQ4', 'HQQ4', 'F8E4M3', 'F8Q8', 'MXFP4'])('%s', (isq) =>
    compare(isq, { device: 'webgpu', strict: true }),
  );
});
