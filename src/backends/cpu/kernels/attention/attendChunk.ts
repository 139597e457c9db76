/** One chunk of the context: scores, weights, and what they add to the outputs of a tile. */
import type { Expr, V128 } from '../../wasm/expr.ts';
import type { Local } from '../../wasm/function.ts';
import { f32, f32x4, i8x16, i32, i32x4, v128 } from '../../wasm/ops.ts';
import { ROUNDER } from '../lanes.ts';
import { expNegative, tanh } from '../math.ts';
import { spread } from '../rows.ts';
import { turnKeys } from './attendLatent.ts';
import type { Tile } from './attendTile.ts';
import { groupBytesOf, inverseOf, keyBytesOf, keyScaleBytes, LOWEST } from './emit.ts';
import {
  BYTE_GROUP,
  CHUNK,
  CHUNK_SHIFT,
  SCALE_BYTES,
  SCRATCH,
  STATE,
  STATE_BYTES,
  STEP_BYTES,
  WEIGHT_MAX,
  WEIGHT_SUM,
  WIDE,
} from './layout.ts';
import { emitTile, VECTORS } from './tile.ts';

/** Low 16 bits of eight 32-bit lanes. */
const LOW_HALVES = [0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29];

export function attendChunk(t: Tile, head: Local<'i32'>): void {
  const f = t.f;
  const a = t.a;
  t.start.set(i32.shl(t.chunk, CHUNK_SHIFT));
  t.valid.set(i32.sub(t.length, t.start));
  t.valid.set(i32.select(i32.ltU(t.valid, CHUNK), t.valid, CHUNK));
  const entry = i32.add(i32.mul(t.sequence, a.blocksPerSequence), i32.divU(t.chunk, a.chunksPerBlock));
  const block = i32.load(i32.add(a.blockTable, i32.shl(entry, 2)));
  const stored = i32.add(i32.mul(block, a.chunksPerBlock), i32.remU(t.chunk, a.chunksPerBlock));
  const keys = f.i32('keys', i32.add(a.cache, i32.add(i32.mul(head, a.headStride), i32.mul(stored, a.chunkBytes))));
  const behindKeys = i32.add(keys, keyBytesOf(t.kind, a.keySteps));
  if (t.latent) {
    turnKeys(t, keys);
    t.values.set(t.turned);
    t.valueScales.set(behindKeys);
  } else {
    t.values.set(i32.add(behindKeys, keyScaleBytes(t.kind, a.keySteps)));
    t.valueScales.set(i32.add(t.values, i32.mul(a.valueGroups, groupBytesOf(t.kind))));
  }
  const alike = t.sharesScales ? scaleValuesOfAll(t) : undefined;
  const query = f.i32('query');
  const state = f.i32('state');
  const left = f.i32('left');
  query.set(0);
  f.while(i32.ltU(query, t.queries), () => {
    state.set(i32.add(t.scratch, i32.add(SCRATCH.states, i32.mul(query, STATE_BYTES))));
    left.set(i32.sub(t.queries, query));
    f.if(
      i32.geU(left, 2),
      () => {
        const visible = sees(t, state, i32.load(state, STATE_BYTES + STATE.last));
        f.if(visible, () => attendQueries(t, 2, query, state, keys, alike));
      },
      () => f.if(sees(t, state, i32.load(state, STATE.last)), () => attendQueries(t, 1, query, state, keys, alike)),
    );
    query.inc(2);
  });
}

/** Whether the queries from `state` to the one with last position `last` see any of the chunk. */
function sees(t: Tile, state: Local<'i32'>, last: Expr<'i32'>): Expr<'i32'> {
  const { window } = t.a;
  const firstSeen = i32.sub(i32.add(i32.load(state, STATE.last), 1), window);
  const behindWindow = i32.geS(firstSeen, i32.add(t.start, CHUNK));
  const tooOld = i32.and(i32.ne(window, 0), behindWindow);
  return i32.and(i32.geS(last, t.start), i32.eqz(tooOld));
}

/**
 * Value scales for every query of the tile, where all of them see the same of the chunk; returns whether they do. What
 * a query does not see never enters its scales: its result is the same whether later rows came with it or after it.
 */
