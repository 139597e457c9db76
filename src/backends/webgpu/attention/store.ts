import type { NormOptions, OptionalOps, QkvOptions } from '../../../core/backend.ts';
import type { OpHost } from '../host.ts';
import { Kernel, type KernelSource } from '../kernel.ts';
import { pairGap, pairStep } from '../ops/normalize.ts';
import { reduction } from '../reduction.ts';
import { CONVERSIONS, LANES } from '../wgsl.ts';
import type { GpuKvCache } from './cache.ts';
import { Plans } from './plans.ts';

/** Which heads of a row a kernel takes. One takes all, except where that needs more bindings than the device has. */
type Part = 'all' | 'queries' | 'cached';

interface StoreKernel {
  readonly part: Part;
  readonly kernel: Kernel;
}

/** Norm of the head in workgroup memory, every group of it on its own. */
function normCode(name: string, headDim: number, norm: NormOptions, sum: (value: string) => string): string {
  const n = headDim / (norm.groups ?? 1);
  const loop = (body: string) => `for (var i = li; i < ${n}u; i += ${LANES}u) { ${body} }`;
  const centered = norm.kind === 'layer' || norm.kind === 'group';
  return `
for (var at = 0u; at < ${headDim}u; at += ${n}u) {
  var mean = 0.0;
  ${
    centered
      ? `var total = 0.0;
  ${loop('total += head[at + i];')}
  mean = ${sum('total')} / ${n}.0;`
      : ''
  }
  var power = 0.0;
  ${loop('let v = head[at + i] - mean; power = fma(v, v, power);')}
  let scale = 1.0 / sqrt(${sum('power')} / ${norm.kind === 'l2' ? 1 : n}.0 + p.${name}_eps);
  ${loop(
    `head[at + i] = (head[at + i] - mean) * scale ${
      norm.weight ? `* (${name}_weight(at + i) + ${norm.plusOne ? '1.0' : '0.0'})` : ''
    } ${norm.bias ? `+ ${name}_bias(at + i)` : ''};`,
  )}
}
workgroupBarrier();`;
}

const ROPE = `
for (var i = li; i < p.half; i += ${LANES}u) {
  let cosine = table(row * 2u * p.half + i);
  let sine = table(row * 2u * p.half + p.half + i);
  let first = i * p.step;
  let a = head[first];
  let b = head[first + p.gap];
  head[first] = a * cosine - b * sine;
  head[first + p.gap] = b * cosine + a * sine;
}
workgroupBarrier();`;

/** A head of the cache, by words. */
const cacheCode = (name: string, dim: number, half: boolean, quads: number) =>
  half
    ? `for (var i = li; i < ${Math.ceil(dim / 2)}u; i += ${LANES}u) {
  let low = float_to_half(head[2u * i]);
  let high = float_to_half(head[2u * i + 1u]);
  set_${name}(place * ${2 * quads}u + i, low | (high << 16u));
}`
    : `for (var i = li; i < ${dim}u; i += ${LANES}u) { set_${name}(place * ${4 * quads}u + i, bitcast<u32>(head[i])); }`;

function normOperands(name: string, norm: NormOptions | undefined): [string, 'f32'][] {
  const found: [string, 'f32'][] = [];
  if (norm?.weight) found.push([`${name}_weight`, 'f32']);
  if (norm?.bias) found.push([`${name}_bias`, 'f32']);
  return found;
}

