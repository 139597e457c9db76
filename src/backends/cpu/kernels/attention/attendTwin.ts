import type { Fields, Views } from '../../kernel.ts';
import { ROUNDER, roundEven, scalarLanes } from '../lanes.ts';
import { expNegative, tanh } from '../math.ts';
import { reduceTwin } from '../rows.ts';
import type { ATTEND_FIELDS } from './attendTile.ts';
import {
  BYTE_GROUP,
  type CacheKind,
  CHUNK,
  KEY_NORM,
  PARTIAL_HEADER,
  SCALE_BYTES,
  STEP_BYTES,
  stepBytesOf,
  WEIGHT_MAX,
  WEIGHT_SUM,
  WIDE,
} from './layout.ts';

type Args = Fields<typeof ATTEND_FIELDS>;

const m = scalarLanes;
const LOWEST = Math.fround(-3.4028234663852886e38);

/** A query of the tile: integers or floats, its running softmax and its outputs. */
interface Query {
  readonly words: Float64Array;
  readonly factor: number;
  readonly last: number;
  readonly outputs: Float32Array;
  readonly sums: Float32Array;
  max: number;
  /** Over all segments that are folded. */
  readonly totals: Float32Array;
  totalSum: number;
  totalMax: number;
}

/** See `attend.ts`; the same steps for one query after the other. */
export function attendTwin(kind: CacheKind, latent: boolean, views: Views, a: Args, tid: number, nt: number): void {
  const { i32 } = views;
  let item = tid;
  let base = 0;
  for (let sequence = 0; sequence < a.sequences; sequence++) {
    const first = i32[(a.seqStart >>> 2) + sequence]!;
    const rows = i32[(a.seqStart >>> 2) + sequence + 1]! - first;
    const length = i32[(a.kvLen >>> 2) + sequence]!;
    const tiles = Math.ceil(rows / a.tileRows);
    const firstVisible = (position: number) =>
      a.window ? Math.floor(Math.max(0, position + 1 - a.window) / CHUNK) : 0;
    const firstChunk = firstVisible(length - rows);
    const firstSegment = Math.floor(firstChunk / a.segmentChunks);
    const pieces = a.split ? Math.ceil(Math.ceil(length / CHUNK) / a.segmentChunks) - firstSegment : 1;
    const end = base + tiles * pieces * a.kvHeads;
    for (; item < end; item += nt) {
      const unit = Math.floor((item - base) / pieces);
      const piece = (item - base) % pieces;
      const head = unit % a.kvHeads;
      const row = Math.floor(unit / a.kvHeads) * a.tileRows;
      const count = Math.min(rows - row, a.tileRows);
      const position = length - rows + row;
      let from = firstVisible(position);
      let to = Math.ceil((a.causal ? position + count : length) / CHUNK);
      if (a.split) {
        const start = (firstSegment + piece) * a.segmentChunks;
        from = Math.max(start, firstChunk);
        to = Math.min(to, start + a.segmentChunks);
      }
      for (let i = 0; i < count * a.group; i++) {
        const tileRow = Math.floor(i / a.group);
        const member = head * a.group + (i % a.group);
        const last = a.causal ? position + tileRow : length - 1;
        const query = readQuery(kind, views, a, first + row + tileRow, member, last);
        let folds = 0;
        for (let chunk = from; chunk < to; chunk++) {
          attendChunk({ kind, latent }, views, a, sequence, head, chunk, length, query);
          if (chunk + 1 < to && (chunk + 1) % a.segmentChunks === 0) {
            fold(query);
            folds++;
          }
        }
        if (a.split) {
          storePartial(views, a, item * a.tileRows * a.group + i, query);
        } else {
          if (folds > 0) takeTotals(query);
          finish(views, a, first + row + tileRow, member, query);
        }
      }
    }
    base = end;
  }
}

function readQuery(kind: CacheKind, { f32 }: Views, a: Args, row: number, member: number, last: number): Query {
  const at = (a.q >>> 2) + (row * a.kvHeads * a.group + member) * a.headDim;
  const words = new Float64Array(kind === 'f32' ? a.headDim : 2 * a.keySteps);
  let factor = a.scale;
  if (kind !== 'f32') {
    const power = reduceTwin(a.headDim, 0, (sum, i) => m.madd(f32[at + i]!, f32[at + i]!, sum), m.add);
    const unit = m.div(m.sqrt(power), KEY_NORM);
    const inverse = unit > 0 ? m.div(1, unit) : 0;
    factor = m.mul(unit, a.scale);
    for (let i = 0; i < a.headDim; i++) words[i] = toI16Twin(m.mul(f32[at + i]!, inverse));
  } else {
    for (let i = 0; i < a.headDim; i++) words[i] = f32[at + i]!;
  }
  const outputs = new Float32Array(a.valueGroups * WIDE);
  const totals = new Float32Array(a.valueGroups * WIDE);
  return {
    words,
    factor,
    last,
    outputs,
    sums: new Float32Array(4),
    max: LOWEST,
    totals,
    totalSum: 0,
    totalMax: LOWEST,
  };
}

