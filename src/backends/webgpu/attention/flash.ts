/**
 * The attention kernel: a tile of queries (rows × heads that share keys) meets the keys tile by tile, with a running
 * maximum and sum per query (Dao et al. 2022, "FlashAttention"). Where keys come from and which are seen is the caller's.
 */
import type { Tensor } from '../../../core/tensor.ts';
import type { KernelSource } from '../kernel.ts';
import type { Recorder } from '../recorder.ts';
import { FUNCTIONS } from '../wgsl.ts';
import {
  columnWidthOf,
  type HeadShape,
  lanesOf,
  odd,
  queriesOf,
  queryQuads,
  type Sharing,
  softmaxLanesOf,
  stagedQuads,
  type Tiling,
} from './tiling.ts';

export interface FlashSource {
  readonly label: string;
  readonly tiling: Tiling;
  /** Operands behind the queries and the sinks. */
  readonly reads: KernelSource['reads'];
  /** Numbers behind those of `putNumbers`. */
  readonly numbers: KernelSource['numbers'];
  /** `key_quad(place, d)` and `value_quad(place, d)`, and whatever they need. */
  readonly declarations: string;
  /**
   * Defines `first_row`, `row_count` (of the tile), `position` (key of the first row), `first_key`, `end_key` and with
   * `splits` also `partial` (number of the first row among the partial results); may return.
   */
  readonly locate: string;
  /** Place of key `key`, for `key_quad`. */
  readonly place: string;
  /** Whether the query at row `row` of the tile sees `key`. */
  readonly visible: string;
  /** The score `s` of head `head`, row `first_row + row` and `key`, as an expression. */
  readonly score: string;
  /** Several workgroups may share the keys of a tile (`p.splits`); with more than one, `out` takes partial results. */
  readonly splits: boolean;
}

export const number = (name: string) => [name, 'u32'] as const;

const NUMBERS: KernelSource['numbers'] = [
  ['scale', 'f32'],
  ['cap', 'f32'],
  ...['heads', 'group', 'runs', 'at_once', 'tile_rows', 'dim', 'value_dim', 'with_sinks'].map(number),
];

export interface FlashOptions extends HeadShape {
  readonly scale: number;
  readonly softcap?: number | undefined;
  readonly sinks?: Tensor | undefined;
}

/** The numbers that every attention kernel begins with. */
export function putNumbers(recorder: Recorder, o: FlashOptions, sharing: Sharing): void {
  recorder
    .f(o.scale)
    .f(o.softcap ?? 0)
    .u(o.heads)
    .u(o.heads / o.kvHeads)
    .u(sharing.runs)
    .u(sharing.headsAtOnce)
    .u(sharing.tileRows)
    .u(o.headDim)
    .u(o.valueDim)
    .u(o.sinks ? 1 : 0);
}

/** Peak of scores where there were none; scores of keys that are not seen; the lowest score of one that is. */
export const NOTHING = '-3.4e38';
const UNSEEN = '-3.2e38';
export const LOWEST = '-3e38';

const range = (n: number) => Array.from({ length: n }, (_, i) => i);
const each = (n: number, line: (i: number) => string) => range(n).map(line).join('\n');
const eachPair = (n: number, m: number, line: (i: number, j: number) => string) =>
  each(n, (i) => each(m, (j) => line(i, j)));

/** A function of four entries of operand `name` from `at + 4 d` on, with zeros behind `dim`. */
export const quad = (name: string, dim: string) => `fn ${name}_entries(start: u32, d: u32) -> vec4<f32> {
  let at = start + 4u * d;
  if (4u * d + 4u <= ${dim}) { return vec4<f32>(${range(4)
    .map((i) => `${name}(at + ${i}u)`)
    .join(', ')}); }
  var four = vec4<f32>();
  for (var i = 0u; 4u * d + i < ${dim}; i++) { four[i] = ${name}(at + i); }
  return four;
}`;

/** The weight of one query for one key. */
const weight = (t: Tiling, query: string, key: string) => `weights[(${query}) * ${t.keys + 1}u + ${key}]`;

