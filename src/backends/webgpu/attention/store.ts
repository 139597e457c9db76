import type { KvDType, NormOptions, OptionalOps, QkvOptions } from '../../../core/backend.ts';
import type { OpHost } from '../host.ts';
import { Kernel, type KernelSource } from '../kernel.ts';
import { pairGap, pairStep } from '../ops/normalize.ts';
import { reduction } from '../reduction.ts';
import { CONVERSIONS, LANES } from '../wgsl.ts';
import { CACHE_TYPES, type GpuKvCache, GROUP, GROUP_WORDS } from './cache.ts';
import { number } from './flash.ts';
import { Plans } from './plans.ts';

/** What a kernel of the family has. */
interface Traits {
  /** Takes the heads of queries, of keys and values. */
  readonly queries: boolean;
  readonly cached: boolean;
  readonly ownValues: boolean;
  readonly dtype: KvDType;
  /** Norms have biases. */
  readonly biased: boolean;
  /** Room for a head in workgroup memory. */
  readonly size: number;
}

interface Part {
  readonly kernel: Kernel;
  readonly traits: Traits;
}

const NORM_NUMBERS: KernelSource['numbers'] = ['q', 'k'].flatMap((name): KernelSource['numbers'] => [
  [`${name}_part`, 'u32'],
  [`${name}_centered`, 'u32'],
  [`${name}_weighted`, 'u32'],
  [`${name}_biased`, 'u32'],
  [`${name}_divisor`, 'f32'],
  [`${name}_eps`, 'f32'],
  [`${name}_one`, 'f32'],
]);

/** Every part of the head in workgroup memory is normed on its own; `q` or `k` numbers by `is_query`. */
function normCode(
  host: OpHost,
  traits: Traits,
): { readonly source: ReturnType<typeof reduction>; readonly code: string } {
  const source = reduction(host.gpu.facts, LANES);
  const loop = (body: string) => `for (var i = li; i < part; i += ${LANES}u) { ${body} }`;
  const pick = (name: string) => `select(p.k_${name}, p.q_${name}, is_query)`;
  const parameter = (name: string) => {
    const read = (x: string) => `${x}_${name}(at + i)`;
    if (!traits.cached) return read('q');
    return traits.queries ? `select(${read('k')}, ${read('q')}, is_query)` : read('k');
  };
  const code = `
for (var at = 0u; at < p.head_dim; at += part) {
  var mean = 0.0;
  if (${pick('centered')} != 0u) {
    var total = 0.0;
    ${loop('total += head[at + i];')}
    mean = ${source.sum('total')} / f32(part);
  }
  var power = 0.0;
  ${loop('let v = head[at + i] - mean; power = fma(v, v, power);')}
  let scale = 1.0 / sqrt(${source.sum('power')} / ${pick('divisor')} + ${pick('eps')});
  ${loop(`var v = (head[at + i] - mean) * scale;
    if (${pick('weighted')} != 0u) { v *= ${parameter('weight')} + ${pick('one')}; }
    ${traits.biased ? `if (${pick('biased')} != 0u) { v += ${parameter('bias')}; }` : ''}
    head[at + i] = v;`)}
}`;
  return { source, code };
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
}`;

/** Zeros behind a head in workgroup memory: it is read in whole quads. */
const BEHIND = 3;

/** The head as a row of the cache that begins at word `base`. */
const CACHE_CODE: Readonly<Record<KvDType, (name: string, dim: string) => string>> = {
  f32: (name, dim) => `for (var i = li; i < ${dim}; i += ${LANES}u) { set_${name}(base + i, bitcast<u32>(head[i])); }`,
  f16: (name, dim) => `for (var i = li; i < (${dim} + 1u) / 2u; i += ${LANES}u) {
  let low = float_to_half(head[2u * i]);
  let high = float_to_half(head[2u * i + 1u]);
  set_${name}(base + i, low | (high << 16u));
}`,
  // The lanes of a group each find its largest entry.
  q8_0: (name, dim) => `for (var i = li; i < (${dim} + 3u) / 4u; i += ${LANES}u) {
  let group = i / ${GROUP / 4}u;
  var largest = 0.0;
  for (var j = ${GROUP}u * group; j < min(${GROUP}u * (group + 1u), ${dim}); j++) { largest = max(largest, abs(head[j])); }
  let inverse = select(0.0, 127.0 / largest, largest > 0.0);
  var word = 0u;
  for (var j = 0u; j < 4u; j++) { word |= (u32(i32(clamp(round(head[4u * i + j] * inverse), -127.0, 127.0))) & 255u) << (8u * j); }
  let at = base + group * ${GROUP_WORDS}u;
  set_${name}(at + 1u + i % ${GROUP / 4}u, word);
  if (i % ${GROUP / 4}u == 0u) { set_${name}(at, bitcast<u32>(largest / 127.0)); }
}`,
};

const cacheCode = (name: 'keys' | 'values', dim: string, dtype: KvDType) => `
let base = place * p.${name}_words;
${CACHE_CODE[dtype](name, dim)}`;

/** One workgroup for every head of every row: it is normed and rotated in workgroup memory, then stored. */
function storeSource(host: OpHost, traits: Traits): KernelSource {
  const { queries, cached, ownValues, dtype, biased, size } = traits;
  const norm = normCode(host, traits);
  const parameters = (name: string) => [`${name}_weight`, ...(biased ? [`${name}_bias`] : [])];
  const reads = ['qkv', 'table', ...(queries ? parameters('q') : []), ...(cached ? parameters('k') : [])];
  return {
    label: 'store',
    reads: [...reads.map((name) => [name, 'f32'] as const), ...(cached ? ([['slots', 'i32']] as const) : [])],
    writes: [
      ...(queries ? ([['q', 'f32']] as const) : []),
      ...(cached ? ([['keys', 'u32']] as const) : []),
      ...(ownValues ? ([['values', 'u32']] as const) : []),
    ],
    numbers: [
      ...['n', 'first', 'count', 'width', 'heads', 'kv_heads', 'head_dim', 'value_dim', 'block'].map(number),
      ...['keys_words', 'values_words', 'half', 'step', 'gap', 'norm_last'].map(number),
      ...NORM_NUMBERS,
    ],
    workgroup: [LANES, 1, 1],
    extensions: norm.source.extensions,
    declarations: `${norm.source.declarations}${dtype === 'f16' ? CONVERSIONS : ''}
