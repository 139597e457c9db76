import { defineKernel, type KernelContext, split, splitRange, type Views } from '../../kernel.ts';
import type { Expr, F32, V128 } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../../wasm/function.ts';
import { f32, f32x4, i32, v128 } from '../../wasm/ops.ts';
import { scalarLanes, type VectorLanes, vectorLanes } from '../lanes.ts';
import { forColumns } from '../loops.ts';
import { emitNormPart, normPartTwin } from '../norm.ts';
import { emitRotate, rotateTwin } from '../rope.ts';
import { reduceRow, reduceTwin, sumRow } from '../rows.ts';
import { toI8Twin, toI16Twin } from './attendTwin.ts';
import { groupBytesOf, inverseOf, keyBytesOf, keyScaleBytes, toI8, toI16 } from './emit.ts';
import {
  BYTE_GROUP,
  BYTE_MAX,
  type CacheKind,
  CHUNK,
  CHUNK_SHIFT,
  geometryOf,
  KEY_NORM,
  SCALE_BYTES,
  STEP_BYTES,
  stepBytesOf,
  VALUE_MAX,
  WIDE,
} from './layout.ts';

/** What is done to a head before it is stored. */
export const HEAD_NORM = { none: 0, rms: 1, layer: 2, l2: 3 } as const;

/**
 * Splits fused rows `[queries | keys | values]` into heads. Queries and keys are normed and rotated (in this order, or the
 * other one with `normAfterRope`); queries go to `q`, keys and values to the cache at `slots`. Threads share the heads;
 * each needs scratch memory for one padded head. Rows without values have a `valueDim` of 0.
 */
