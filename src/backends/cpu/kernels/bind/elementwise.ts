import type { RequiredOps } from '../../../../core/backend.ts';
import { broadcastOf } from '../../../../core/ops/elementwise.ts';
import type { OpHost } from '../../host.ts';
import type { Kernel } from '../../kernel.ts';
import { binaryKernels, select, unaryKernels } from '../elementwise.ts';
import { entriesOf } from './entries.ts';

type ElementwiseOps = Pick<RequiredOps, 'unary' | 'binary' | 'select'>;

export function elementwiseOps(host: OpHost): ElementwiseOps {
  const unary = entriesOf(host, unaryKernels);
  const binary = entriesOf(host, binaryKernels);
  const selectEntry = host.entry(select as Kernel);
  return {
    unary(kind, out, x, a, b) {
      const { at } = unaryKernels[kind];
      const c = host.begin(unary[kind]);
      const { words, floats } = host;
      words[c + at.out] = host.address(out);
      words[c + at.x] = host.address(x);
      words[c + at.n] = x.size;
      floats[c + at.a] = a;
      floats[c + at.b] = b;
    },
    binary(kind, out, x, y) {
      const { at } = binaryKernels[kind];
      const how = broadcastOf(x, y);
      const c = host.begin(binary[kind]);
      const { words } = host;
      words[c + at.out] = host.address(out);
      words[c + at.x] = host.address(x);
      words[c + at.y] = host.address(y);
      words[c + at.rows] = how === 'same' ? 1 : x.rowCount;
      words[c + at.width] = how === 'same' ? x.size : x.width;
      words[c + at.yRow] = how === 'column' ? 4 : 0;
      words[c + at.single] = how === 'column' || how === 'one' ? 1 : 0;
    },
    select(out, condition, x, y) {
      const { at } = select;
      const c = host.begin(selectEntry);
      const { words } = host;
      words[c + at.out] = host.address(out);
      words[c + at.condition] = host.address(condition);
      words[c + at.x] = host.address(x);
      words[c + at.y] = host.address(y);
      words[c + at.n] = x.size;
    },
  };
}