function scaleValuesOfAll(t: Tile): Local<'i32'> {
  const f = t.f;
  const { causal } = t.a;
  const first = f.i32('first', i32.sub(i32.select(causal, t.position, i32.sub(t.length, 1)), t.start));
  const last = f.i32('last', i32.add(first, i32.select(causal, i32.sub(t.count, 1), 0)));
  const behind = i32.geS(first, CHUNK - 1);
  const alike = f.i32('alike', i32.or(i32.eq(first, last), behind));
  f.if(alike, () => {
    scaleValues(t, 0, first);
    scaleValues(t, 1, first);
  });
  return alike;
}

/** Value scales of the chunk up to entry `last` over the largest of them, times `WEIGHT_MAX`; the rest becomes 0. */
function scaleValues(t: Tile, q: number, last: Local<'i32'>): void {
  const f = t.f;
  const m = t.m;
  const target = SCRATCH.valueScales + q * 4 * CHUNK;
  const p = f.i32('p', t.valueScales);
  const largest = f.v128('largest', v128.zero());
  for (let i = 0; i < CHUNK; i += 4) {
    const seen = i32x4.leS(lanesFrom(i), i32x4.splat(last));
    const x = f.v128('x', v128.and(v128.load(p, 4 * i), seen));
    f.v128Store(t.scratch, x, target + 4 * i);
    largest.set(m.max(largest, x));
  }
  const all = spread(f, largest, m.max);
  const unit = f.f32('unit', f32.div(f32x4.extractLane(all, 0), WEIGHT_MAX));
  f.f32Store(t.scratch, unit, SCRATCH.unit + 4 * q);
  const scale = f.v128('scale', inverseOf(unit));
  for (let i = 0; i < CHUNK; i += 4) {
    f.v128Store(t.scratch, m.mul(v128.load(t.scratch, target + 4 * i), scale), target + 4 * i);
  }
}

function attendQueries(
  t: Tile,
  n: 1 | 2,
  query: Local<'i32'>,
  state: Local<'i32'>,
  keys: Local<'i32'>,
  alike: Local<'i32'> | undefined,
): void {
  const f = t.f;
  if (t.kind === 'i8') scoreBytes(t, n, query, state, keys);
  else score(t, n, query, state, keys);
  if (alike) {
    f.if(i32.eqz(alike), () => {
      for (let q = 0; q < n; q++) {
        scaleValues(t, q, f.i32('last', i32.sub(i32.load(state, q * STATE_BYTES + STATE.last), t.start)));
      }
    });
  }
  for (let q = 0; q < n; q++) weigh(t, q, state);
  if (t.kind === 'f32' || t.sharesScales) mix(t, n, query);
  else mixScaled(t, n, query);
}

/** Scores of `n` queries against the 32 keys, into the scratch. */
function score(t: Tile, n: number, query: Local<'i32'>, state: Local<'i32'>, keys: Local<'i32'>): void {
  const f = t.f;
  const m = t.m;
  const pa = f.i32('pa', keys);
  const steps = f.i32('steps');
  const keyScales = f.i32('keyScales', i32.add(keys, i32.mul(t.a.keySteps, 2 * STEP_BYTES)));
  for (let half = 0; half < 2; half++) {
    const pb = Array.from({ length: n }, (_, q) => f.i32('pb', queryAt(t, q ? i32.add(query, q) : query)));
    steps.set(t.a.keySteps);
    emitTile(f, t.ctx, t.kind, pa, pb, steps).forEach((sums, q) => {
      const factor = f.v128('factor', v128.load32Splat(state, q * STATE_BYTES + STATE.factor));
      sums.forEach((sum, v) => {
        const at = half * VECTORS * 16 + 16 * v;
        const score = t.kind === 'i16' ? m.mul(f32x4.convertI32x4S(sum), v128.load(keyScales, at)) : sum;
        f.v128Store(t.scratch, m.mul(score, factor), SCRATCH.scores + q * 4 * CHUNK + at);
      });
    });
  }
}