const storeKernel = (kind: CacheKind) =>
  defineKernel({
    name: `qkvStore.${kind}`,
    fields: {
      ...{ qkv: 'i32', q: 'i32', cosSin: 'i32', cache: 'i32', slots: 'i32', rows: 'i32', heads: 'i32', kvHeads: 'i32' },
      ...{ headDim: 'i32', valueDim: 'i32', half: 'i32', interleaved: 'i32', normAfterRope: 'i32' },
      ...{
        keySteps: 'i32',
        valueGroups: 'i32',
        chunkBytes: 'i32',
        headStride: 'i32',
        scratch: 'i32',
        scratchStride: 'i32',
      },
      ...{ qNorm: 'i32', qWeight: 'i32', qBias: 'i32', qEps: 'f32', qPlus: 'f32' },
      ...{ kNorm: 'i32', kWeight: 'i32', kBias: 'i32', kEps: 'f32', kPlus: 'f32' },
    },
    emit(f, a, ctx) {
      const perRow = f.i32('perRow', i32.add(a.heads, i32.shl(a.kvHeads, i32.select(a.valueDim, 1, 0))));
      const keysFrom = a.heads;
      const valuesFrom = f.i32('valuesFrom', i32.add(a.heads, a.kvHeads));
      const headBytes = f.i32('headBytes', i32.shl(a.headDim, 2));
      const valueBytes = f.i32('valueBytes', i32.shl(a.valueDim, 2));
      const rowBytes = i32.add(i32.mul(valuesFrom, headBytes), i32.mul(a.kvHeads, valueBytes));
      const units = f.i32('units', i32.mul(a.rows, perRow));
      const { from, to } = split(f, units, ctx);
      const scratch = f.i32('scratch', i32.add(a.scratch, i32.mul(ctx.tid, a.scratchStride)));
      const unit = f.i32('unit');
      const row = f.i32('row');
      const head = f.i32('head');
      const source = f.i32('source');
      const target = f.i32('target');
      const chunk = f.i32('chunk');
      const place = f.i32('place');
      f.for(unit, from, to, 1, () => {
        row.set(i32.divU(unit, perRow));
        head.set(i32.remU(unit, perRow));
        source.set(i32.add(a.qkv, i32.mul(row, rowBytes)));
        const locate = (kvHead: Expr<'i32'>) => {
          const slot = f.i32('slot', i32.load(i32.add(a.slots, i32.shl(row, 2))));
          place.set(i32.and(slot, CHUNK - 1));
          const inHead = i32.mul(i32.shrU(slot, CHUNK_SHIFT), a.chunkBytes);
          chunk.set(i32.add(a.cache, i32.add(i32.mul(kvHead, a.headStride), inHead)));
        };
        f.if(
          i32.ltU(head, valuesFrom),
          () => {
            source.inc(i32.mul(head, headBytes));
            const isKey = f.i32('isKey', i32.geU(head, keysFrom));
            const query = i32.add(a.q, i32.mul(i32.add(i32.mul(row, a.heads), head), headBytes));
            target.set(i32.select(isKey, scratch, query));
            f.memoryCopy(target, source, headBytes);
            prepareHead(f, ctx, a, target, row, isKey);
            f.if(isKey, () => {
              locate(i32.sub(head, keysFrom));
              storeKey(f, ctx, kind, target, headBytes, chunk, place, a.keySteps);
            });
          },
          () => {
            const kvHead = f.i32('kvHead', i32.sub(head, valuesFrom));
            source.inc(i32.add(i32.mul(valuesFrom, headBytes), i32.mul(kvHead, valueBytes)));
            const padded = f.i32('padded', i32.mul(a.valueGroups, STEP_BYTES));
            f.memoryFill(scratch, 0, padded);
            f.memoryCopy(scratch, source, valueBytes);
            locate(kvHead);
            chunk.inc(i32.add(keyBytesOf(kind, a.keySteps), keyScaleBytes(kind, a.keySteps)));
            storeValue(f, ctx, kind, scratch, padded, chunk, place);
          },
        );
      });
    },
    twin(m, a, tid, nt) {
      const perRow = a.heads + (a.valueDim ? 2 : 1) * a.kvHeads;
      const keyWidth = (a.heads + a.kvHeads) * a.headDim;
      const rowWidth = keyWidth + a.kvHeads * a.valueDim;
      const [from, to] = splitRange(a.rows * perRow, tid, nt);
      const scratch = (a.scratch + tid * a.scratchStride) >>> 2;
      for (let unit = from; unit < to; unit++) {
        const row = Math.floor(unit / perRow);
        const head = unit % perRow;
        const source = (a.qkv >>> 2) + row * rowWidth;
        const slot = m.i32[(a.slots >>> 2) + row]!;
        const chunkOf = (kvHead: number) => a.cache + kvHead * a.headStride + (slot >>> CHUNK_SHIFT) * a.chunkBytes;
        if (head < a.heads + a.kvHeads) {
          const isKey = head >= a.heads;
          const target = isKey ? scratch : (a.q >>> 2) + (row * a.heads + head) * a.headDim;
          m.f32.copyWithin(target, source + head * a.headDim, source + (head + 1) * a.headDim);
          const rotate = () => {
            if (a.half) rotateTwin(m, target, (a.cosSin >>> 2) + row * 2 * a.half, a.half, a.interleaved);
          };
          const [norm, weight, bias, eps, plus] = isKey
            ? [a.kNorm, a.kWeight, a.kBias, a.kEps, a.kPlus]
            : [a.qNorm, a.qWeight, a.qBias, a.qEps, a.qPlus];
          if (a.normAfterRope) rotate();
          if (norm) {
            normPartTwin(m.f32, {
              ...{ x: target, out: target, weight: weight >>> 2, bias: bias >>> 2, n: a.headDim, eps, plus },
              ...{ centre: norm === HEAD_NORM.layer, divisor: norm === HEAD_NORM.l2 ? 1 : a.headDim },
            });
          }
          if (!a.normAfterRope) rotate();
          if (isKey) storeKeyTwin(kind, m, target, a.headDim, chunkOf(head - a.heads), slot % CHUNK, a.keySteps);
        } else {
          const kvHead = head - a.heads - a.kvHeads;
          const at = source + keyWidth + kvHead * a.valueDim;
          const values = chunkOf(kvHead) + geometryOf(kind, a.headDim, a.valueDim).valuesAt;
          storeValueTwin(kind, m, at, a.valueDim, values, slot % CHUNK, a.valueGroups);
        }
      }
    },
  });

/**
 * Puts keys `[rows, kvHeads * headDim]` and values `[rows, kvHeads * valueDim]` into a cache of their own, position by
 * position, and writes what `attend` needs to know about the one sequence to `table`: `[0, queries, rows, 0]` as its row
 * starts, its length and its block table. Threads share the heads.
 */
