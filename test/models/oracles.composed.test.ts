/** Every stored model, in every form of its configuration, on the back-end "reference, composed ops". */
import { backends } from './harness.ts';
import { BOTH_FORMS, EXACT, oracleSuite } from './suite.ts';

const [found] = backends.filter(({ name }) => name === 'reference, composed ops');
if (found === undefined) throw new Error('the harness has no such back-end');
oracleSuite({ ...found, tolerance: EXACT, forms: BOTH_FORMS }, found.create);
