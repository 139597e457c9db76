import type { RequiredOps } from '../../../../core/backend.ts';
import type { Tensor } from '../../../../core/tensor.ts';
import type { OpHost } from '../../host.ts';
import type { Kernel } from '../../kernel.ts';
import { argmax, cumsum, foldKernels, reduceKernels as lineKernels } from '../reduce.ts';
import { topk } from '../topk.ts';
import { entriesOf } from './entries.ts';

export const reduceKernels: readonly Kernel[] = [...lineKernels, topk as Kernel];

type ReduceOps = Pick<RequiredOps, 'reduce' | 'cumsum' | 'topk'>;

export function reduceOps(host: OpHost): ReduceOps {
  const entries = { ...entriesOf(host, foldKernels), argmax: host.entry(argmax as Kernel) };
  const cumsumEntry = host.entry(cumsum as Kernel);
  const topkEntry = host.entry(topk as Kernel);

  /** All kernels along an axis have the same arguments. */
  const along = (entry: number, out: Tensor, x: Tensor, axis: number): void => {
    let outer = 1;
    for (let i = 0; i < axis; i++) outer *= x.shape[i]!;
    const n = x.shape[axis]!;
    const { at } = cumsum;
    const c = host.begin(entry);
    const { words } = host;
    words[c + at.out] = host.address(out);
    words[c + at.x] = host.address(x);
    words[c + at.outer] = outer;
    words[c + at.n] = n;
    words[c + at.inner] = n ? x.size / (outer * n) : out.size / outer;
  };

  return {
    reduce(kind, out, x, axis) {
      along(entries[kind], out, x, axis);
    },
    cumsum(out, x, axis) {
      along(cumsumEntry, out, x, axis);
    },
    topk(values, indices, x, k) {
      const { at } = topk;
      const c = host.begin(topkEntry);
      const { words } = host;
      words[c + at.values] = host.address(values);
      words[c + at.indices] = host.address(indices);
      words[c + at.x] = host.address(x);
      words[c + at.rows] = x.rowCount;
      words[c + at.width] = x.width;
      words[c + at.k] = k;
    },
  };
}
