/** WGSL for sums and maxima over the lanes of a workgroup. */
import type { DeviceFacts } from './device.ts';
import type { KernelSource } from './kernel.ts';

/** What a kernel that reduces declares. Its `main` calls `REDUCED('total', value)`. */
export interface Reduction {
  readonly declarations: string;
  readonly extensions: NonNullable<KernelSource['extensions']>;
  /** The sum of `value` over all lanes, in every lane. All lanes must get here together. */
  sum(value: string): string;
  max(value: string): string;
}

/** Reductions over `lanes` (a power of two): within subgroups first where the device has them. */
export function reduction(facts: DeviceFacts, lanes: number): Reduction {
  const wide = facts.subgroups && facts.subgroupMin >= 4;
  const pick = (kind: 'sum' | 'max') =>
    kind === 'sum' ? (a: string, b: string) => `${a} + ${b}` : (a: string, b: string) => `max(${a}, ${b})`;
  const tree = (kind: 'sum' | 'max') => `
fn reduce_${kind}(value: f32, li: u32) -> f32 {
  workgroupBarrier();
  reduced[li] = value;
  for (var step = ${lanes / 2}u; step > 0u; step /= 2u) {
    workgroupBarrier();
    if (li < step) { reduced[li] = ${pick(kind)('reduced[li]', 'reduced[li + step]')}; }
  }
  workgroupBarrier();
  return reduced[0];
}`;
  const grouped = (kind: 'sum' | 'max') => `
fn reduce_${kind}(value: f32, li: u32, size: u32, lane: u32) -> f32 {
  let part = ${kind === 'sum' ? 'subgroupAdd' : 'subgroupMax'}(value);
  workgroupBarrier();
  if (lane == 0u) { reduced[li / size] = part; }
  workgroupBarrier();
  var all = reduced[0];
  for (var i = 1u; i < (${lanes}u + size - 1u) / size; i++) { all = ${pick(kind)('all', 'reduced[i]')}; }
  return all;
}`;
  const call = (kind: 'sum' | 'max', value: string) =>
    wide ? `reduce_${kind}(${value}, li, sg_size, sg_lane)` : `reduce_${kind}(${value}, li)`;
  const write = wide ? grouped : tree;
  return {
    declarations: `
var<workgroup> reduced: array<f32, ${wide ? Math.max(1, Math.ceil(lanes / facts.subgroupMin)) : lanes}>;
${write('sum')}${write('max')}
`,
    extensions: wide ? ['subgroups'] : [],
    sum: (value) => call('sum', value),
    max: (value) => call('max', value),
  };
}
