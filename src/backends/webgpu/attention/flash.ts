/**
 * The attention kernel: a tile of queries (rows × heads that share keys) meets the keys tile by tile, with a running
 * maximum and sum per query (Dao et al. 2022, "FlashAttention"). Where keys come from and which are seen is the caller's.
 */
import type { KernelSource } from '../kernel.ts';
import { FUNCTIONS } from '../wgsl.ts';
import { type HeadShape, lanesOf, odd, type Tiling } from './tiling.ts';

export interface FlashSource {
  readonly label: string;
  readonly shape: HeadShape;
  readonly tiling: Tiling;
  /** Operands behind the queries. */
  readonly reads: KernelSource['reads'];
  readonly numbers: KernelSource['numbers'];
  /** `key_quad(place, d)` and `value_quad(place, d)`, and whatever they need. */
  readonly declarations: string;
  /**
   * Defines `first_row`, `row_count` (of the tile), `position` (key of the first row), `first_key`, `end_key` and
   * `tile_x` (number of the tile's first row among the partial results); may return.
   */
  readonly locate: string;
  /** Place of key `key`, for `key_quad`. */
  readonly place: string;
  /** Whether the query at row `row` of the tile sees `key`. */
  readonly visible: string;
  /** The score `s` of head `head`, row `first_row + row` and `key`, scaled, as an expression. */
  readonly score: string;
  readonly softcap: boolean;
  readonly sinks: boolean;
  /** Several workgroups may share the keys of a tile (`p.splits`); with more than one, `out` takes partial results. */
  readonly splits: boolean;
}

/** Scores from here down belong to keys that are not seen. */
export const NOTHING = '-3.4e38';
export const UNSEEN = '-3.2e38';
/** A score that is added to, so that it stays above. */
export const LOWEST = '-3e38';

const range = (n: number) => Array.from({ length: n }, (_, i) => i);
const each = (n: number, line: (i: number) => string) => range(n).map(line).join('\n');
const eachPair = (n: number, m: number, line: (i: number, j: number) => string) =>
  range(n)
    .flatMap((i) => range(m).map((j) => line(i, j)))
    .join('\n');

/** Four entries of `name` from `at + 4 d` on, zeros behind `dim`. */
export const quad = (name: string, dim: number) => {
  const entry = (i: number) =>
    dim % 4 === 0 || i === 0 ? `${name}(at + ${i}u)` : `select(0.0, ${name}(at + ${i}u), 4u * d + ${i}u < ${dim}u)`;
  return `fn ${name}_quad(base: u32, d: u32) -> vec4<f32> {
  let at = base + 4u * d;
  return vec4<f32>(${range(4).map(entry).join(', ')});
}`;
};

