/** Every stored model, in every form of its configuration, on the back-end "reference". */
import { backends } from './harness.ts';
import { BOTH_FORMS, EXACT, oracleSuite } from './suite.ts';

const [found] = backends.filter(({ name }) => name === 'reference');
if (found === undefined) throw new Error('the harness has no such back-end');
oracleSuite({ ...found, tolerance: EXACT, forms: BOTH_FORMS }, found.create);