/** The same for an 8-bit cache: what 32 dimensions give has a scale of its own. */
function scoreBytes(t: Tile, n: number, query: Local<'i32'>, state: Local<'i32'>, keys: Local<'i32'>): void {
  const f = t.f;
  const m = t.m;
  const pa = f.i32('pa', keys);
  const steps = f.i32('steps');
  const left = f.i32('left');
  const scales = f.i32('scales');
  const keyScales = f.i32('keyScales', i32.add(keys, keyBytesOf(t.kind, t.a.keySteps)));
  for (let half = 0; half < 2; half++) {
    const pb = Array.from({ length: n }, (_, q) => f.i32('pb', queryAt(t, q ? i32.add(query, q) : query)));
    const at = (q: number, v: number) => SCRATCH.scores + q * 4 * CHUNK + half * VECTORS * 16 + 16 * v;
    for (let q = 0; q < n; q++) for (let v = 0; v < VECTORS; v++) f.v128Store(t.scratch, v128.zero(), at(q, v));
    scales.set(keyScales);
    left.set(t.a.keySteps);
    f.doWhile(() => {
      steps.set(i32.select(i32.ltU(left, BYTE_GROUP / 2), left, BYTE_GROUP / 2));
      left.set(i32.sub(left, steps));
      emitTile(f, t.ctx, t.kind, pa, pb, steps).forEach((sums, q) => {
        const factor = f.v128('factor', v128.load32Splat(state, q * STATE_BYTES + STATE.factor));
        sums.forEach((sum, v) => {
          const scale = m.mul(v128.load(scales, half * VECTORS * 16 + 16 * v), factor);
          const total = m.madd(f32x4.convertI32x4S(sum), scale, v128.load(t.scratch, at(q, v)));
          f.v128Store(t.scratch, total, at(q, v));
        });
      });
      scales.inc(SCALE_BYTES);
    }, left);
  }
}

function queryAt(t: Tile, query: Expr<'i32'>): Expr<'i32'> {
  const a = t.a;
  if (t.kind !== 'f32') return i32.add(t.queryBuffer, i32.mul(query, t.queryStride));
  const head = i32.add(i32.mul(i32.divU(query, a.group), i32.mul(a.kvHeads, a.group)), i32.remU(query, a.group));
  return i32.add(t.queryBuffer, i32.mul(head, i32.shl(a.headDim, 2)));
}

