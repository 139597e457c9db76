import type { OpHost } from '../../host.ts';
import type { Kernel } from '../../kernel.ts';

/** Table entries under the keys of the kernels. */
export function entriesOf<K extends string>(host: OpHost, kernels: Readonly<Record<K, unknown>>): Record<K, number> {
  const pairs = Object.entries(kernels).map(([key, kernel]) => [key, host.entry(kernel as Kernel)]);
  return Object.fromEntries(pairs) as Record<K, number>;
}