export const kvStore = defineKernel({
  name: 'kvStore',
  fields: {
    ...{ k: 'i32', v: 'i32', cache: 'i32', table: 'i32', rows: 'i32', queries: 'i32', kvHeads: 'i32', headDim: 'i32' },
    ...{
      valueDim: 'i32',
      valueGroups: 'i32',
      chunkBytes: 'i32',
      headStride: 'i32',
      scratch: 'i32',
      scratchStride: 'i32',
    },
  },
  emit(f, a, ctx) {
    const { from, to } = split(f, f.i32('units', i32.mul(a.rows, a.kvHeads)), ctx);
    const scratch = f.i32('scratch', i32.add(a.scratch, i32.mul(ctx.tid, a.scratchStride)));
    const headBytes = f.i32('headBytes', i32.shl(a.headDim, 2));
    const valueBytes = f.i32('valueBytes', i32.shl(a.valueDim, 2));
    const padded = f.i32('padded', i32.mul(a.valueGroups, STEP_BYTES));
    const unit = f.i32('unit');
    const chunk = f.i32('chunk');
    const key = f.i32('key');
    f.if(i32.eqz(ctx.tid), () => {
      f.i32Store(a.table, 0);
      f.i32Store(a.table, a.queries, 4);
      f.i32Store(a.table, a.rows, 8);
      f.i32Store(a.table, 0, 12);
    });
    f.for(unit, from, to, 1, () => {
      const row = f.i32('row', i32.divU(unit, a.kvHeads));
      const head = i32.remU(unit, a.kvHeads);
      const place = f.i32('place', i32.and(row, CHUNK - 1));
      const inHead = i32.mul(i32.shrU(row, CHUNK_SHIFT), a.chunkBytes);
      chunk.set(i32.add(a.cache, i32.add(i32.mul(head, a.headStride), inHead)));
      key.set(i32.add(a.k, i32.mul(unit, headBytes)));
      storeKey(f, ctx, 'f32', key, headBytes, chunk, place, a.headDim);
      f.memoryFill(scratch, 0, padded);
      f.memoryCopy(scratch, i32.add(a.v, i32.mul(unit, valueBytes)), valueBytes);
      chunk.inc(i32.mul(a.headDim, 2 * STEP_BYTES));
      storeValue(f, ctx, 'f32', scratch, padded, chunk, place);
    });
  },
  twin(m, a, tid, nt) {
    const [from, to] = splitRange(a.rows * a.kvHeads, tid, nt);
    if (tid === 0) m.i32.set([0, a.queries, a.rows, 0], a.table >>> 2);
    for (let unit = from; unit < to; unit++) {
      const row = Math.floor(unit / a.kvHeads);
      const chunk = a.cache + (unit % a.kvHeads) * a.headStride + (row >>> CHUNK_SHIFT) * a.chunkBytes;
      storeKeyTwin('f32', m, (a.k >>> 2) + unit * a.headDim, a.headDim, chunk, row % CHUNK, a.headDim);
      const values = chunk + a.headDim * 2 * STEP_BYTES;
      storeValueTwin('f32', m, (a.v >>> 2) + unit * a.valueDim, a.valueDim, values, row % CHUNK, a.valueGroups);
    }
  },
});

export const qkvStoreF32 = storeKernel('f32');
export const qkvStoreI16 = storeKernel('i16');
export const qkvStoreI8 = storeKernel('i8');

type StoreArgs = Readonly<Record<'cosSin' | 'half' | 'interleaved' | 'normAfterRope' | 'headDim', Local<'i32'>>> &
  Readonly<Record<'qNorm' | 'qWeight' | 'qBias' | 'kNorm' | 'kWeight' | 'kBias', Local<'i32'>>> &
  Readonly<Record<'qEps' | 'qPlus' | 'kEps' | 'kPlus', Local<'f32'>>>;

