import type { OptionalOps, RequiredOps } from '../../../core/backend.ts';
import type { OpHost } from '../host.ts';
import type { Kernel } from '../kernel.ts';
import { binaryKernels, elementwiseKernels, select, unaryKernels } from './elementwise.ts';

/** Every kernel that is installed when the back-end starts (those of matrices come with the matrices). */
export const baseKernels: readonly Kernel[] = [...elementwiseKernels];

/** The ops that need no weights: all but `linear`, `linearExperts` and `gatherRows` of a `Weight`. */
export type KernelOps = Partial<Omit<RequiredOps, 'linear'> & Omit<OptionalOps, 'linearExperts'>>;

/** Turns ops into commands; `OpHost` says how. Called once, when the back-end starts: look up table entries here. */
export function createKernelOps(host: OpHost): KernelOps {
  const unary = entries(host, unaryKernels);
  const binary = entries(host, binaryKernels);
  const selectEntry = host.entry(select as Kernel);
  return {
    unary(kind, out, x, a, b) {
      const { at } = unaryKernels[kind];
      const c = host.begin(unary[kind]);
      host.words[c + at.out] = host.address(out);
      host.words[c + at.x] = host.address(x);
      host.words[c + at.n] = x.size;
      host.floats[c + at.a] = a;
      host.floats[c + at.b] = b;
    },
    binary(kind, out, x, y) {
      const { at } = binaryKernels[kind];
      const same = y.size === x.size;
      const column = !same && y.size === x.rowCount && y.width === 1;
      const c = host.begin(binary[kind]);
      host.words[c + at.out] = host.address(out);
      host.words[c + at.x] = host.address(x);
      host.words[c + at.y] = host.address(y);
      host.words[c + at.rows] = same ? 1 : x.rowCount;
      host.words[c + at.width] = same ? x.size : x.width;
      host.words[c + at.yRow] = column ? 4 : 0;
      host.words[c + at.single] = column || y.size === 1 ? 1 : 0;
    },
    select(out, condition, x, y) {
      const { at } = select;
      const c = host.begin(selectEntry);
      host.words[c + at.out] = host.address(out);
      host.words[c + at.condition] = host.address(condition);
      host.words[c + at.x] = host.address(x);
      host.words[c + at.y] = host.address(y);
      host.words[c + at.n] = x.size;
    },
  };
}

/** Table entries under the keys of the kernels. */
export function entries<K extends string>(host: OpHost, kernels: Readonly<Record<K, unknown>>): Record<K, number> {
  const pairs = Object.entries(kernels).map(([key, kernel]) => [key, host.entry(kernel as Kernel)]);
  return Object.fromEntries(pairs) as Record<K, number>;
}
