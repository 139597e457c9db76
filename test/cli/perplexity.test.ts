import { afterAll, expect, it } from 'vitest';
import { prefixOf } from '../../src/cli/perplexity.ts';
import { ConfigError } from '../../src/core/errors.ts';
import { BOS, fakeModel, VOCAB } from '../sdk/fakes.ts';

const { model } = fakeModel((history) => history.at(-1)!);
afterAll(() => model.dispose());

it.each([
  ['auto', [BOS]],
  ['none', []],
  ['7', [7]],
] as const)('--bos %s', async (bos, expected) => {
  expect([...(await prefixOf(model, bos))]).toEqual(expected);
});

it.each(['x', '', '-1', '1.5', `${VOCAB}`])('--bos %j is refused', async (bos) => {
  await expect(prefixOf(model, bos)).rejects.toThrow(ConfigError);
});
