import type { RowTable } from '../../core/model.ts';

const fround = Math.fround;

/**
 * Factors of queries that grow with the logarithm of the position: `1 + beta * ln(1 + floor(position / span))`, so that
 * attention stays sharp over long contexts.
 */
export function queryGrowth(beta: number, span: number): RowTable {
  return {
    width: 1,
    key: `query growth ${beta} ${span}`,
    fill(out, at, position) {
      const steps = Math.floor(fround(position / span));
      out[at] = 1 + fround(fround(beta) * fround(Math.log(1 + steps)));
    },
  };
}
