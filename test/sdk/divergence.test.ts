import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ShapeError } from '../../src/core/errors.ts';
import {
  crossEntropy,
  Divergence,
  logSumExp,
  Mean,
  perplexityOf,
  quantile,
  rowDivergence,
} from '../../src/core/sdk/divergence.ts';

/** Rows of logits, and what NumPy makes of them in double precision; one token is ruled out by both rows. */
const data = JSON.parse(readFileSync(new URL('../fixtures/sdk/divergence.json', import.meta.url), 'utf8')) as {
  readonly reference: (number | string)[][];
  readonly row: (number | string)[][];
  readonly tokens: number[];
  readonly expected: {
    readonly logSumExp: number[];
    readonly crossEntropy: number[];
    readonly kl: number[];
    readonly loss: number;
    readonly lossError: number;
    readonly mean: number;
    readonly meanError: number;
    readonly median: number;
    readonly p99: number;
    readonly max: number;
    readonly sameTop: number;
    readonly rmsDeltaP: number;
  };
};
const rowsOf = (rows: (number | string)[][]) => rows.map((row) => Float32Array.from(row, Number));
const [references, rows] = [rowsOf(data.reference), rowsOf(data.row)];
const { tokens, expected } = data;
const close = (actual: number, wanted: number) => expect(Math.abs(actual - wanted)).toBeLessThanOrEqual(1e-13);

describe('rows of logits', () => {
  it('agree with NumPy', () => {
    rows.forEach((row, i) => {
      close(logSumExp(row), expected.logSumExp[i] as number);
      close(crossEntropy(row, tokens[i] as number), expected.crossEntropy[i] as number);
      close(rowDivergence(references[i] as Float32Array, row).kl, expected.kl[i] as number);
    });
  });

  it('neither overflow nor vanish', () => {
    close(logSumExp([1000, 1000]), 1000 + Math.LN2);
    close(logSumExp([-1000, -1000]), -1000 + Math.LN2);
    expect(logSumExp([])).toBe(Number.NEGATIVE_INFINITY);
    expect(logSumExp([1, Number.POSITIVE_INFINITY])).toBe(Number.POSITIVE_INFINITY);
  });

  it('show a NaN, and a token ruled out against the reference', () => {
    expect(logSumExp([0, Number.NaN, 1])).toBeNaN();
    expect(rowDivergence([0, 1], [Number.NaN, 1]).kl).toBeNaN();
    expect(rowDivergence([0, 0], [0, Number.NEGATIVE_INFINITY]).kl).toBe(Number.POSITIVE_INFINITY);
    close(rowDivergence([0, Number.NEGATIVE_INFINITY], [0, 0]).kl, Math.LN2);
  });

  it('must be of one vocabulary, and hold the token', () => {
    expect(() => rowDivergence([1, 2], [1, 2, 3])).toThrow(ShapeError);
    for (const token of [-1, 2, 0.5]) {
      expect(() => crossEntropy([1, 2], token)).toThrow(ShapeError);
      expect(() => new Divergence().add([1, 2], [1, 2], token)).toThrow(ShapeError);
    }
  });

  const row = (length: number) =>
    fc.array(fc.float({ min: -50, max: 50, noNaN: true }), { minLength: length, maxLength: length });

  it('diverge by nothing from themselves, by nothing from a shift, and by something from others', () => {
    const pair = fc
      .integer({ min: 1, max: 40 })
      .chain((n) => fc.tuple(row(n), row(n), fc.integer({ min: -20, max: 20 })));
    fc.assert(
      fc.property(pair, ([a, b, shift]) => {
        expect(rowDivergence(a, a)).toMatchObject({ kl: 0, sameTop: true });
        expect(
          rowDivergence(
            a,
            a.map((x) => x + shift),
          ).kl,
        ).toBeLessThan(1e-12);
        expect(rowDivergence(a, b).kl).toBeGreaterThanOrEqual(0);
      }),
    );
  });
});

describe('a text', () => {
  it('agrees with NumPy', () => {
    const losses = new Mean();
    const divergence = new Divergence();
    rows.forEach((row, i) => {
      losses.add(crossEntropy(row, tokens[i] as number));
      divergence.add(references[i] as Float32Array, row, tokens[i]);
    });
    const { perplexity, perplexityError, loss, lossError, count } = perplexityOf(losses);
    expect(count).toBe(rows.length);
    close(loss, expected.loss);
    close(lossError, expected.lossError);
    expect(perplexity).toBe(Math.exp(loss));
    expect(perplexityError).toBe(perplexity * lossError);
    const summary = divergence.summary();
    expect(summary.count).toBe(rows.length);
    for (const name of ['mean', 'meanError', 'median', 'p99', 'max', 'sameTop', 'rmsDeltaP'] as const) {
      close(summary[name], expected[name]);
    }
  });

  it('with a token that is ruled out has no finite loss', () => {
    const losses = new Mean();
    for (const loss of [1, Number.POSITIVE_INFINITY, 2, Number.POSITIVE_INFINITY]) losses.add(loss);
    const { loss, lossError, perplexity } = perplexityOf(losses);
    expect([loss, lossError, perplexity]).toEqual([Number.POSITIVE_INFINITY, Number.NaN, Number.POSITIVE_INFINITY]);
  });

  it('of no rows has no figures', () => {
    expect(perplexityOf(new Mean()).perplexity).toBeNaN();
    const { count, mean, median, sameTop, rmsDeltaP } = new Divergence().summary();
    expect([count, mean, median, sameTop, rmsDeltaP]).toEqual([0, Number.NaN, Number.NaN, Number.NaN, Number.NaN]);
    expect(quantile([1], 0.99)).toBe(1);
    expect(quantile([1, 3], 0.5)).toBe(2);
  });
});