export function flashSource(f: FlashSource): KernelSource {
  const { shape, tiling: t } = f;
  const lanes = lanesOf(t);
  return {
    label: f.label,
    reads: [['q', 'f32'], ...f.reads, ...(f.sinks ? ([['sinks', 'f32']] as const) : [])],
    writes: [['out', 'f32']],
    numbers: [['scale', 'f32'], ['cap', 'f32'], ...f.numbers, ...(f.splits ? ([['splits', 'u32']] as const) : [])],
    workgroup: [lanes, 1, 1],
    declarations: `${f.softcap ? FUNCTIONS : ''}
${f.declarations}
${quad('q', shape.headDim)}
fn put(at: u32, d: u32, v: vec4<f32>) {
  ${each(4, (i) =>
    shape.valueDim % 4 === 0 || i === 0
      ? `set_out(at + 4u * d + ${i}u, v[${i}]);`
      : `if (4u * d + ${i}u < ${shape.valueDim}u) { set_out(at + 4u * d + ${i}u, v[${i}]); }`,
  )}
}
var<workgroup> queries: array<vec4<f32>, ${t.queries * odd(t.keepQueries ? Math.ceil(shape.headDim / 4) : t.chunk)}>;
var<workgroup> staged: array<vec4<f32>, ${t.staged}>;
var<workgroup> weights: array<f32, ${t.queries * (t.keys + 1)}>;
var<workgroup> shared_parts: array<f32, ${t.queries * t.softmaxLanes}>;
var<workgroup> factors: array<f32, ${t.queries}>;
var<workgroup> peaks: array<f32, ${t.queries}>;
var<workgroup> places: array<u32, ${t.keys}>;`,
    body: `${f.locate}
let kv = wid.y / ${t.headRuns}u;
let first_head = kv * ${shape.heads / shape.kvHeads}u + (wid.y % ${t.headRuns}u) * ${t.headsAtOnce}u;
let head_count = min(${t.headsAtOnce}u, (kv + 1u) * ${shape.heads / shape.kvHeads}u - first_head);
let lane_row = li / ${t.columnLanes}u * ${t.rows}u;
let lane_column = li % ${t.columnLanes}u;
let soft_row = li / ${t.softmaxLanes}u;
let soft_lane = li % ${t.softmaxLanes}u;
let soft = soft_row < ${t.queries}u;
var begin = first_key / ${t.keys}u;
var end = (end_key + ${t.keys - 1}u) / ${t.keys}u;
${
  f.splits
    ? `let share = (end - begin + p.splits - 1u) / p.splits;
begin += wid.z * share;
end = min(end, begin + share);`
    : ''
}
${eachPair(t.rows, columnsOf(f), (r, c) => `var sum_${r}_${c} = vec4<f32>();`)}
var peak = ${NOTHING};
var total = 0.0;
${t.keepQueries ? stageQueries(f, '0u', `${Math.ceil(shape.headDim / 4)}u`) : ''}
for (var tile = begin; tile < end; tile++) {
  let tile_key = tile * ${t.keys}u;
  for (var i = li; i < ${t.keys}u; i += ${lanes}u) {
    let key = min(tile_key + i, end_key - 1u);
    places[i] = ${f.place};
  }
  workgroupBarrier();
${scores(f)}
${softmax(f)}
${addValues(f)}
}
${finish(f)}`,
  };
}

const columnsOf = ({ shape, tiling }: FlashSource) =>
  Math.max(1, Math.ceil(Math.ceil(shape.valueDim / 4) / tiling.columnLanes));

/** Queries of the tile go by row, then by head. */
const rowOf = (t: Tiling, query: string) => `(${query}) / ${t.headsAtOnce}u`;
const headOf = (t: Tiling, query: string) => `(${query}) % ${t.headsAtOnce}u`;

function stageQueries({ shape, tiling: t }: FlashSource, first: string, count: string): string {
  const stride = odd(t.keepQueries ? Math.ceil(shape.headDim / 4) : t.chunk);
  return `for (var i = li; i < ${t.queries}u * ${count}; i += ${lanesOf(t)}u) {
  let query = i / ${count};
  let row = ${rowOf(t, 'query')};
  let head = ${headOf(t, 'query')};
  var v = vec4<f32>();
  if (row < row_count && head < head_count) {
    v = q_quad(((first_row + row) * ${shape.heads}u + first_head + head) * ${shape.headDim}u, ${first} + i % ${count});
  }
  queries[query * ${stride}u + i % ${count}] = v;
}`;
}