/** One workgroup for every head of every row: it is normed and rotated in workgroup memory, then stored. */
function storeSource(host: OpHost, options: QkvOptions, cache: GpuKvCache, part: Part): KernelSource {
  const { heads, kvHeads, headDim, valueDim, rope, qNorm, kNorm, normAfterRope } = options;
  const { half, blockSize, spec, keyQuads, valueQuads } = cache;
  const { declarations, extensions, sum } = reduction(host.gpu.facts, LANES);
  const queries = part !== 'cached' && heads > 0;
  const cached = part !== 'queries';
  const normed = (queries && qNorm) || (cached && kNorm);
  const rotated = rope !== undefined && rope.rotaryDim > 0;
  const prepare = (name: string, norm: NormOptions | undefined) => {
    const code = norm ? normCode(name, headDim, norm, sum) : '';
    const turn = rotated ? ROPE : '';
    return normAfterRope ? turn + code : code + turn;
  };
  const ownValues = cached && !spec.valuesInKeys;
  const size = Math.max(headDim, valueDim);
  return {
    label: `store ${part}`,
    reads: [
      ['qkv', 'f32'],
      ...(rotated ? ([['table', 'f32']] as const) : []),
      ...(queries ? normOperands('q', qNorm) : []),
      ...(cached ? normOperands('k', kNorm) : []),
      ...(cached ? ([['slots', 'i32']] as const) : []),
    ],
    writes: [
      ...(queries ? ([['q', 'f32']] as const) : []),
      ...(cached ? ([['keys', 'u32']] as const) : []),
      ...(ownValues ? ([['values', 'u32']] as const) : []),
    ],
    numbers: [
      ['n', 'u32'],
      ['first', 'u32'],
      ['count', 'u32'],
      ['width', 'u32'],
      ['half', 'u32'],
      ['step', 'u32'],
      ['gap', 'u32'],
      ['q_eps', 'f32'],
      ['k_eps', 'f32'],
    ],
    workgroup: [LANES, 1, 1],
    extensions: normed ? extensions : [],
    declarations: `${normed ? declarations : ''}${half && cached ? CONVERSIONS : ''}
var<workgroup> head: array<f32, ${size + 1}>;`,
    body: `
let item = wid.y * nwg.x + wid.x;
if (item >= p.n) { return; }
let row = item / p.count;
let number = p.first + item % p.count;
let is_value = number >= ${heads + kvHeads}u;
let size = select(${headDim}u, ${valueDim}u, is_value);
let start = row * p.width + select(number * ${headDim}u, ${(heads + kvHeads) * headDim}u + (number - ${heads + kvHeads}u) * ${valueDim}u, is_value);
for (var i = li; i <= size; i += ${LANES}u) { head[i] = select(0.0, qkv(start + i), i < size); }
workgroupBarrier();
${
  queries
    ? `if (number < ${heads}u) {
${prepare('q', qNorm)}
for (var i = li; i < ${headDim}u; i += ${LANES}u) { set_q((row * ${heads}u + number) * ${headDim}u + i, head[i]); }
return;
}`
    : ''
}
${
  cached
    ? `let slot = u32(slots(row));
let kv = (number - ${heads}u) % ${kvHeads}u;
let place = (slot / ${blockSize}u * ${kvHeads}u + kv) * ${blockSize}u + slot % ${blockSize}u;
if (!is_value) {
${prepare('k', kNorm)}
${cacheCode('keys', headDim, half, keyQuads)}
return;
}
${ownValues ? cacheCode('values', valueDim, half, valueQuads) : ''}`
    : ''
}`,
  };
}

/** What the kernel's text depends on. */
function keyOf(o: QkvOptions): string {
  const norm = (n: NormOptions | undefined) =>
    n && [n.kind, n.groups ?? 1, n.weight !== undefined, n.bias !== undefined, n.plusOne === true];
  return JSON.stringify([
    ...[o.heads, o.kvHeads, o.headDim, o.valueDim, o.rope !== undefined && o.rope.rotaryDim > 0],
    ...[norm(o.qNorm), norm(o.kNorm), o.normAfterRope === true],
  ]);
}

export function storeOps(host: OpHost): Pick<OptionalOps, 'qkvStore'> {
  const { recorder } = host;
  function make(options: QkvOptions, cache: GpuKvCache): readonly StoreKernel[] {
    const whole = storeSource(host, options, cache, 'all');
    const fits = whole.reads.length + whole.writes.length <= host.gpu.facts.maxBindings;
    const parts: readonly Part[] = fits ? ['all'] : ['queries', 'cached'];
    return parts.map((part) => ({ part, kernel: new Kernel(host.gpu, storeSource(host, options, cache, part)) }));
  }

  const plans = new Plans<QkvOptions, readonly StoreKernel[]>(keyOf, (options, cache) =>
    make(options, cache as GpuKvCache),
  );

  const bindNorm = (norm: NormOptions | undefined) => {
    if (norm?.weight) recorder.bind(norm.weight);
    if (norm?.bias) recorder.bind(norm.bias);
  };

  return {
    qkvStore(q, qkv, cosSin, anyCache, batch, options) {
      const cache = anyCache as GpuKvCache;
      const { heads, kvHeads, rope, qNorm, kNorm } = options;
      const plan = plans.of(options, cache);
      const ownValues = cache.values !== cache.keys;
      for (let i = 0; i < plan.length; i++) {
        const { part, kernel } = plan[i] as StoreKernel;
        const queries = part !== 'cached' && heads > 0;
        const cached = part !== 'queries';
        const first = part === 'cached' ? heads : 0;
        const end = part === 'queries' ? heads : heads + kvHeads * (ownValues ? 2 : 1);
        const count = end - first;
        recorder.start(kernel).bind(qkv);
        if (rope && rope.rotaryDim > 0 && cosSin) recorder.bind(cosSin);
        if (queries) bindNorm(qNorm);
        if (cached) {
          bindNorm(kNorm);
          recorder.bind(batch.slots);
        }
        if (queries) recorder.bind(q);
        if (cached) recorder.bindStorage(cache.keys);
        if (cached && ownValues) recorder.bindStorage(cache.values);
        recorder
          .u(batch.rows * count)
          .u(first)
          .u(count)
          .u(qkv.width)
          .u(rope ? rope.rotaryDim / 2 : 0)
          .u(rope ? pairStep(rope) : 0)
          .u(rope ? pairGap(rope) : 0)
          .f(qNorm?.eps ?? 0)
          .f(kNorm?.eps ?? 0)
          .dispatchGroups(batch.rows * count);
      }
    },
  };
}