var<workgroup> head: array<f32, ${size + BEHIND}>;`,
    body: `
let item = wid.y * nwg.x + wid.x;
if (item >= p.n) { return; }
let row = item / p.count;
let own = p.first + item % p.count;
let projected = p.heads + p.kv_heads;
let is_query = own < p.heads;
let is_value = own >= projected;
let size = select(p.head_dim, p.value_dim, is_value);
let start = row * p.width + select(own * p.head_dim, projected * p.head_dim + (own - projected) * p.value_dim, is_value);
for (var i = li; i < size + ${BEHIND}u; i += ${LANES}u) { head[i] = select(0.0, qkv(start + i), i < size); }
workgroupBarrier();
if (!is_value) {
  let part = select(p.k_part, p.q_part, is_query);
  for (var turn = 0u; turn < 2u; turn++) {
    if (turn == p.norm_last) {
      if (part > 0u) {${norm.code}
      }
    } else {${ROPE}
    }
    workgroupBarrier();
  }
}
${
  queries
    ? `if (is_query) {
  for (var i = li; i < p.head_dim; i += ${LANES}u) { set_q((row * p.heads + own) * p.head_dim + i, head[i]); }
  return;
}`
    : ''
}
${
  cached
    ? `let slot = u32(slots(row));
let place = (slot / p.block * p.kv_heads + (own - p.heads) % p.kv_heads) * p.block + slot % p.block;
if (!is_value) {
${cacheCode('keys', 'p.head_dim', dtype)}
  return;
}
${ownValues ? cacheCode('values', 'p.value_dim', dtype) : ''}`
    : ''
}`,
  };
}

const operandsOf = ({ queries, cached, ownValues, biased }: Traits) =>
  2 + (queries ? 2 : 0) + (cached ? 3 : 0) + (ownValues ? 1 : 0) + (biased ? Number(queries) + Number(cached) : 0);

export function storeOps(host: OpHost): Pick<OptionalOps, 'qkvStore'> {
  const { recorder, gpu } = host;
  const made = new Map<string, Kernel>();
  const partOf = (traits: Traits): Part => {
    const key = JSON.stringify(traits);
    const kernel = made.get(key) ?? new Kernel(gpu, storeSource(host, traits));
    made.set(key, kernel);
    return { kernel, traits };
  };
  const plans = new Plans<QkvOptions, readonly Part[]>((o, kind) => {
    const most = Math.max(o.headDim, o.valueDim);
    const whole: Traits = {
      queries: o.heads > 0,
      cached: true,
      ownValues: kind < CACHE_TYPES.length,
      dtype: CACHE_TYPES[kind % CACHE_TYPES.length] as KvDType,
      biased: (o.qNorm?.bias ?? o.kNorm?.bias) !== undefined,
      size: most <= 256 ? 256 : Math.ceil(most / 256) * 256,
    };
    if (operandsOf(whole) <= gpu.facts.maxBindings || !whole.queries) return [partOf(whole)];
    // Queries on their own, for devices with few bindings.
    return [partOf({ ...whole, cached: false, ownValues: false }), partOf({ ...whole, queries: false })];
  });

  const putNorm = (norm: NormOptions | undefined, headDim: number) => {
    const part = norm ? headDim / (norm.groups ?? 1) : 0;
    recorder
      .u(part)
      .u(norm?.kind === 'layer' || norm?.kind === 'group' ? 1 : 0)
      .u(norm?.weight ? 1 : 0)
      .u(norm?.bias ? 1 : 0)
      .f(norm?.kind === 'l2' ? 1 : part)
      .f(norm?.eps ?? 0)
      .f(norm?.plusOne ? 1 : 0);
  };

  return {
    qkvStore(q, qkv, cosSin, anyCache, batch, options) {
      const cache = anyCache as GpuKvCache;
      const { heads, kvHeads, headDim, valueDim, rope, qNorm, kNorm, normAfterRope } = options;
      const plan = plans.of(options, cache.type + (cache.values === cache.keys ? CACHE_TYPES.length : 0));
      for (let i = 0; i < plan.length; i++) {
        const { kernel, traits } = plan[i] as Part;
        const first = traits.queries ? 0 : heads;
        const end = traits.cached ? heads + kvHeads * (traits.ownValues ? 2 : 1) : heads;
        // An operand that these options lack is bound all the same, to something that is not read.
        recorder
          .start(kernel)
          .bind(qkv)
          .bind(cosSin ?? qkv);
        if (traits.queries) {
          recorder.bind(qNorm?.weight ?? qkv);
          if (traits.biased) recorder.bind(qNorm?.bias ?? qkv);
        }
        if (traits.cached) {
          recorder.bind(kNorm?.weight ?? qkv);
          if (traits.biased) recorder.bind(kNorm?.bias ?? qkv);
          recorder.bind(batch.slots);
        }
        if (traits.queries) recorder.bind(q);
        if (traits.cached) recorder.bindStorage(cache.keys);
        if (traits.ownValues) recorder.bindStorage(cache.values);
        recorder
          .u(batch.rows * (end - first))
          .u(first)
          .u(end - first)
          .u(qkv.width)
          .u(heads)
          .u(kvHeads)
          .u(headDim)
          .u(valueDim)
          .u(cache.blockSize)
          .u(cache.keyWords)
          .u(cache.valueWords)
          .u(rope ? rope.rotaryDim / 2 : 0)
          .u(rope ? pairStep(rope) : 0)
          .u(rope ? pairGap(rope) : 0)
          .u(normAfterRope ? 1 : 0);
        putNorm(qNorm, headDim);
        putNorm(kNorm, headDim);
        recorder.dispatchGroups(batch.rows * (end - first));
      }
    },
  };
}