/** Products of the lane's queries and keys, then scores of the keys that are seen. */
function scores(f: FlashSource): string {
  const { shape, tiling: t } = f;
  const quads = Math.ceil(shape.headDim / 4);
  const keys = t.keys / t.columnLanes;
  const stride = odd(t.chunk);
  const count = quads % t.chunk === 0 ? `${t.chunk}u` : 'count';
  const queryStride = odd(t.keepQueries ? quads : t.chunk);
  return `
${eachPair(t.rows, keys, (r, k) => `var s_${r}_${k} = 0.0;`)}
for (var base = 0u; base < ${quads}u; base += ${t.chunk}u) {
  ${count === 'count' ? `let count = min(${t.chunk}u, ${quads}u - base);` : ''}
  for (var i = li; i < ${t.keys}u * ${count}; i += ${lanesOf(t)}u) {
    staged[i / ${count} * ${stride}u + i % ${count}] = key_quad(places[i / ${count}], base + i % ${count});
  }
  ${t.keepQueries ? '' : stageQueries(f, 'base', count)}
  workgroupBarrier();
  for (var d = 0u; d < ${count}; d++) {
    ${each(keys, (k) => `let key_${k} = staged[(lane_column + ${k * t.columnLanes}u) * ${stride}u + d];`)}
    ${each(t.rows, (r) => `let query_${r} = queries[(lane_row + ${r}u) * ${queryStride}u + ${t.keepQueries ? 'base + d' : 'd'}];`)}
    ${eachPair(t.rows, keys, (r, k) => `s_${r}_${k} += dot(query_${r}, key_${k});`)}
  }
  workgroupBarrier();
}
${each(
  t.rows,
  (r) => `{
  let row = ${rowOf(t, `lane_row + ${r}u`)};
  let head = first_head + ${headOf(t, `lane_row + ${r}u`)};
  ${each(
    keys,
    (k) => `{
    let key = tile_key + lane_column + ${k * t.columnLanes}u;
    var s = s_${r}_${k} * p.scale;
    ${f.softcap ? 's = p.cap * tanh_exact(s / p.cap);' : ''}
    weights[(lane_row + ${r}u) * ${t.keys + 1}u + lane_column + ${k * t.columnLanes}u] = select(${NOTHING}, ${f.score}, key < end_key && ${f.visible});
  }`,
  )}
}`,
)}
workgroupBarrier();`;
}

/** Scores become weights relative to the peak so far; `factors` say how much earlier ones shrink. */
function softmax({ tiling: t }: FlashSource): string {
  const at = `weights[soft_row * ${t.keys + 1}u + k]`;
  const loop = `for (var k = soft_lane; k < ${t.keys}u; k += ${t.softmaxLanes}u)`;
  return `
var higher = ${NOTHING};
if (soft) {
  ${loop} { higher = max(higher, ${at}); }
  shared_parts[li] = higher;
}
workgroupBarrier();
if (soft) {
  higher = peak;
  for (var i = 0u; i < ${t.softmaxLanes}u; i++) { higher = max(higher, shared_parts[soft_row * ${t.softmaxLanes}u + i]); }
  let fade = exp(peak - higher);
  total *= fade;
  peak = higher;
  ${loop} {
    let s = ${at};
    let w = select(exp(s - higher), 0.0, s <= ${UNSEEN});
    ${at} = w;
    total += w;
  }
  if (soft_lane == 0u) { factors[soft_row] = fade; }
}
workgroupBarrier();`;
}

function addValues(f: FlashSource): string {
  const { shape, tiling: t } = f;
  const quads = Math.ceil(shape.valueDim / 4);
  const columns = columnsOf(f);
  const width = t.columnLanes / t.slices;
  const column = (c: number) => `min(lane_column % ${width}u + ${c * t.columnLanes}u, ${quads - 1}u)`;
  const add = (value: (c: number) => string, key: string) => `
${each(columns, (c) => `let value_${c} = ${value(c)};`)}
${each(
  t.rows,
  (r) => `{
  let w = weights[(lane_row + ${r}u) * ${t.keys + 1}u + ${key}];
  ${each(columns, (c) => `sum_${r}_${c} = fma(vec4<f32>(w), value_${c}, sum_${r}_${c});`)}
}`,
)}`;
  const fade = each(
    t.rows,
    (r) => `{
  let fade = factors[lane_row + ${r}u];
  ${each(columns, (c) => `sum_${r}_${c} *= fade;`)}
}`,
  );
  const first = `lane_column / ${width}u`;
  if (t.valueKeys === 0) {
    return `${fade}
let seen = min(${t.keys}u, end_key - tile_key);
for (var k = ${first}; k < seen; k += ${t.slices}u) {${add((c) => `value_quad(places[k], ${column(c)})`, 'k')}
}
workgroupBarrier();`;
  }
  return `${fade}
let seen = min(${t.keys}u, end_key - tile_key);
for (var base = 0u; base < seen; base += ${t.valueKeys}u) {
  for (var i = li; i < ${t.valueKeys * quads}u; i += ${lanesOf(t)}u) {
    staged[i] = value_quad(places[min(base + i / ${quads}u, ${t.keys - 1}u)], i % ${quads}u);
  }
  workgroupBarrier();
  let count = min(${t.valueKeys}u, seen - base);
  for (var k = ${first}; k < count; k += ${t.slices}u) {${add((c) => `staged[k * ${quads}u + ${column(c)}]`, 'base + k')}
  }
  workgroupBarrier();
}`;
}

