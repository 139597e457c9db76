import { expect, it } from 'vitest';
import { schedulingMs } from '../../bench/scheduler.bench.ts';

it('the engine itself takes at most 2 % of a step of 6 ms at 8 sequences', async () => {
  expect(await schedulingMs(8)).toBeLessThan(6 * 0.02);
});
