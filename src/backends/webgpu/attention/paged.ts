import type { AttentionOptions, Batch, KvDType, OptionalOps } from '../../../core/backend.ts';
import type { Tensor } from '../../../core/tensor.ts';
import { lazy, type OpHost } from '../host.ts';
import { type Element, Kernel, type KernelSource } from '../kernel.ts';
import { LANES, SIGNED_BYTES } from '../wgsl.ts';
import { CACHE_TYPES, type GpuKvCache, GROUP, GROUP_WORDS, QUAD_WORDS } from './cache.ts';
import { flashSource, NOTHING, number, putNumbers } from './flash.ts';
import { Plans } from './plans.ts';
import { decodeTiling, prefillTiling, type Sharing, sharingOf, type Tiling } from './tiling.ts';

/** Sequences with at most so many rows in a step go row by row, with their context split among workgroups. */
const FEW_ROWS = 8;
/** Workgroups that keep a large device busy. */
const BUSY = 1024;
const MAX_SPLITS = 64;

interface Part {
  readonly kernel: Kernel;
  readonly tiling: Tiling;
  readonly sharing: Sharing;
}

interface Plan {
  readonly decode: Part;
  readonly prefill: Part;
}

/** What a cache is read as, and a quad of it from its first element on: in q8_0, the scale of its group and four bytes. */
const ELEMENTS: Readonly<Record<KvDType, readonly [element: Element, quad: (name: string) => string]>> = {
  f32: ['vec4<f32>', (name) => `return ${name}(row + d);`],
  f16: [
    'vec2<u32>',
    (name) => `let w = ${name}(row + d);
  return vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y));`,
  ],
  q8_0: [
    'u32',
    (name) => `let group = row + d / ${GROUP / 4}u * ${GROUP_WORDS}u;
  return bitcast<f32>(${name}(group)) * signed(${name}(group + 1u + d % ${GROUP / 4}u));`,
  ],
};

const cacheQuad = (name: 'key' | 'value', dtype: KvDType) => `fn ${name}_quad(place: u32, d: u32) -> vec4<f32> {
  let row = place * p.${name}_stride;
  ${ELEMENTS[dtype][1](`${name}s`)}
}`;

/** One row after the other: `p.per` places for each sequence. */
const LOCATE_ROW = `
let sequence = wid.x / p.per;
let start = u32(seq_start(sequence));
let rows = u32(seq_start(sequence + 1u)) - start;
let own = wid.x % p.per;
if (own >= rows || rows > ${FEW_ROWS}u) { return; }
let row_count = 1u;
let partial = wid.x;
`;

/** Tiles of a sequence begin at number `start / tileRows + sequence`, which leaves room enough for all of them. */
const LOCATE_TILE = `
let tile_number = nwg.x - 1u - wid.x;
var sequence = 0u;
var beyond = p.sequences;
while (beyond - sequence > 1u) {
  let middle = (sequence + beyond) / 2u;
  if (u32(seq_start(middle)) / p.tile_rows + middle <= tile_number) { sequence = middle; } else { beyond = middle; }
}
let start = u32(seq_start(sequence));
let rows = u32(seq_start(sequence + 1u)) - start;
let own = (tile_number - start / p.tile_rows - sequence) * p.tile_rows;
if (own >= rows || rows <= ${FEW_ROWS}u) { return; }
let row_count = min(p.tile_rows, rows - own);
`;

const LOCATE_KEYS = `
let first_row = start + own;
let position = u32(kv_len(sequence)) + own - rows;
let end_key = position + row_count;
let first_key = select(0u, position + 1u - p.window, position + 1u > p.window);
`;

function sourceOf(dtype: KvDType, tiling: Tiling, decode: boolean): KernelSource {
  const [element] = ELEMENTS[dtype];
  return flashSource({
    label: `attention ${decode ? 'decode' : 'prefill'}`,
    tiling,
    reads: [
      ['keys', element],
      ['values', element],
      ['seq_start', 'i32'],
      ['kv_len', 'i32'],
      ['block_table', 'i32'],
    ],
    numbers: ['kv_heads', 'block', 'key_stride', 'value_stride', 'window', 'blocks', decode ? 'per' : 'sequences'].map(
      number,
    ),
    declarations: `${SIGNED_BYTES}${cacheQuad('key', dtype)}\n${cacheQuad('value', dtype)}`,
    locate: `${decode ? LOCATE_ROW : LOCATE_TILE}${LOCATE_KEYS}`,
    place: '(u32(block_table(sequence * p.blocks + key / p.block)) * p.kv_heads + kv) * p.block + key % p.block',
    visible: 'key <= position + row && key + p.window > position + row',
    score: 's',
    splits: decode,
  });
}