/** Two maxima become one; what belongs to the first is multiplied by `old`, what belongs to the second by `fresh`. */
export function foldTwin(total: number, segment: number) {
  const now = Math.max(total, segment);
  return { now, old: expNegative(m, m.sub(total, now)), fresh: expNegative(m, m.sub(segment, now)) };
}

function fold(query: Query): void {
  const { now, old, fresh } = foldTwin(query.totalMax, query.max);
  query.totalSum = m.madd(query.totalSum, old, m.mul(total(query), fresh));
  query.outputs.forEach((x, d) => {
    query.totals[d] = m.madd(query.totals[d]!, old, m.mul(x, fresh));
  });
  query.totalMax = now;
  query.max = LOWEST;
  query.sums.fill(0);
  query.outputs.fill(0);
}

function takeTotals(query: Query): void {
  fold(query);
  query.max = query.totalMax;
  query.sums[0] = query.totalSum;
  query.outputs.set(query.totals);
}

export function toI16Twin(x: number): number {
  return Number.isNaN(x) ? 0 : Math.max(-32768, Math.min(32767, roundEven(x)));
}

export function toI8Twin(x: number): number {
  return Number.isNaN(x) ? 0 : Math.max(-128, Math.min(127, roundEven(x)));
}

function attendChunk(
  { kind, latent }: { readonly kind: CacheKind; readonly latent: boolean },
  { f32, i8, i16, i32 }: Views,
  a: Args,
  sequence: number,
  head: number,
  chunk: number,
  length: number,
  query: Query,
): void {
  const start = chunk * CHUNK;
  const firstSeen = a.window ? query.last + 1 - a.window : 0;
  if (query.last < start || firstSeen >= start + CHUNK) return;
  const block = i32[(a.blockTable >>> 2) + sequence * a.blocksPerSequence + Math.floor(chunk / a.chunksPerBlock)]!;
  const stored = block * a.chunksPerBlock + (chunk % a.chunksPerBlock);
  const keys = a.cache + head * a.headStride + stored * a.chunkBytes;
  const stepBytes = stepBytesOf(kind);
  const keyBytes = 2 * a.keySteps * stepBytes;
  const scaleBytes = kind === 'f32' ? 0 : SCALE_BYTES * (kind === 'i8' ? Math.ceil((2 * a.keySteps) / BYTE_GROUP) : 1);
  const values = keys + keyBytes + scaleBytes;
  const valid = Math.min(CHUNK, length - start);
  const seen = (p: number) => start + p <= query.last && start + p >= firstSeen;

  const scores = new Float32Array(CHUNK).fill(-Infinity);
  for (let p = 0; p < CHUNK; p++) {
    if (!seen(p)) continue;
    const half = keys + (p >= WIDE ? a.keySteps * stepBytes : 0) + (p % WIDE) * (stepBytes / WIDE);
    let sum = 0;
    let scaled = 0;
    for (let step = 0; step < a.keySteps; step++) {
      const at = half + step * stepBytes;
      if (kind === 'i8') {
        sum += i8[at]! * query.words[2 * step]! + i8[at + 1]! * query.words[2 * step + 1]!;
        const group = (step + 1) / (BYTE_GROUP / 2);
        if (!Number.isInteger(group) && step + 1 < a.keySteps) continue;
        const scale = f32[((keys + keyBytes) >>> 2) + (Math.ceil(group) - 1) * CHUNK + p]!;
        scaled = m.madd(Math.fround(sum), m.mul(scale, query.factor), scaled);
        sum = 0;
      } else if (kind === 'i16') {
        sum += i16[at >>> 1]! * query.words[2 * step]! + i16[(at >>> 1) + 1]! * query.words[2 * step + 1]!;
      } else {
        sum = m.madd(f32[at >>> 2]!, query.words[step]!, sum);
      }
    }
    const score = kind === 'i16' ? m.mul(Math.fround(sum), f32[((keys + keyBytes) >>> 2) + p]!) : sum;
    scores[p] = kind === 'i8' ? scaled : m.mul(score, query.factor);
    if (a.softcap > 0) scores[p] = m.mul(a.softcap, tanh(m, m.div(scores[p]!, a.softcap)));
  }

  const top = scores.reduce((x, y) => Math.max(x, y), LOWEST);
  const weights = scores.map((s) => expNegative(m, m.sub(s, top)));
  const sums = new Float32Array(4);
  for (let p = 0; p < CHUNK; p++) sums[p % 4] = m.add(sums[p % 4]!, weights[p]!);
  const behindValues = values + a.valueGroups * (CHUNK / 2) * stepBytes;
  const scales = (latent ? keys + keyBytes : behindValues) >>> 2;
  let unit = 1;
  if (kind === 'i16' && !latent) {
    // Only what the query sees, so that rows behind it change nothing.
    const known = Math.min(CHUNK, query.last + 1 - start);
    const largest = f32.subarray(scales, scales + known).reduce((x, y) => Math.max(x, y), 0);
    unit = m.div(largest, WEIGHT_MAX);
    const inverse = unit > 0 ? m.div(1, unit) : 0;
    for (let p = 0; p < CHUNK; p++) {
      const scale = m.mul(p < known ? f32[scales + p]! : 0, inverse);
      weights[p] = m.sub(m.madd(weights[p]!, scale, ROUNDER), ROUNDER);
    }
  }

  const now = Math.max(query.max, top);
  const old = expNegative(m, m.sub(query.max, now));
  const fresh = expNegative(m, m.sub(top, now));
  query.max = now;
  for (let l = 0; l < 4; l++) query.sums[l] = m.madd(query.sums[l]!, old, m.mul(sums[l]!, fresh));
  let weight = m.mul(fresh, unit);
  let whole: ArrayLike<number> = weights;
  if (kind === 'i16' && latent) {
    const scaled = weighScaled(weights, f32.subarray(scales, scales + CHUNK), WEIGHT_SUM);
    whole = scaled.whole;
    weight = m.mul(fresh, scaled.unit);
  }
  /** Words of position `p` in dimension `d`, counted in numbers of the cache. */
  const placeOf = (p: number, d: number): number => {
    const size = kind === 'f32' ? 4 : kind === 'i16' ? 2 : 1;
    if (latent) {
      const half = keys + (p >= WIDE ? a.keySteps * stepBytes : 0);
      const step = kind === 'f32' ? d : d >> 1;
      return (half + step * stepBytes + (p % WIDE) * (stepBytes / WIDE)) / size + (kind === 'f32' ? 0 : d & 1);
    }
    const group = Math.floor(d / WIDE);
    if (kind === 'f32') return (values + (group * CHUNK + p) * STEP_BYTES) / 4 + (d % WIDE);
    return (values + (group * (CHUNK / 2) + (p >> 1)) * stepBytes) / size + (d % WIDE) * 2 + (p & 1);
  };
  const numbers = { f32, i16, i8 }[kind];
  for (let d = 0; d < a.valueDim; d++) {
    let sum = 0;
    if (kind === 'i8' && d % BYTE_GROUP === 0) {
      const from = scales + (d / BYTE_GROUP) * CHUNK;
      const scaled = weighScaled(weights, f32.subarray(from, from + CHUNK), Infinity);
      whole = scaled.whole;
      weight = m.mul(fresh, scaled.unit);
    }
    for (let p = 0; p < valid; p++) {
      const x = numbers[placeOf(p, d)]!;
      sum = kind === 'f32' ? m.madd(x, whole[p]!, sum) : sum + x * whole[p]!;
    }
    query.outputs[d] = m.madd(query.outputs[d]!, old, m.mul(Math.fround(sum), weight));
  }
}

