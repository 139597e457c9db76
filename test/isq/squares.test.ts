import { describe, expect, it } from 'vitest';
import { ReferenceBackend } from '../../src/backends/reference/index.ts';
import { Weight } from '../../src/core/weight.ts';
import { ColumnSquares } from '../../src/quant/isq/squares.ts';

describe('sums of squares by column', () => {
  it('stay exact over many calls, whose addends are small beside them', async () => {
    const backend = new ReferenceBackend();
    const squares = new ColumnSquares(backend, new Weight('w', [1, 2]));
    const x = backend.upload(Float32Array.of(0.1, 3.3), [1, 2]);
    const calls = 30_000;
    for (let i = 0; i < calls; i++) squares.see(x);
    expect([squares.calls, squares.rows]).toEqual([calls, calls]);
    const [a, b] = (await squares.importance())!;
    expect(Math.abs(a! / (calls * 0.1 ** 2) - 1)).toBeLessThan(1e-5);
    expect(Math.abs(b! / (calls * 3.3 ** 2) - 1)).toBeLessThan(1e-5);
    squares.dispose();
    x.dispose();
    expect(backend.memory().persistent).toBe(0);
  });

  it('count experts apart, and say nothing where a sum is no number', async () => {
    const backend = new ReferenceBackend();
    const experts = { count: 3, path: 'experts.', role: 'output', interleaved: false } as const;
    const squares = new ColumnSquares(backend, new Weight('w', [3, 2], undefined, { experts }));
    const x = backend.upload(Float32Array.of(1, 2, 3, 4), [2, 2]);
    squares.seeExperts(x, backend.upload(Int32Array.of(0, 2, 2, 0), [2, 2]));
    squares.seeExperts(x, backend.upload(Int32Array.of(2, 0, 2, 2), [2, 2]));
    // Means over 3, 0 and 5 rows, times two calls.
    const means = [(1 + 9 + 1) / 3, (4 + 16 + 4) / 3, 0, 0, (1 + 9 + 1 + 9 + 9) / 5, (4 + 16 + 4 + 16 + 16) / 5];
    const got = [...(await squares.importance())!];
    got.forEach((v, i) => {
      expect(v).toBeCloseTo(2 * means[i]!, 5);
    });
    squares.seeExperts(backend.upload(Float32Array.of(1e30, 0), [1, 2]), backend.upload(Int32Array.of(0), [1, 1]));
    expect(await squares.importance()).toBeUndefined();
    await backend.dispose();
  });
});
