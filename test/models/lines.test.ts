/** An architecture stays one small file. */
import { expect, it } from 'vitest';
import { FILE_LINES, modelParts, TOTAL_LINES } from '../../bench/lines.ts';

it('no text architecture is longer than its budget, nor are all together', () => {
  const parts = modelParts();
  const text = parts.find((p) => p.name === 'text');
  expect(text?.files.length).toBeGreaterThan(0);
  expect(text?.files.filter((f) => f.lines > FILE_LINES)).toEqual([]);
  expect(parts.reduce((n, p) => n + p.lines, 0)).toBeLessThanOrEqual(TOTAL_LINES);
});
