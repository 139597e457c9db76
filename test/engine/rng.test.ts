import { describe, expect, it } from 'vitest';
import { CounterRng, deriveSeed, philox4x32 } from '../../src/core/engine/sampling/rng.ts';

describe('philox4x32', () => {
  // Known answers of the Random123 distribution.
  it.each([
    [
      [0, 0, 0, 0],
      [0, 0],
      [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
    ],
    [
      [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
    ],
    [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
      [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    ],
  ])('counter %j, key %j', (counter, key, expected) => {
    const words = Uint32Array.from(counter);
    philox4x32(words, key[0]!, key[1]!);
    expect([...words]).toEqual(expected);
  });
});

describe('CounterRng', () => {
  it('is uniform in [0, 1)', () => {
    const rng = new CounterRng(1, 0);
    const bins = new Array(10).fill(0);
    for (let i = 0; i < 10000; i++) {
      const u = rng.uniform(i);
      expect(u >= 0 && u < 1).toBe(true);
      bins[Math.floor(u * 10)]++;
    }
    for (const count of bins) expect(Math.abs(count - 1000)).toBeLessThan(120);
  });

  it('derives seeds that differ and are safe integers', () => {
    const seeds = new Set<number>();
    for (let engine = 0; engine < 3; engine++) {
      for (let index = 0; index < 100; index++) seeds.add(deriveSeed(engine, index));
    }
    expect(seeds.size).toBe(300);
    for (const seed of seeds) expect(Number.isSafeInteger(seed)).toBe(true);
  });
});