/** Norms and rotates the head at `target` in place. */
function prepareHead(
  f: FunctionBuilder,
  ctx: KernelContext,
  a: StoreArgs,
  target: Local<'i32'>,
  row: Local<'i32'>,
  isKey: Local<'i32'>,
): void {
  const norm = f.i32('norm', i32.select(isKey, a.kNorm, a.qNorm));
  const table = f.i32('table', i32.add(a.cosSin, i32.shl(i32.mul(row, a.half), 3)));
  const pass = f.i32('pass');
  // Two passes: norm then rotation, or rotation then norm.
  f.for(pass, 0, 2, 1, () => {
    f.if(
      i32.eq(pass, a.normAfterRope),
      () =>
        f.if(norm, () => {
          const pick = (key: F32, query: F32) => f.v128('c', f32x4.splat(f32.select(isKey, key, query)));
          const divisor = f32.select(i32.eq(norm, HEAD_NORM.l2), 1, f32.convertI32S(a.headDim));
          emitNormPart(f, ctx, {
            ...{ x: target, out: target, n: a.headDim, centre: i32.eq(norm, HEAD_NORM.layer) },
            weight: f.i32('weight', i32.select(isKey, a.kWeight, a.qWeight)),
            bias: f.i32('bias', i32.select(isKey, a.kBias, a.qBias)),
            eps: pick(a.kEps, a.qEps),
            plus: pick(a.kPlus, a.qPlus),
            divisor: f.v128('divisor', f32x4.splat(divisor)),
          });
        }),
      () => f.if(a.half, () => emitRotate(f, ctx, target, table, a.half, a.interleaved)),
    );
  });
}

/** One key into column `place` of its chunk. */
function storeKey(
  f: FunctionBuilder,
  ctx: KernelContext,
  kind: CacheKind,
  head: Local<'i32'>,
  headBytes: Local<'i32'>,
  chunk: Local<'i32'>,
  place: Local<'i32'>,
  keySteps: Local<'i32'>,
): void {
  const m = vectorLanes(f, ctx);
  const stepBytes = stepBytesOf(kind);
  const half = i32.mul(i32.shrU(place, 4), i32.mul(keySteps, stepBytes));
  const to = f.i32('to', i32.add(i32.add(chunk, half), i32.mul(i32.and(place, WIDE - 1), stepBytes / WIDE)));
  const p = f.i32('p', head);
  const scatter = (value: V128, lane: number) => {
    f.v128StoreLane(kind === 'i8' ? 16 : 32, to, value, lane);
    to.inc(stepBytes);
  };
  if (kind === 'f32') {
    const left = f.i32('left', headBytes);
    f.while(i32.geS(left, 16), () => {
      const x = f.v128('x', v128.load(p));
      for (let lane = 0; lane < 4; lane++) scatter(x, lane);
      p.inc(16);
      left.inc(-16);
    });
    f.while(left, () => {
      scatter(f.v128('x', v128.load32Zero(p)), 0);
      p.inc(4);
      left.inc(-4);
    });
    return;
  }
  if (kind === 'i8') {
    const left = f.i32('left', keySteps);
    const scales = f.i32('scales', i32.add(i32.add(chunk, keyBytesOf(kind, keySteps)), i32.shl(place, 2)));
    forByteGroups(f, m, p, headBytes, scales, (scale, bytes) => {
      forColumns(f, bytes, [p], (column) => {
        const pairs = f.v128('pairs', toI8(m, m.mul(column.load(p), scale)));
        scatter(pairs, 0);
        f.if(i32.gtU(left, 1), () => scatter(pairs, 1));
        left.inc(-2);
      });
    });
    return;
  }
  const norm = m.sqrt(sumRow(f, p, headBytes, (sum, x) => m.madd(x, x, sum)));
  const unit = f.f32('unit', f32.div(f32x4.extractLane(norm, 0), KEY_NORM));
  const scales = i32.add(chunk, i32.mul(keySteps, 2 * STEP_BYTES));
  f.f32Store(i32.add(scales, i32.shl(place, 2)), unit);
  const scale = f.v128('scale', inverseOf(unit));
  const left = f.i32('left', keySteps);
  p.set(head);
  forColumns(f, headBytes, [p], (column) => {
    const pairs = f.v128('pairs', toI16(m, m.mul(column.load(p), scale)));
    scatter(pairs, 0);
    f.if(i32.gtU(left, 1), () => scatter(pairs, 1));
    left.inc(-2);
  });
}