/** Sums of slices and lanes come together; whole results are divided and meet the sinks, partial ones carry both. */
function finish(f: FlashSource): string {
  const { shape, tiling: t } = f;
  const quads = Math.ceil(shape.valueDim / 4);
  const columns = columnsOf(f);
  const width = t.columnLanes / t.slices;
  const merge = (r: number) => `
staged[li] = sum_${r}_0;
workgroupBarrier();
if (lane_column < ${width}u) { ${each(t.slices - 1, (i) => `sum_${r}_0 += staged[li + ${(i + 1) * width}u];`)} }
workgroupBarrier();`;
  const sink = f.sinks
    ? `let sink = sinks(first_head + min(${headOf(t, 'li')}, head_count - 1u));
    let higher = max(all, sink);
    factor = exp(all - higher) / (sum * exp(all - higher) + exp(sink - higher));`
    : 'factor = 1.0 / sum;';
  return `
if (soft) {
  shared_parts[li] = total;
  if (soft_lane == 0u) { peaks[soft_row] = peak; }
}
workgroupBarrier();
if (li < ${t.queries}u) {
  var sum = 0.0;
  for (var i = 0u; i < ${t.softmaxLanes}u; i++) { sum += shared_parts[li * ${t.softmaxLanes}u + i]; }
  let all = peaks[li];
  var factor = 1.0;
  ${
    f.splits
      ? `if (p.splits > 1u) {
    let row = ${rowOf(t, 'li')};
    let head = ${headOf(t, 'li')};
    if (row < row_count && head < head_count) {
      let at = (((tile_x + row) * ${shape.heads}u + first_head + head) * p.splits + wid.z) * ${shape.valueDim + 2}u;
      set_out(at + ${shape.valueDim}u, all);
      set_out(at + ${shape.valueDim + 1}u, sum);
    }
  } else {
    ${sink}
  }`
      : sink
  }
  factors[li] = select(factor, 0.0, sum == 0.0${f.splits ? ' && p.splits == 1u' : ''});
}
workgroupBarrier();
${t.slices > 1 ? each(t.rows, merge) : ''}
${each(
  t.rows,
  (r) => `{
  let row = ${rowOf(t, `lane_row + ${r}u`)};
  let head = ${headOf(t, `lane_row + ${r}u`)};
  if (row < row_count && head < head_count && lane_column < ${Math.min(width, quads)}u) {
    let factor = factors[lane_row + ${r}u];
    ${
      f.splits
        ? `var at = ((first_row + row) * ${shape.heads}u + first_head + head) * ${shape.valueDim}u;
    if (p.splits > 1u) { at = (((tile_x + row) * ${shape.heads}u + first_head + head) * p.splits + wid.z) * ${shape.valueDim + 2}u; }`
        : `let at = ((first_row + row) * ${shape.heads}u + first_head + head) * ${shape.valueDim}u;`
    }
    ${each(columns, (c) => `if (lane_column + ${c * t.columnLanes}u < ${quads}u) { put(at, lane_column + ${c * t.columnLanes}u, sum_${r}_${c} * factor); }`)}
  }
}`,
)}`;
}