/** Caps and masks the scores of query `q`, turns them into weights and updates its state. */
function weigh(t: Tile, q: number, firstState: Local<'i32'>): void {
  const f = t.f;
  const a = t.a;
  const m = t.m;
  const state = f.i32('state', i32.add(firstState, q * STATE_BYTES));
  const scores = SCRATCH.scores + q * 4 * CHUNK;
  const p = f.i32('p');
  const end = f.i32('end', i32.add(t.scratch, 4 * CHUNK));
  f.if(f32.gt(a.softcap, 0), () => {
    const cap = f.v128('cap', f32x4.splat(a.softcap));
    p.set(t.scratch);
    f.doWhile(
      () => {
        const x = f.v128('x', m.div(v128.load(p, scores), cap));
        f.v128Store(p, m.mul(cap, tanh(m, x)), scores);
        p.inc(16);
      },
      i32.ltU(p, end),
    );
  });
  const last = f.i32('last', i32.sub(i32.load(state, STATE.last), t.start));
  const firstSeen = f.i32('firstSeen', i32.select(a.window, i32.sub(i32.add(last, 1), a.window), 0));
  f.if(i32.or(i32.ltS(last, CHUNK - 1), i32.gtS(firstSeen, 0)), () => {
    for (let i = 0; i < CHUNK; i += 4) {
      const lanes = f.v128('lanes', lanesFrom(i));
      const seen = v128.and(i32x4.leS(lanes, i32x4.splat(last)), i32x4.geS(lanes, i32x4.splat(firstSeen)));
      const masked = v128.bitselect(v128.load(t.scratch, scores + 4 * i), m.const(-Infinity), seen);
      f.v128Store(t.scratch, masked, scores + 4 * i);
    }
  });
  const peak = f.v128('peak', v128.load(t.scratch, scores));
  for (let i = 4; i < CHUNK; i += 4) peak.set(m.max(peak, v128.load(t.scratch, scores + 4 * i)));
  const top = f.v128('top', m.max(spread(f, peak, m.max), m.const(LOWEST)));
  const sum = f.v128('sum', v128.zero());
  p.set(t.scratch);
  const weights = SCRATCH.weights + q * 4 * CHUNK;
  const valueScales = SCRATCH.valueScales + q * 4 * CHUNK;
  const pw = f.i32('pw', t.scratch);
  f.doWhile(
    () => {
      const e = [0, 16].map((at) =>
        f.v128('e', expNegative(m, f.v128('d', m.sub(v128.load(p, scores + at), top)))),
      ) as [Local<'v128'>, Local<'v128'>];
      sum.set(m.add(m.add(sum, e[0]), e[1]));
      if (!t.sharesScales) {
        f.v128Store(pw, e[0], weights);
        f.v128Store(pw, e[1], weights + 16);
        pw.inc(32);
      } else {
        // Adding the rounder leaves the integer in the low 16 bits of every lane.
        const [low, high] = e.map((x, i) => m.madd(x, v128.load(p, valueScales + 16 * i), m.const(ROUNDER)));
        f.v128Store(pw, i8x16.shuffle(low!, high!, LOW_HALVES), weights);
        pw.inc(16);
      }
      p.inc(32);
    },
    i32.ltU(p, end),
  );
  // New maximum; what was summed before and what this chunk adds are brought to it.
  const before = f.v128('before', v128.load32Splat(state, STATE.max));
  const now = f.v128('now', m.max(before, top));
  f.v128StoreLane(32, state, now, 0, STATE.max);
  const both = f.v128('both', f32x4.replaceLane(before, 1, f32x4.extractLane(top, 0)));
  const factors = f.v128('factors', expNegative(m, f.v128('d', m.sub(both, now))));
  const old = f.f32('old', f32x4.extractLane(factors, 0));
  const fresh = f.f32('fresh', f32x4.extractLane(factors, 1));
  f.v128Store(state, m.madd(v128.load(state, STATE.sum), f32x4.splat(old), m.mul(sum, f32x4.splat(fresh))), STATE.sum);
  f.f32Store(t.scratch, old, SCRATCH.factors + 8 * q);
  const weight = t.sharesScales ? f32.mul(fresh, f32.load(t.scratch, SCRATCH.unit + 4 * q)) : fresh;
  f.f32Store(t.scratch, weight, SCRATCH.factors + 8 * q + 4);
}

/** Adds the weighted values to the outputs of `n` queries. */
function mix(t: Tile, n: number, query: Local<'i32'>): void {
  const f = t.f;
  const m = t.m;
  const group = f.i32('group');
  const steps = f.i32('steps');
  const pv = f.i32('pv');
  const groupBytes = groupBytesOf(t.kind);
  const used = f.i32('used', t.kind === 'i16' ? i32.shrU(i32.add(t.valid, 1), 1) : t.valid);
  const po = f.i32('po', i32.add(t.output, i32.mul(query, t.outputStride)));
  f.for(group, 0, t.a.valueGroups, 1, () => {
    pv.set(i32.add(t.values, i32.mul(group, groupBytes)));
    steps.set(used);
    const pw = Array.from({ length: n }, (_, q) => f.i32('pw', i32.add(t.scratch, SCRATCH.weights + q * 4 * CHUNK)));
    emitTile(f, t.ctx, t.kind, pv, pw, steps).forEach((sums, q) => {
      const old = f.v128('old', v128.load32Splat(t.scratch, SCRATCH.factors + 8 * q));
      const fresh = f.v128('fresh', v128.load32Splat(t.scratch, SCRATCH.factors + 8 * q + 4));
      const target = q ? f.i32('target', i32.add(po, i32.mul(t.outputStride, q))) : po;
      sums.forEach((sum, v) => {
        const added = t.kind === 'i16' ? f32x4.convertI32x4S(sum) : sum;
        f.v128Store(target, m.madd(v128.load(target, 16 * v), old, m.mul(added, fresh)), 16 * v);
      });
    });
    po.inc(STEP_BYTES);
  });
}