/**
 * Runs `body` for every 32 floats in `[p, p + bytes)` with what makes integers of them and the bytes they take, after it has
 * stored their scale; `body` leaves `p` behind them. Scales of following groups lie `SCALE_BYTES` apart.
 */
function forByteGroups(
  f: FunctionBuilder,
  m: VectorLanes,
  p: Local<'i32'>,
  bytes: Local<'i32'>,
  scales: Local<'i32'>,
  body: (scale: Local<'v128'>, bytes: Local<'i32'>) => void,
): void {
  const rest = f.i32('rest', bytes);
  const part = f.i32('part');
  const from = f.i32('from');
  f.while(i32.gtS(rest, 0), () => {
    part.set(i32.select(i32.ltU(rest, 4 * BYTE_GROUP), rest, 4 * BYTE_GROUP));
    from.set(p);
    const largest = reduceRow(f, from, part, largestOf(m));
    const unit = f.f32('unit', f32.div(f32x4.extractLane(largest, 0), BYTE_MAX));
    f.f32Store(scales, unit);
    body(f.v128('scale', inverseOf(unit)), part);
    scales.inc(SCALE_BYTES);
    rest.set(i32.sub(rest, part));
  });
}

function largestOf(m: VectorLanes): Parameters<typeof reduceRow>[3] {
  return { neutral: v128.zero(), step: (x, y) => m.max(x, m.abs(y)), combine: m.max };
}

/** The scale of 32 floats (fewer at the end), put where it belongs, and the inverse. */
function byteGroupTwin(values: Float32Array, f32: Float32Array, at: number): number {
  const unit = scalarLanes.div(
    values.reduce((x, y) => Math.max(x, Math.abs(y)), 0),
    BYTE_MAX,
  );
  f32[at] = unit;
  return unit > 0 ? scalarLanes.div(1, unit) : 0;
}

function storeKeyTwin(
  kind: CacheKind,
  { f32, i8, i16 }: Views,
  head: number,
  headDim: number,
  chunk: number,
  place: number,
  keySteps: number,
): void {
  const m = scalarLanes;
  const stepBytes = stepBytesOf(kind);
  const column = chunk + (place >= WIDE ? keySteps * stepBytes : 0) + (place % WIDE) * (stepBytes / WIDE);
  if (kind === 'f32') {
    for (let d = 0; d < headDim; d++) f32[(column + d * STEP_BYTES) >>> 2] = f32[head + d]!;
    return;
  }
  if (kind === 'i8') {
    let inverse = 0;
    for (let d = 0; d < 2 * keySteps; d++) {
      const scale = ((chunk + 2 * keySteps * stepBytes) >>> 2) + Math.floor(d / BYTE_GROUP) * CHUNK + place;
      if (d % BYTE_GROUP === 0)
        inverse = byteGroupTwin(f32.subarray(head + d, head + Math.min(headDim, d + BYTE_GROUP)), f32, scale);
      i8[column + (d >> 1) * stepBytes + (d & 1)] = d < headDim ? toI8Twin(m.mul(f32[head + d]!, inverse)) : 0;
    }
    return;
  }
  const power = reduceTwin(headDim, 0, (sum, i) => m.madd(f32[head + i]!, f32[head + i]!, sum), m.add);
  const unit = m.div(m.sqrt(power), KEY_NORM);
  const inverse = unit > 0 ? m.div(1, unit) : 0;
  f32[((chunk + 2 * keySteps * STEP_BYTES) >>> 2) + place] = unit;
  for (let d = 0; d < 2 * keySteps; d++) {
    const at = column + (d >> 1) * STEP_BYTES + (d & 1) * 2;
    i16[at >>> 1] = d < headDim ? toI16Twin(m.mul(f32[head + d]!, inverse)) : 0;
  }
}