export function flashSource(f: FlashSource): KernelSource {
  const { tiling: t } = f;
  const lanes = lanesOf(t);
  const queries = queriesOf(t);
  const softmaxLanes = softmaxLanesOf(t);
  return {
    label: f.label,
    reads: [['q', 'f32'], ['sinks', 'f32'], ...f.reads],
    writes: [['out', 'f32']],
    numbers: [...NUMBERS, ...f.numbers, ...(f.splits ? [number('splits')] : [])],
    workgroup: [lanes, 1, 1],
    declarations: `${FUNCTIONS}
${f.declarations}
${quad('q', 'p.dim')}
fn put(at: u32, d: u32, v: vec4<f32>) {
  for (var i = 0u; i < 4u; i++) {
    if (4u * d + i < p.value_dim) { set_out(at + 4u * d + i, v[i]); }
  }
}
var<workgroup> queries: array<vec4<f32>, ${queryQuads(t)}>;
var<workgroup> staged: array<vec4<f32>, ${stagedQuads(t)}>;
var<workgroup> weights: array<f32, ${queries * (t.keys + 1)}>;
var<workgroup> parts: array<f32, ${queries * softmaxLanes}>;
var<workgroup> factors: array<f32, ${queries}>;
var<workgroup> peaks: array<f32, ${queries}>;
var<workgroup> places: array<u32, ${t.keys}>;`,
    body: `${f.locate}
let quads = (p.dim + 3u) / 4u;
let value_quads = (p.value_dim + 3u) / 4u;
let kv = wid.y / p.runs;
let first_head = kv * p.group + wid.y % p.runs * p.at_once;
let head_count = min(p.at_once, (kv + 1u) * p.group - first_head);
let lane_row = li / ${t.columnLanes}u * ${t.rows}u;
let lane_column = li % ${t.columnLanes}u;
let soft_row = li / ${softmaxLanes}u;
let soft_lane = li % ${softmaxLanes}u;
let soft = soft_row < ${queries}u;
let row_0 = lane_row / p.at_once;
let head_0 = lane_row % p.at_once;
${each(
  t.rows - 1,
  (r) => `let turns_${r} = head_${r} + 1u == p.at_once;
let row_${r + 1} = select(row_${r}, row_${r} + 1u, turns_${r});
let head_${r + 1} = select(head_${r} + 1u, 0u, turns_${r});`,
)}
var begin = first_key / ${t.keys}u;
var end = (end_key + ${t.keys - 1}u) / ${t.keys}u;
${
  f.splits
    ? `let share = (end - begin + p.splits - 1u) / p.splits;
begin += wid.z * share;
end = min(end, begin + share);`
    : ''
}
${eachPair(t.rows, t.columns, (r, c) => `var sum_${r}_${c} = vec4<f32>();`)}
var peak = ${NOTHING};
var total = 0.0;
${t.keptQuads ? stageQueries(t, '0u', 'quads') : ''}
for (var tile = begin; tile < end; tile++) {
  let tile_key = tile * ${t.keys}u;
  for (var i = li; i < ${t.keys}u; i += ${lanes}u) {
    let key = min(tile_key + i, end_key - 1u);
    places[i] = ${f.place};
  }
  workgroupBarrier();
${scores(f)}
${softmax(t)}
${addValues(t)}
}
${finish(f)}`,
  };
}

/** Queries of the tile go by row, then by head. */
function stageQueries(t: Tiling, first: string, count: string): string {
  return `for (var i = li; i < ${queriesOf(t)}u * ${count}; i += ${lanesOf(t)}u) {
  let query = i / ${count};
  let d = ${first} + i % ${count};
  let row = query / p.at_once;
  let head = query % p.at_once;
  var v = vec4<f32>();
  if (row < row_count && head < head_count && d < quads) {
    v = q_entries(((first_row + row) * p.heads + first_head + head) * p.dim, d);
  }
  queries[query * ${odd(t.keptQuads || t.chunk)}u + i % ${count}] = v;
}`;
}

/** Products of the lane's queries and keys, then scores of the keys that are seen. */
function scores(f: FlashSource): string {
  const { tiling: t } = f;
  const keys = t.keys / t.columnLanes;
  const stride = odd(t.chunk);
  const queryStride = odd(t.keptQuads || t.chunk);
  const chunk = `${t.chunk}u`;
  return `
${eachPair(t.rows, keys, (r, k) => `var s_${r}_${k} = 0.0;`)}
for (var base = 0u; base < quads; base += ${chunk}) {
  for (var i = li; i < ${t.keys * t.chunk}u; i += ${lanesOf(t)}u) {
    let d = base + i % ${chunk};
    var v = vec4<f32>();
    if (d < quads) { v = key_quad(places[i / ${chunk}], d); }
    staged[i / ${chunk} * ${stride}u + i % ${chunk}] = v;
  }
  ${t.keptQuads ? '' : stageQueries(t, 'base', chunk)}
  workgroupBarrier();
  for (var d = 0u; d < ${chunk}; d++) {
    ${each(keys, (k) => `let key_${k} = staged[(lane_column + ${k * t.columnLanes}u) * ${stride}u + d];`)}
    ${each(t.rows, (r) => `let query_${r} = queries[(lane_row + ${r}u) * ${queryStride}u + ${t.keptQuads ? 'base + d' : 'd'}];`)}
    ${eachPair(t.rows, keys, (r, k) => `s_${r}_${k} += dot(query_${r}, key_${k});`)}
  }
  workgroupBarrier();
}
${eachPair(
  t.rows,
  keys,
  (r, k) => `{
  let row = row_${r};
  let head = first_head + head_${r};
  let key = tile_key + lane_column + ${k * t.columnLanes}u;
  var s = s_${r}_${k} * p.scale;
  if (p.cap > 0.0) { s = p.cap * tanh_exact(s / p.cap); }
  ${weight(t, `lane_row + ${r}u`, `lane_column + ${k * t.columnLanes}u`)} = select(${NOTHING}, ${f.score}, key < end_key && ${f.visible});
}`,
)}
workgroupBarrier();`;
}