/** The weights times the scales as integers, at most `limit` together, and their unit. */
function weighScaled(
  weights: Float32Array,
  scales: Float32Array,
  limit: number,
): { readonly whole: Float32Array; readonly unit: number } {
  const products = weights.map((w, p) => (w > 0 ? m.mul(w, scales[p]!) : 0));
  const sums = new Float32Array(4);
  products.forEach((x, p) => {
    sums[p % 4] = m.add(sums[p % 4]!, x);
  });
  const unit = Math.max(
    m.div(
      products.reduce((x, y) => Math.max(x, y), 0),
      WEIGHT_MAX,
    ),
    m.div(treeSum(sums), limit),
  );
  const inverse = unit > 0 ? m.div(1, unit) : 0;
  return { whole: products.map((x) => m.sub(m.madd(x, inverse, ROUNDER), ROUNDER)), unit };
}

/** Four lanes in the order in which the kernel adds them. */
function treeSum(sums: Float32Array): number {
  return m.add(m.add(sums[0]!, sums[2]!), m.add(sums[1]!, sums[3]!));
}

function total({ sums }: Query): number {
  return treeSum(sums);
}

function finish({ f32 }: Views, a: Args, row: number, member: number, query: Query): void {
  const share = a.sinks
    ? sinkShareTwin(query.max, f32[(a.sinks >>> 2) + member]!, total(query))
    : m.div(1, total(query));
  const at = (a.out >>> 2) + (row * a.kvHeads * a.group + member) * a.valueDim;
  for (let d = 0; d < a.valueDim; d++) f32[at + d] = m.mul(query.outputs[d]!, share);
}

export function sinkShareTwin(own: number, sink: number, sum: number): number {
  const top = Math.max(own, sink);
  const scaled = expNegative(m, m.sub(own, top));
  return m.div(scaled, m.madd(sum, scaled, expNegative(m, m.sub(sink, top))));
}

function storePartial({ f32 }: Views, a: Args, index: number, query: Query): void {
  const at = (a.partial >>> 2) + index * (a.valueGroups * WIDE + PARTIAL_HEADER);
  f32[at] = query.max;
  f32[at + 1] = total(query);
  f32.set(query.outputs, at + PARTIAL_HEADER);
}
