/** Every stored model, in every form of its configuration, on the back-ends that run everywhere. */
import { backends } from './harness.ts';
import { EXACT, oracleSuite } from './suite.ts';

for (const { name, blockSize, create } of backends) {
  oracleSuite({ name, blockSize, tolerance: EXACT, forms: ['config.json', 'config.legacy.json'] }, create);
}
