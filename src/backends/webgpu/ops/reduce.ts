import type { ReduceKind, RequiredOps } from '../../../core/backend.ts';
import type { Tensor } from '../../../core/tensor.ts';
import { kernels, lazy, type OpHost } from '../host.ts';
import type { KernelSource } from '../kernel.ts';
import { ITEM, LANES } from '../wgsl.ts';

/** Lanes of the workgroup that works on one line. */
const GROUP = 128;
/** Lines up to this long are the work of one lane each. */
const SHORT = 32;
/** Entries of a row that one workgroup looks through for the largest. */
const CHUNK = 2048;

interface Reduction {
  readonly start: string;
  /** Takes the value `v` into `total`. */
  readonly step: string;
  readonly end: string;
}

const LOWEST = 'bitcast<f32>(0xff800000u + p.zero)';

const REDUCTIONS: Readonly<Record<Exclude<ReduceKind, 'argmax'>, Reduction>> = {
  sum: { start: '0.0', step: 'total += v;', end: 'total' },
  mean: { start: '0.0', step: 'total += v;', end: 'total / f32(p.n)' },
  max: { start: LOWEST, step: 'total = max(total, v);', end: 'total' },
  min: { start: `-${LOWEST}`, step: 'total = min(total, v);', end: 'total' },
};

/** `zero` is 0: WGSL refuses an infinity that it can compute while compiling. */
const LINE_NUMBERS = [
  ['lines', 'u32'],
  ['n', 'u32'],
  ['stride', 'u32'],
  ['zero', 'u32'],
] as const;

/** First element of a line; the others follow at `p.stride`. */
const LINE_START = 'let first = line / p.stride * p.stride * p.n + line % p.stride;';

function shortSource(kind: Exclude<ReduceKind, 'argmax'>): KernelSource {
  const { start, step, end } = REDUCTIONS[kind];
  return {
    label: `reduce ${kind}`,
    reads: [['x', 'f32']],
    writes: [['out', 'f32']],
    numbers: LINE_NUMBERS,
    workgroup: [LANES, 1, 1],
    body: `${ITEM}
if (item >= p.lines) { return; }
let line = item;
${LINE_START}
var total = ${start};
for (var i = 0u; i < p.n; i++) { let v = x(first + i * p.stride); ${step} }
set_out(line, ${end});`,
  };
}

function longSource(kind: Exclude<ReduceKind, 'argmax'>): KernelSource {
  const { start, step, end } = REDUCTIONS[kind];
  return {
    label: `reduce ${kind} of long lines`,
    reads: [['x', 'f32']],
    writes: [['out', 'f32']],
    numbers: LINE_NUMBERS,
    workgroup: [GROUP, 1, 1],
    declarations: `var<workgroup> parts: array<f32, ${GROUP}>;`,
    body: `let line = wid.y * nwg.x + wid.x;
if (line >= p.lines) { return; }
${LINE_START}
var total = ${start};
for (var i = li; i < p.n; i += ${GROUP}u) { let v = x(first + i * p.stride); ${step} }
parts[li] = total;
workgroupBarrier();
for (var half = ${GROUP / 2}u; half > 0u; half /= 2u) {
  if (li < half) { total = parts[li]; let v = parts[li + half]; ${step} parts[li] = total; }
  workgroupBarrier();
}
if (li == 0u) { total = parts[0]; set_out(line, ${end}); }`,
  };
}

const cumsumSource = (): KernelSource => ({
  label: 'cumulative sum',
  reads: [['x', 'f32']],
  writes: [['out', 'f32']],
  numbers: LINE_NUMBERS,
  workgroup: [LANES, 1, 1],
  declarations: `var<workgroup> parts: array<f32, ${LANES}>;`,
  body: `let line = wid.y * nwg.x + wid.x;
if (line >= p.lines) { return; }
${LINE_START}
let piece = (p.n + ${LANES - 1}u) / ${LANES}u;
let start = min(li * piece, p.n);
let end = min(start + piece, p.n);
var total = 0.0;
for (var i = start; i < end; i++) { total += x(first + i * p.stride); }
parts[li] = total;
workgroupBarrier();
total = 0.0;
for (var lane = 0u; lane < li; lane++) { total += parts[lane]; }
for (var i = start; i < end; i++) { total += x(first + i * p.stride); set_out(first + i * p.stride, total); }`,
});

/** Numbers that are ordered like the values; zeros of both signs are equal, and NaN comes last. */
const ORDER = `
fn order(v: f32) -> u32 {
  let w = bitcast<u32>(v);
  let a = w & 0x7fffffffu;
  if (a > 0x7f800000u) { return 0u; }
  if (a == 0u) { return 0x80000000u; }
  return select(w | 0x80000000u, ~w, (w >> 31u) == 1u);
}
var<workgroup> keys: array<u32, ${GROUP}>;
var<workgroup> places: array<u32, ${GROUP}>;
fn before(key_a: u32, at_a: u32, key_b: u32, at_b: u32) -> bool {
  return key_a > key_b || (key_a == key_b && at_a < at_b);
}
`;

/**
 * One workgroup per part of a row: in each of `k` rounds it finds the best entry behind the one of the round before, in
 * falling order of values and rising order of places. `mapped`: places are looked up in the indices of an earlier pass.
 */
