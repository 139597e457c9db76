/** Every stored model on the GPU, or on a processor that plays one. */
import { describe, it } from 'vitest';
import { oracleSuite } from '../models/suite.ts';
import { openWebGpu } from './support.ts';

const backend = await openWebGpu();
if (typeof backend === 'string') {
  console.warn(`models on webgpu: skipped: ${backend}`);
  describe.skip(`webgpu: ${backend}`, () => {
    it('gives the stored logits and tokens', () => {});
  });
} else {
  // Functions like `exp` may be off by more there; the forms of configurations make no difference to a back-end.
  oracleSuite({ name: 'webgpu', blockSize: 16, tolerance: 1e-3, forms: ['config.json'] }, async () => backend);
}