/** One padded value (`padded` bytes at `head`) into row `place` of the values of its chunk. */
function storeValue(
  f: FunctionBuilder,
  ctx: KernelContext,
  kind: CacheKind,
  head: Local<'i32'>,
  padded: Local<'i32'>,
  values: Local<'i32'>,
  place: Local<'i32'>,
): void {
  const m = vectorLanes(f, ctx);
  const p = f.i32('p', head);
  const end = f.i32('end', i32.add(head, padded));
  const groupBytes = groupBytesOf(kind);
  if (kind === 'f32') {
    const to = f.i32('to', i32.add(values, i32.mul(place, STEP_BYTES)));
    f.doWhile(
      () => {
        for (let v = 0; v < WIDE; v += 4) f.v128Store(to, v128.load(p, 4 * v), 4 * v);
        to.inc(groupBytes);
        p.inc(STEP_BYTES);
      },
      i32.ltU(p, end),
    );
    return;
  }
  const numbersAt = (to: Local<'i32'>, bits: 8 | 16, integers: (x: V128) => V128) => {
    for (let v = 0; v < WIDE; v += 4) {
      const numbers = f.v128('numbers', integers(v128.load(p, 4 * v)));
      for (let lane = 0; lane < 4; lane++) f.v128StoreLane(bits, to, numbers, lane, ((v + lane) * bits) / 4);
    }
    to.inc(groupBytes);
    p.inc(STEP_BYTES);
  };
  if (kind === 'i8') {
    const pair = i32.mul(i32.shrU(place, 1), stepBytesOf(kind));
    const to = f.i32('to', i32.add(i32.add(values, pair), i32.and(place, 1)));
    const behind = i32.mul(i32.shrU(padded, 6), groupBytes);
    const scales = f.i32('scales', i32.add(i32.add(values, behind), i32.shl(place, 2)));
    forByteGroups(f, m, p, padded, scales, (scale, bytes) => {
      const end = f.i32('end', i32.add(p, bytes));
      f.doWhile(() => numbersAt(to, 8, (x) => toI8(m, m.mul(x, scale))), i32.ltU(p, end));
    });
    return;
  }
  const largest = reduceRow(f, p, padded, largestOf(m));
  const unit = f.f32('unit', f32.div(f32x4.extractLane(largest, 0), VALUE_MAX));
  const scales = i32.add(values, i32.mul(i32.shrU(padded, 6), groupBytes));
  f.f32Store(i32.add(scales, i32.shl(place, 2)), unit);
  const scale = f.v128('scale', inverseOf(unit));
  const pair = i32.mul(i32.shrU(place, 1), STEP_BYTES);
  const to = f.i32('to', i32.add(i32.add(values, pair), i32.shl(i32.and(place, 1), 1)));
  p.set(head);
  f.doWhile(() => numbersAt(to, 16, (x) => toI16(m, m.mul(x, scale))), i32.ltU(p, end));
}

function storeValueTwin(
  kind: CacheKind,
  { f32, i8, i16 }: Views,
  head: number,
  valueDim: number,
  values: number,
  place: number,
  valueGroups: number,
): void {
  const m = scalarLanes;
  const steps = kind === 'f32' ? CHUNK : CHUNK / 2;
  const numbers = Float32Array.from({ length: valueGroups * WIDE }, (_, d) => (d < valueDim ? f32[head + d]! : 0));
  if (kind === 'i8') {
    const stepBytes = stepBytesOf(kind);
    let inverse = 0;
    numbers.forEach((x, d) => {
      const scales = ((values + valueGroups * steps * stepBytes) >>> 2) + Math.floor(d / BYTE_GROUP) * CHUNK;
      if (d % BYTE_GROUP === 0) inverse = byteGroupTwin(numbers.subarray(d, d + BYTE_GROUP), f32, scales + place);
      const step = Math.floor(d / WIDE) * steps + (place >> 1);
      i8[values + step * stepBytes + (d % WIDE) * 2 + (place & 1)] = toI8Twin(m.mul(x, inverse));
    });
    return;
  }
  const unit = m.div(
    numbers.reduce((x, y) => Math.max(x, Math.abs(y)), 0),
    VALUE_MAX,
  );
  const inverse = unit > 0 ? m.div(1, unit) : 0;
  if (kind === 'i16') f32[((values + valueGroups * steps * STEP_BYTES) >>> 2) + place] = unit;
  numbers.forEach((x, d) => {
    const step = Math.floor(d / WIDE) * steps + (kind === 'i16' ? place >> 1 : place);
    const at = values + step * STEP_BYTES + (d % WIDE) * 4;
    if (kind === 'i16') i16[(at >>> 1) + (place & 1)] = toI16Twin(m.mul(x, inverse));
    else f32[at >>> 2] = x;
  });
}
