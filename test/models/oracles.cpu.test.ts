/** Every stored model, in every form of its configuration, on the back-end "cpu". */
import { backends } from './harness.ts';
import { BOTH_FORMS, EXACT, oracleSuite } from './suite.ts';

const [found] = backends.filter(({ name }) => name === 'cpu');
if (found === undefined) throw new Error('the harness has no such back-end');
oracleSuite({ ...found, tolerance: EXACT, forms: BOTH_FORMS }, found.create);