function topkSource(mapped: boolean, withValues: boolean): KernelSource {
  return {
    label: `top k${mapped ? ' of parts' : ''}${withValues ? '' : ', indices only'}`,
    reads: [['x', 'f32'], ...(mapped ? [['names', 'i32'] as const] : [])],
    writes: [...(withValues ? [['values', 'f32'] as const] : []), ['indices', 'i32']],
    numbers: [
      ['parts', 'u32'],
      ['rows', 'u32'],
      ['width', 'u32'],
      ['chunk', 'u32'],
      ['k', 'u32'],
    ],
    workgroup: [GROUP, 1, 1],
    declarations: ORDER,
    body: `let part = wid.y * nwg.x + wid.x;
if (part >= p.parts * p.rows) { return; }
let row = part / p.parts * p.width;
let start = part % p.parts * p.chunk;
let end = min(start + p.chunk, p.width);
var last_key = 0xffffffffu;
var last_at = 0u;
var first_round = true;
for (var round_number = 0u; round_number < p.k; round_number++) {
  var key = 0u;
  var at = 0xffffffffu;
  for (var i = start + li; i < end; i += ${GROUP}u) {
    let k = order(x(row + i));
    if ((first_round || before(last_key, last_at, k, i)) && (at == 0xffffffffu || before(k, i, key, at))) { key = k; at = i; }
  }
  keys[li] = key;
  places[li] = at;
  workgroupBarrier();
  for (var half = ${GROUP / 2}u; half > 0u; half /= 2u) {
    if (li < half) {
      let other = places[li + half];
      if (other != 0xffffffffu && (places[li] == 0xffffffffu || before(keys[li + half], other, keys[li], places[li]))) {
        keys[li] = keys[li + half];
        places[li] = other;
      }
    }
    workgroupBarrier();
  }
  last_key = keys[0];
  last_at = places[0];
  first_round = false;
  if (li == 0u) {
    let to = part * p.k + round_number;
    ${withValues ? 'if (last_at == 0xffffffffu) { set_values(to, bitcast<f32>(0x7fc00000u + p.k - p.k)); } else { set_values(to, x(row + last_at)); }' : ''}
    set_indices(to, i32(${mapped ? 'u32(names(row + min(last_at, p.width - 1u)))' : 'last_at'}));
  }
  workgroupBarrier();
}`,
  };
}

type ReduceOps = Pick<RequiredOps, 'reduce' | 'cumsum' | 'topk'>;

export function reduceOps(host: OpHost): ReduceOps {
  const { recorder } = host;
  const short = kernels(host, shortSource);
  const long = kernels(host, longSource);
  const running = lazy(host, cumsumSource);
  const plain = lazy(host, () => topkSource(false, true));
  const merging = lazy(host, () => topkSource(true, true));
  const plainIndices = lazy(host, () => topkSource(false, false));
  const mergingIndices = lazy(host, () => topkSource(true, false));
  const select = (
    values: Tensor | undefined,
    indices: Tensor,
    x: Tensor,
    rows: number,
    width: number,
    k: number,
  ): void => {
    // Several workgroups look through a long row; what they find is looked through once more.
    const parts = k < CHUNK / 4 ? Math.ceil(width / CHUNK) : 1;
    if (parts === 1) {
      recorder.start(values ? plain() : plainIndices()).bind(x);
      if (values) recorder.bind(values);
      recorder.bind(indices).u(1).u(rows).u(width).u(width).u(k).dispatchGroups(rows);
      return;
    }
    const best = host.scratch(rows, parts * k);
    const names = host.integers(rows * parts * k);
    recorder
      .start(plain())
      .bind(x)
      .bind(best)
      .bind(names)
      .u(parts)
      .u(rows)
      .u(width)
      .u(CHUNK)
      .u(k)
      .dispatchGroups(rows * parts);
    recorder
      .start(values ? merging() : mergingIndices())
      .bind(best)
      .bind(names);
    if (values) recorder.bind(values);
    recorder
      .bind(indices)
      .u(1)
      .u(rows)
      .u(parts * k)
      .u(parts * k)
      .u(k)
      .dispatchGroups(rows);
  };
  return {
    reduce(kind, out, x, axis) {
      const n = x.shape[axis] as number;
      let stride = 1;
      for (let i = axis + 1; i < x.rank; i++) stride *= x.shape[i] as number;
      if (kind === 'argmax') {
        if (stride === 1) return select(undefined, out, x, out.size, n, 1);
        const turned = host.scratch(out.size, n);
        const moved = [...x.shape.keys()].filter((a) => a !== axis);
        x.backend.ops.permute(turned.reshape([...moved.map((a) => x.shape[a] as number), n]), x, [...moved, axis]);
        return select(undefined, out, turned, out.size, n, 1);
      }
      const kernel = n > SHORT ? long(kind) : short(kind);
      recorder.start(kernel).bind(x).bind(out).u(out.size).u(n).u(stride).u(0);
      if (n > SHORT) recorder.dispatchGroups(out.size);
      else recorder.dispatchItems(out.size, LANES);
    },
    cumsum(out, x, axis) {
      const n = x.shape[axis] as number;
      let stride = 1;
      for (let i = axis + 1; i < x.rank; i++) stride *= x.shape[i] as number;
      const lines = out.size / n;
      recorder.start(running()).bind(x).bind(out).u(lines).u(n).u(stride).u(0).dispatchGroups(lines);
    },
    topk(values, indices, x, k) {
      select(values, indices, x, x.rowCount, x.width, k);
    },
  };
}