/** Joins the partial results of the workgroups that shared a row's context: sums, then their peak and their total. */
const combineSource = (sinks: boolean): KernelSource => ({
  label: 'attention combine',
  reads: [['part', 'f32'], ['seq_start', 'i32'], ...(sinks ? ([['sinks', 'f32']] as const) : [])],
  writes: [['out', 'f32']],
  numbers: [number('n'), number('heads'), number('dim'), number('per'), number('splits')],
  workgroup: [LANES, 1, 1],
  body: `
let item = wid.y * nwg.x + wid.x;
if (item >= p.n) { return; }
let head = item % p.heads;
let place = item / p.heads;
let start = u32(seq_start(place / p.per));
let rows = u32(seq_start(place / p.per + 1u)) - start;
let own = place % p.per;
if (own >= rows || rows > ${FEW_ROWS}u) { return; }
let stride = p.dim + 2u;
let base = item * p.splits * stride;
var peak = ${sinks ? 'sinks(head)' : NOTHING};
for (var i = 0u; i < p.splits; i++) { peak = max(peak, part(base + i * stride + p.dim)); }
var total = ${sinks ? 'exp(sinks(head) - peak)' : '0.0'};
for (var i = 0u; i < p.splits; i++) {
  let at = base + i * stride + p.dim;
  total += part(at + 1u) * exp(part(at) - peak);
}
for (var d = li; d < p.dim; d += ${LANES}u) {
  var sum = 0.0;
  for (var i = 0u; i < p.splits; i++) {
    let at = base + i * stride;
    sum += part(at + d) * exp(part(at + p.dim) - peak);
  }
  set_out(((start + own) * p.heads + head) * p.dim + d, sum / total);
}`,
});

export function pagedOps(host: OpHost): Pick<OptionalOps, 'attention'> {
  const { recorder } = host;
  const { facts } = host.gpu;
  const made = new Map<string, Kernel>();
  const partOf = (dtype: KvDType, tiling: Tiling, decode: boolean, options: AttentionOptions): Part => {
    const key = JSON.stringify([dtype, decode, tiling]);
    let kernel = made.get(key);
    if (kernel === undefined) {
      kernel = new Kernel(host.gpu, sourceOf(dtype, tiling, decode));
      made.set(key, kernel);
    }
    return { kernel, tiling, sharing: sharingOf(tiling, options) };
  };
  const plans = new Plans<AttentionOptions, Plan>((options, type) => {
    const dtype = CACHE_TYPES[type] as KvDType;
    return {
      decode: partOf(dtype, decodeTiling(facts, options), true, options),
      prefill: partOf(dtype, prefillTiling(facts, options), false, options),
    };
  });
  const combine = lazy(host, () => combineSource(false));
  const combineSinks = lazy(host, () => combineSource(true));

  function start(part: Part, out: Tensor, q: Tensor, cache: GpuKvCache, batch: Batch, o: AttentionOptions): void {
    recorder
      .start(part.kernel)
      .bind(q)
      .bind(o.sinks ?? q)
      .bindStorage(cache.keys)
      .bindStorage(cache.values)
      .bind(batch.seqStart)
      .bind(batch.kvLen)
      .bind(batch.blockTable)
      .bind(out);
    putNumbers(recorder, o, part.sharing);
    const elementWords = QUAD_WORDS[cache.spec.dtype];
    recorder
      .u(o.kvHeads)
      .u(cache.blockSize)
      .u(cache.keyWords / elementWords)
      .u(cache.valueWords / elementWords)
      .u(o.window ?? 2 ** 31)
      .u(batch.blocksPerSequence);
  }

  return {
    attention(out, q, anyCache, batch, options) {
      const cache = anyCache as GpuKvCache;
      const plan = plans.of(options, cache.type);
      const { seqStart, kvLen } = batch.host;
      const { heads, kvHeads, valueDim, window = Infinity } = options;
      let per = 0;
      let longest = 0;
      let many = false;
      for (let s = 0; s < batch.sequences; s++) {
        const rows = (seqStart[s + 1] as number) - (seqStart[s] as number);
        if (rows > FEW_ROWS) many = true;
        else if (rows > 0) {
          per = Math.max(per, rows);
          longest = Math.max(longest, kvLen[s] as number);
        }
      }
      if (per > 0) {
        const { tiling, sharing } = plan.decode;
        const places = batch.sequences * per;
        const groups = kvHeads * sharing.runs;
        const splits = splitsOf(Math.ceil(Math.min(longest, window) / tiling.keys), places * groups);
        const target = splits > 1 ? host.scratch(places * heads * splits, valueDim + 2) : out;
        start(plan.decode, target, q, cache, batch, options);
        recorder.u(per).u(splits).dispatch(places, groups, splits);
        if (splits > 1) {
          const kernel = options.sinks ? combineSinks() : combine();
          recorder.start(kernel).bind(target).bind(batch.seqStart);
          if (options.sinks) recorder.bind(options.sinks);
          recorder
            .bind(out)
            .u(places * heads)
            .u(heads)
            .u(valueDim)
            .u(per)
            .u(splits)
            .dispatchGroups(places * heads);
        }
      }
      if (many) {
        const { tileRows, runs } = plan.prefill.sharing;
        start(plan.prefill, out, q, cache, batch, options);
        recorder.u(batch.sequences).dispatch(Math.floor(batch.rows / tileRows) + batch.sequences, kvHeads * runs);
        recorder.heavy();
      }
    },
  };
}

/** Workgroups that share a row's `tiles` of keys: a power of two, so that the sizes of steps repeat. */
function splitsOf(tiles: number, groups: number): number {
  const wanted = Math.min(tiles / 2, BUSY / groups, MAX_SPLITS);
  return tiles <= 4 || wanted < 2 ? 1 : 2 ** Math.floor(Math.log2(wanted));
}
