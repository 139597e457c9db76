import type { OptionalOps } from '../../../../core/backend.ts';
import type { OpHost } from '../../host.ts';
import type { Kernel } from '../../kernel.ts';
import { addExpertSquares, addSquares } from '../statistics.ts';

export function statisticsOps(host: OpHost): Pick<OptionalOps, 'addSquares' | 'addExpertSquares'> {
  const dense = host.entry(addSquares as Kernel);
  const byExpert = host.entry(addExpertSquares as Kernel);
  return {
    addSquares(sums, x) {
      const { at } = addSquares;
      // Without a barrier: the product that is observed comes next, and reads the same.
      const c = host.begin(dense, true);
      const { words } = host;
      words[c + at.sums] = host.address(sums);
      words[c + at.x] = host.address(x);
      words[c + at.rows] = x.rowCount;
      words[c + at.width] = x.width;
    },
    addExpertSquares(sums, counts, x, experts) {
      const { at } = addExpertSquares;
      const c = host.begin(byExpert, true);
      const { words } = host;
      words[c + at.sums] = host.address(sums);
      words[c + at.counts] = host.address(counts);
      words[c + at.x] = host.address(x);
      words[c + at.experts] = host.address(experts);
      words[c + at.pairs] = experts.size;
      words[c + at.perRow] = experts.size / x.rowCount;
      words[c + at.width] = x.width;
      words[c + at.expertCount] = counts.size;
    },
  };
}