/** The same where the scales of values go into the weights, which become integers: once, or before every 32 dimensions. */
function mixScaled(t: Tile, n: number, query: Local<'i32'>): void {
  const f = t.f;
  const m = t.m;
  const group = f.i32('group');
  const pv = f.i32('pv', t.values);
  const po = f.i32('po', i32.add(t.output, i32.mul(query, t.outputStride)));
  const groupBytes = groupBytesOf(t.kind);
  const scales = f.i32('scales', t.valueScales);
  const steps = f.i32('steps');
  const pa = f.i32('pa');
  const weighAll = () => {
    for (let q = 0; q < n; q++) weighScaled(t, q, scales);
  };
  if (t.kind === 'i16') weighAll();
  f.for(group, 0, t.a.valueGroups, 1, () => {
    if (t.kind === 'i8') {
      f.if(i32.eqz(i32.and(group, BYTE_GROUP / WIDE - 1)), () => {
        weighAll();
        scales.inc(SCALE_BYTES);
      });
    }
    pa.set(pv);
    steps.set(i32.shrU(i32.add(t.valid, 1), 1));
    const pw = Array.from({ length: n }, (_, q) =>
      f.i32('pw', i32.add(t.scratch, SCRATCH.valueScales + q * 4 * CHUNK)),
    );
    emitTile(f, t.ctx, t.kind, pa, pw, steps).forEach((sums, q) => {
      const old = f.v128('old', v128.load32Splat(t.scratch, SCRATCH.factors + 8 * q));
      const fresh = f.v128('fresh', v128.load32Splat(t.scratch, SCRATCH.factors + 8 * q + 4));
      const unit = f.v128('unit', m.mul(fresh, v128.load32Splat(t.scratch, SCRATCH.unit + 4 * q)));
      const target = q ? f.i32('target', i32.add(po, i32.mul(t.outputStride, q))) : po;
      sums.forEach((sum, v) => {
        const added = m.mul(f32x4.convertI32x4S(sum), unit);
        f.v128Store(target, m.madd(v128.load(target, 16 * v), old, added), 16 * v);
      });
    });
    pv.inc(groupBytes);
    po.inc(STEP_BYTES);
  });
}

/**
 * Weights of query `q` times the value scales at `scales`, as integers up to `WEIGHT_MAX`, and their unit. Where they meet
 * 16-bit keys, they are together `WEIGHT_SUM` at most.
 */
function weighScaled(t: Tile, q: number, scales: Local<'i32'>): void {
  const f = t.f;
  const m = t.m;
  const largest = f.v128('largest', v128.zero());
  const products = Array.from({ length: CHUNK / 4 }, (_, i) => {
    const weight = f.v128('weight', v128.load(t.scratch, SCRATCH.weights + q * 4 * CHUNK + 16 * i));
    // What the query does not see may have no scale yet.
    const scale = v128.and(v128.load(scales, 16 * i), f32x4.gt(weight, v128.zero()));
    const product = f.v128('product', m.mul(weight, scale));
    largest.set(m.max(largest, product));
    return product;
  });
  const all = spread(f, largest, m.max);
  const unit = f.f32('unit', f32.div(f32x4.extractLane(all, 0), WEIGHT_MAX));
  if (t.kind === 'i16') {
    const sum = f.v128('sum', products[0]!);
    for (const product of products.slice(1)) sum.set(m.add(sum, product));
    const whole = f.v128('whole', spread(f, sum, m.add));
    unit.set(f32.max(unit, f32.div(f32x4.extractLane(whole, 0), WEIGHT_SUM)));
  }
  f.f32Store(t.scratch, unit, SCRATCH.unit + 4 * q);
  const inverse = f.v128('inverse', inverseOf(unit));
  for (let i = 0; i < products.length; i += 2) {
    const [low, high] = [products[i]!, products[i + 1]!].map((x) => m.madd(x, inverse, m.const(ROUNDER)));
    f.v128Store(t.scratch, i8x16.shuffle(low!, high!, LOW_HALVES), SCRATCH.valueScales + q * 4 * CHUNK + 8 * i);
  }
}

function lanesFrom(first: number): V128 {
  const words = Int32Array.of(first, first + 1, first + 2, first + 3);
  return v128.const(new Uint8Array(words.buffer));
}