/** Scores become weights relative to the peak so far; `factors` say how much earlier ones shrink. */
function softmax(t: Tiling): string {
  const lanes = softmaxLanesOf(t);
  const at = weight(t, 'soft_row', 'k');
  const loop = `for (var k = soft_lane; k < ${t.keys}u; k += ${lanes}u)`;
  return `
var higher = ${NOTHING};
if (soft) {
  ${loop} { higher = max(higher, ${at}); }
  parts[li] = higher;
}
workgroupBarrier();
if (soft) {
  higher = peak;
  for (var i = 0u; i < ${lanes}u; i++) { higher = max(higher, parts[soft_row * ${lanes}u + i]); }
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

function addValues(t: Tiling): string {
  const width = columnWidthOf(t);
  const padded = t.columns * width;
  const column = (c: number) => `lane_column % ${width}u + ${c * width}u`;
  const add = (value: (c: number) => string, key: string) => `
${each(t.columns, (c) => `let value_${c} = ${value(c)};`)}
${each(
  t.rows,
  (r) => `let w_${r} = ${weight(t, `lane_row + ${r}u`, key)};
${each(t.columns, (c) => `sum_${r}_${c} = fma(vec4<f32>(w_${r}), value_${c}, sum_${r}_${c});`)}`,
)}`;
  const begin = `${each(
    t.rows,
    (r) => `let fade_${r} = factors[lane_row + ${r}u];
${each(t.columns, (c) => `sum_${r}_${c} *= fade_${r};`)}`,
  )}
let seen = min(${t.keys}u, end_key - tile_key);`;
  if (t.valueKeys === 0) {
    const read = (c: number) => `value_quad(places[k], min(${column(c)}, value_quads - 1u))`;
    return `${begin}
for (var k = lane_column / ${width}u; k < seen; k += ${t.slices}u) {${add(read, 'k')}
}
workgroupBarrier();`;
  }
  return `${begin}
for (var base = 0u; base < seen; base += ${t.valueKeys}u) {
  for (var i = li; i < ${t.valueKeys * padded}u; i += ${lanesOf(t)}u) {
    staged[i] = value_quad(places[min(base + i / ${padded}u, seen - 1u)], min(i % ${padded}u, value_quads - 1u));
  }
  workgroupBarrier();
  let count = min(${t.valueKeys}u, seen - base);
  for (var k = lane_column / ${width}u; k < count; k += ${t.slices}u) {${add((c) => `staged[k * ${padded}u + ${column(c)}]`, 'base + k')}
  }
  workgroupBarrier();
}`;
}

/** Sums of slices and lanes come together; whole results are divided and meet the sinks, partial ones carry both. */
function finish(f: FlashSource): string {
  const { tiling: t } = f;
  const width = columnWidthOf(t);
  const softmaxLanes = softmaxLanesOf(t);
  const whole = `if (p.with_sinks != 0u) {
      let sink = sinks(first_head + min(li % p.at_once, head_count - 1u));
      let higher = max(all, sink);
      factor = exp(all - higher) / (sum * exp(all - higher) + exp(sink - higher));
    } else {
      factor = select(1.0 / sum, 0.0, sum == 0.0);
    }`;
  const place = (row: string, head: string) =>
    `(((partial + ${row}) * p.heads + first_head + ${head}) * p.splits + wid.z) * (p.value_dim + 2u)`;
  const merge = `
${each(t.rows, (r) => `staged[${r * lanesOf(t)}u + li] = sum_${r}_0;`)}
workgroupBarrier();
if (lane_column < ${width}u) {
  for (var i = 1u; i < ${t.slices}u; i++) {
    ${each(t.rows, (r) => `sum_${r}_0 += staged[${r * lanesOf(t)}u + li + i * ${width}u];`)}
  }
}`;
  return `
if (soft) {
  parts[li] = total;
  if (soft_lane == 0u) { peaks[soft_row] = peak; }
}
workgroupBarrier();
if (li < ${queriesOf(t)}u) {
  var sum = 0.0;
  for (var i = 0u; i < ${softmaxLanes}u; i++) { sum += parts[li * ${softmaxLanes}u + i]; }
  let all = peaks[li];
  var factor = 1.0;
  ${
    f.splits
      ? `if (p.splits > 1u) {
    let row = li / p.at_once;
    let head = li % p.at_once;
    if (row < row_count && head < head_count) {
      let at = ${place('row', 'head')} + p.value_dim;
      set_out(at, all);
      set_out(at + 1u, sum);
    }
  } else {
    ${whole}
  }`
      : whole
  }
  factors[li] = factor;
}
workgroupBarrier();
${t.slices > 1 ? merge : ''}
${each(
  t.rows,
  (r) => `if (row_${r} < row_count && head_${r} < head_count && lane_column < ${width}u) {
  let factor = factors[lane_row + ${r}u];
  var at = ((first_row + row_${r}) * p.heads + first_head + head_${r}) * p.value_dim;
  ${f.splits ? `if (p.splits > 1u) { at = ${place(`row_${r}`, `head_${r}`)}; }` : ''}
  ${each(t.columns, (c) => `put(at, lane_column + ${c * width}u, sum_${r}_${c} * factor);`)}
}`,
)}`;
}
