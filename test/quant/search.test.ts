import { describe, expect, it } from 'vitest';
import { quantize } from '../../src/quant/index.ts';
import { random } from '../cpu/support.ts';

const COLUMNS = 512;

/** Rows of many kinds: dense, sparse, one-sided, stepped, with outliers, tiny, huge, subnormal when squared. */
function rowsOf(seed: number): readonly Float32Array[] {
  const next = random(seed);
  const dense = () => next() + next() + next() + next() - 2;
  const kinds: readonly ((i: number) => number)[] = [
    dense,
    () => dense() ** 3,
    () => Math.round(dense() * 4) / 4,
    () => Math.abs(dense()),
    () => -Math.abs(dense()),
    () => (next() < 0.9 ? 0 : dense()),
    () => Math.round(next() * 15) / 8,
    () => 1 + 2 ** -20 * dense(),
    (i) => dense() * 2 ** ((i >> 4) - 24),
    () => (next() < 0.02 ? 1000 * dense() : dense() / 100),
    () => 1e4 * dense(),
    () => 0.3,
    () => 5 + dense() / 1000,
    () => 2e-16 * dense() + (next() < 0.1 ? 1e-15 : 0),
  ];
  return kinds.map((kind) => Float32Array.from({ length: COLUMNS }, (_, i) => kind(i)));
}

function importances(seed: number): readonly (Float32Array | undefined)[] {
  const next = random(seed);
  return [
    undefined,
    Float32Array.from({ length: COLUMNS }, () => next() + 1e-3),
    Float32Array.from({ length: COLUMNS }, () => (next() < 0.7 ? 0 : next())),
    Float32Array.from({ length: COLUMNS }, () => 2 ** Math.floor(next() * 60 - 30)),
  ];
}

/** FNV-1a over the bytes of all rows under all importances. */
function hashOf(type: string): number {
  let hash = 0x811c9dc5;
  for (let seed = 1; seed <= 3; seed++) {
    for (const x of rowsOf(seed)) {
      for (const importance of importances(seed + 100)) {
        for (const byte of quantize(type, x, COLUMNS, importance ? { importance } : {})) {
          hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
        }
      }
    }
  }
  return hash;
}

describe('the searches choose what a search that rounds every sum of every trial chooses', () => {
  // Hashes of such a search, whose bytes equal the reference implementation's on its own inputs.
  it.each([
    ['Q2_K', 2838930769],
    ['Q3_K', 4157178919],
    ['Q4_K', 2533044347],
    ['Q5_K', 3676842640],
    ['Q6_K', 699798717],
    ['IQ4_NL', 377520177],
    ['IQ4_XS', 1940872778],
    ['Q4_0', 669425597],
    ['Q4_1', 647527410],
    ['Q5_0', 3691639410],
    ['Q5_1', 1636902118],
  ])('%s', (type, hash) => {
    expect(hashOf(type)).toBe(hash);
  });
});
