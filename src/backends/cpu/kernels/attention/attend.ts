import { defineKernel, type KernelContext } from '../../kernel.ts';
import type { Expr, V128 } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../../wasm/function.ts';
import { f32, f32x4, i8x16, i16x8, i32, i32x4, v128 } from '../../wasm/ops.ts';
import { ROUNDER, type VectorLanes, vectorLanes } from '../lanes.ts';
import { forColumns } from '../loops.ts';
import { expNegative, tanh } from '../math.ts';
import { spread, sumRow } from '../rows.ts';
import { attendTwin } from './attendTwin.ts';
import {
  type CacheKind,
  CHUNK,
  CHUNK_SHIFT,
  KEY_NORM,
  PARTIAL_HEADER,
  SCALE_BYTES,
  SCRATCH,
  STATE,
  STATE_BYTES,
  STEP_BYTES,
  WEIGHT_MAX,
} from './layout.ts';
import { emitTile, VECTORS } from './tile.ts';

export const ATTEND_FIELDS = {
  out: 'i32',
  q: 'i32',
  cache: 'i32',
  blockTable: 'i32',
  seqStart: 'i32',
  kvLen: 'i32',
  sinks: 'i32',
  scratch: 'i32',
  scratchStride: 'i32',
  partial: 'i32',
  sequences: 'i32',
  blocksPerSequence: 'i32',
  chunksPerBlock: 'i32',
  kvHeads: 'i32',
  group: 'i32',
  headDim: 'i32',
  valueDim: 'i32',
  keySteps: 'i32',
  valueGroups: 'i32',
  chunkBytes: 'i32',
  headStride: 'i32',
  tileRows: 'i32',
  segmentChunks: 'i32',
  /** 1: every segment of a context is an item of its own. 0: an item is a tile with its whole context. */
  split: 'i32',
  /** 0: every row sees all cached positions. */
  causal: 'i32',
  /** 0: no window. */
  window: 'i32',
  scale: 'f32',
  softcap: 'f32',
} as const;

type Args = { readonly [K in keyof typeof ATTEND_FIELDS]: Local<(typeof ATTEND_FIELDS)[K]> };

/** The most negative number: a maximum that is still finite. */
export const LOWEST = -3.4028234663852886e38;

/**
 * Attention of packed rows over a paged cache (causal, or of all rows to all positions), by online softmax over chunks of 32 positions. The work is cut into items:
 * a **tile** of up to `tileRows` rows of one sequence and all query heads of one key head, and optionally a **segment** of
 * its context, whose result goes to `partial` for `mergeAttention`. Thread `t` takes items `t, t + nt, …`. A tile that runs
 * over several segments folds them as `mergeAttention` does.
 *
 * Inside a tile, queries (row by row, head by head) go in pairs: every vector of keys or values is loaded once for two.
 * Weights are relative to the maximum of the chunk, so that the integers of a 16-bit cache use their whole range.
 */
const attendKernel = (kind: CacheKind) =>
  defineKernel({
    name: `attend.${kind}`,
    fields: ATTEND_FIELDS,
    emit(f, a, ctx) {
      new Attend(f, a, ctx, kind).emit();
    },
    twin: (m, a, tid, nt) => attendTwin(kind, m, a, tid, nt),
  });

export const attendF32 = attendKernel('f32');
export const attendI16 = attendKernel('i16');

/** One tile being emitted: the locals that its parts share. */
class Attend {
  readonly #f: FunctionBuilder;
  readonly #a: Args;
  readonly #ctx: KernelContext;
  readonly #kind: CacheKind;
  readonly #m: VectorLanes;
  readonly #scratch: Local<'i32'>;
  readonly #sequence: Local<'i32'>;
  /** Position of the first row of the tile. */
  readonly #position: Local<'i32'>;
  readonly #length: Local<'i32'>;
  readonly #count: Local<'i32'>;
  readonly #queries: Local<'i32'>;
  readonly #queryBuffer: Local<'i32'>;
  readonly #queryStride: Local<'i32'>;
  readonly #output: Local<'i32'>;
  /** Outputs over all segments that are folded. */
  readonly #totals: Local<'i32'>;
  readonly #outputStride: Local<'i32'>;
  readonly #chunk: Local<'i32'>;
  /** Position of the first entry of the chunk, and how many of its entries are in use. */
  readonly #start: Local<'i32'>;
  readonly #valid: Local<'i32'>;
  readonly #values: Local<'i32'>;

  constructor(f: FunctionBuilder, a: Args, ctx: KernelContext, kind: CacheKind) {
    this.#f = f;
    this.#a = a;
    this.#ctx = ctx;
    this.#kind = kind;
    this.#m = vectorLanes(f, ctx);
    this.#scratch = f.i32('scratch', i32.add(a.scratch, i32.mul(ctx.tid, a.scratchStride)));
    this.#sequence = f.i32('sequence');
    this.#position = f.i32('position');
    this.#length = f.i32('length');
    this.#count = f.i32('count');
    this.#queries = f.i32('queries');
    this.#queryBuffer = f.i32('queryBuffer');
    this.#queryStride = f.i32('queryStride');
    this.#output = f.i32('output');
    this.#totals = f.i32('totals');
    this.#outputStride = f.i32('outputStride', i32.mul(a.valueGroups, STEP_BYTES));
    this.#chunk = f.i32('chunk');
    this.#start = f.i32('start');
    this.#valid = f.i32('valid');
    this.#values = f.i32('values');
  }

  /** Walks over all items and runs those of this thread. */
  emit(): void {
    const f = this.#f;
    const a = this.#a;
    const item = f.i32('item', this.#ctx.tid);
    const base = f.i32('base');
    const first = f.i32('first');
    const rows = f.i32('rows');
    const tiles = f.i32('tiles');
    const pieces = f.i32('pieces');
    const firstChunk = f.i32('firstChunk');
    const firstSegment = f.i32('firstSegment');
    const folds = f.i32('folds');
    f.for(this.#sequence, 0, a.sequences, 1, () => {
      const entry = i32.shl(this.#sequence, 2);
      first.set(i32.load(i32.add(a.seqStart, entry)));
      rows.set(i32.sub(i32.load(i32.add(a.seqStart, entry), 4), first));
      this.#length.set(i32.load(i32.add(a.kvLen, entry)));
      tiles.set(i32.divU(i32.sub(i32.add(rows, a.tileRows), 1), a.tileRows));
      firstChunk.set(this.#firstVisible(i32.sub(this.#length, rows)));
      pieces.set(1);
      f.if(a.split, () => {
        firstSegment.set(i32.divU(firstChunk, a.segmentChunks));
        pieces.set(i32.sub(segmentsOf(chunksOf(this.#length), a.segmentChunks), firstSegment));
      });
      const end = f.i32('end', i32.add(base, i32.mul(i32.mul(tiles, pieces), a.kvHeads)));
      f.while(i32.ltU(item, end), () => {
        const local = f.i32('local', i32.sub(item, base));
        const unit = f.i32('unit', i32.divU(local, pieces));
        const piece = f.i32('piece', i32.remU(local, pieces));
        const head = f.i32('head', i32.remU(unit, a.kvHeads));
        const row = f.i32('row', i32.mul(i32.divU(unit, a.kvHeads), a.tileRows));
        const count = this.#count;
        count.set(i32.sub(rows, row));
        count.set(i32.select(i32.ltU(count, a.tileRows), count, a.tileRows));
        this.#position.set(i32.add(i32.sub(this.#length, rows), row));
        this.#queries.set(i32.mul(count, a.group));
        const from = f.i32('from', this.#firstVisible(this.#position));
        const to = f.i32('to', chunksOf(i32.select(a.causal, i32.add(this.#position, count), this.#length)));
        f.if(a.split, () => {
          const start = f.i32('segmentStart', i32.mul(i32.add(firstSegment, piece), a.segmentChunks));
          from.set(i32.select(i32.gtU(start, firstChunk), start, firstChunk));
          const until = f.i32('until', i32.add(start, a.segmentChunks));
          to.set(i32.select(i32.ltU(until, to), until, to));
        });
        const firstRow = f.i32('firstRow', i32.add(first, row));
        this.#begin(firstRow, head);
        folds.set(0);
        f.for(this.#chunk, from, to, 1, () => {
          this.#attendChunk(head);
          const next = f.i32('next', i32.add(this.#chunk, 1));
          const more = i32.and(i32.ltU(next, to), i32.eqz(i32.remU(next, a.segmentChunks)));
          f.if(more, () => {
            this.#fold(folds);
            folds.inc(1);
          });
        });
        f.if(
          a.split,
          () => this.#storePartial(item),
          () => {
            f.if(folds, () => {
              this.#fold(folds);
              this.#takeTotals();
            });
            this.#finish(firstRow, head);
          },
        );
        item.set(i32.add(item, this.#ctx.nt));
      });
      base.set(end);
    });
  }

  /** The first chunk that the query at `position` sees. */
  #firstVisible(position: Expr<'i32'>): Expr<'i32'> {
    const { window } = this.#a;
    const first = this.#f.i32('firstVisible', i32.sub(i32.add(position, 1), window));
    return i32.select(i32.and(window, i32.select(i32.gtS(first, 0), -1, 0)), i32.shrU(first, CHUNK_SHIFT), 0);
  }

  /** Resets the states of the tile's queries; those of a 16-bit cache become integers. */
  #begin(firstRow: Local<'i32'>, head: Local<'i32'>): void {
    const f = this.#f;
    const a = this.#a;
    const m = this.#m;
    const headBytes = f.i32('headBytes', i32.shl(a.headDim, 2));
    const state = f.i32('state', i32.add(this.#scratch, SCRATCH.states));
    const row = f.i32('row');
    const member = f.i32('member');
    const source = f.i32('source');
    const firstQuery = i32.add(a.q, i32.mul(i32.mul(i32.add(i32.mul(firstRow, a.kvHeads), head), a.group), headBytes));
    const afterStates = i32.add(state, i32.mul(this.#queries, STATE_BYTES));
    if (this.#kind === 'i16') {
      this.#queryBuffer.set(afterStates);
      this.#queryStride.set(i32.shl(a.keySteps, 2));
      this.#output.set(i32.add(this.#queryBuffer, i32.mul(this.#queries, this.#queryStride)));
    } else {
      this.#output.set(afterStates);
    }
    const target = f.i32('target', this.#queryBuffer);
    f.for(row, 0, this.#count, 1, () => {
      source.set(i32.add(firstQuery, i32.mul(i32.mul(row, i32.mul(a.kvHeads, a.group)), headBytes)));
      f.for(member, 0, a.group, 1, () => {
        f.v128Store(state, v128.zero(), STATE.sum);
        f.f32Store(state, LOWEST, STATE.max);
        const last = i32.select(a.causal, i32.add(this.#position, row), i32.sub(this.#length, 1));
        f.i32Store(state, last, STATE.last);
        if (this.#kind === 'f32') {
          f.f32Store(state, a.scale, STATE.factor);
        } else {
          const p = f.i32('p', source);
          const norm = f.v128('norm', m.sqrt(sumRow(f, p, headBytes, (sum, x) => m.madd(x, x, sum))));
          const unit = f.f32('unit', f32.div(f32x4.extractLane(norm, 0), KEY_NORM));
          f.f32Store(state, f32.mul(unit, a.scale), STATE.factor);
          const scale = f.v128('scale', inverseOf(unit));
          p.set(source);
          const end = f.i32('end', i32.add(target, this.#queryStride));
          forColumns(f, headBytes, [p], (column) => {
            const pairs = f.v128('pairs', toI16(m, m.mul(column.load(p), scale)));
            f.v128StoreLane(32, target, pairs, 0);
            f.if(i32.ltU(i32.add(target, 4), end), () => f.v128StoreLane(32, target, pairs, 1, 4));
            target.inc(8);
          });
          target.set(end);
        }
        state.inc(STATE_BYTES);
        source.inc(headBytes);
      });
    });
    f.memoryFill(this.#output, 0, i32.mul(this.#queries, this.#outputStride));
    this.#totals.set(i32.add(this.#output, i32.mul(this.#queries, this.#outputStride)));
    if (this.#kind === 'f32') {
      // Floats are read where they are: query `i` of the tile is `rowBytes` per row and `headBytes` per head away.
      this.#queryBuffer.set(firstQuery);
    }
  }

  #attendChunk(head: Local<'i32'>): void {
    const f = this.#f;
    const a = this.#a;
    this.#start.set(i32.shl(this.#chunk, CHUNK_SHIFT));
    this.#valid.set(i32.sub(this.#length, this.#start));
    this.#valid.set(i32.select(i32.ltU(this.#valid, CHUNK), this.#valid, CHUNK));
    const entry = i32.add(i32.mul(this.#sequence, a.blocksPerSequence), i32.divU(this.#chunk, a.chunksPerBlock));
    const block = i32.load(i32.add(a.blockTable, i32.shl(entry, 2)));
    const stored = i32.add(i32.mul(block, a.chunksPerBlock), i32.remU(this.#chunk, a.chunksPerBlock));
    const keys = f.i32('keys', i32.add(a.cache, i32.add(i32.mul(head, a.headStride), i32.mul(stored, a.chunkBytes))));
    const keyBytes = i32.mul(a.keySteps, 2 * STEP_BYTES);
    this.#values.set(i32.add(keys, this.#kind === 'i16' ? i32.add(keyBytes, SCALE_BYTES) : keyBytes));
    const alike = this.#kind === 'i16' ? this.#scaleValuesOfAll() : undefined;
    const query = f.i32('query');
    const state = f.i32('state');
    const left = f.i32('left');
    query.set(0);
    f.while(i32.ltU(query, this.#queries), () => {
      state.set(i32.add(this.#scratch, i32.add(SCRATCH.states, i32.mul(query, STATE_BYTES))));
      left.set(i32.sub(this.#queries, query));
      f.if(
        i32.geU(left, 2),
        () => {
          const sees = this.#sees(state, i32.load(state, STATE_BYTES + STATE.last));
          f.if(sees, () => this.#attendQueries(2, query, state, keys, alike));
        },
        () =>
          f.if(this.#sees(state, i32.load(state, STATE.last)), () => this.#attendQueries(1, query, state, keys, alike)),
      );
      query.inc(2);
    });
  }

  /** Whether the queries from `state` to the one with last position `last` see any of the chunk. */
  #sees(state: Local<'i32'>, last: Expr<'i32'>): Expr<'i32'> {
    const { window } = this.#a;
    const firstSeen = i32.sub(i32.add(i32.load(state, STATE.last), 1), window);
    const behindWindow = i32.geS(firstSeen, i32.add(this.#start, CHUNK));
    const tooOld = i32.and(i32.ne(window, 0), behindWindow);
    return i32.and(i32.geS(last, this.#start), i32.eqz(tooOld));
  }

  /**
   * Value scales for every query of the tile, where all of them see the same of the chunk; returns whether they do. What
   * a query does not see never enters its scales: its result is the same whether later rows came with it or after it.
   */
  #scaleValuesOfAll(): Local<'i32'> {
    const f = this.#f;
    const { causal } = this.#a;
    const first = f.i32('first', i32.sub(i32.select(causal, this.#position, i32.sub(this.#length, 1)), this.#start));
    const last = f.i32('last', i32.add(first, i32.select(causal, i32.sub(this.#count, 1), 0)));
    const behind = i32.geS(first, CHUNK - 1);
    const alike = f.i32('alike', i32.or(i32.eq(first, last), behind));
    f.if(alike, () => {
      this.#scaleValues(0, first);
      this.#scaleValues(1, first);
    });
    return alike;
  }

  /** Value scales of the chunk up to entry `last` over the largest of them, times `WEIGHT_MAX`; the rest becomes 0. */
  #scaleValues(q: number, last: Local<'i32'>): void {
    const f = this.#f;
    const m = this.#m;
    const target = SCRATCH.valueScales + q * 4 * CHUNK;
    const scales = i32.add(this.#values, i32.mul(this.#a.valueGroups, (CHUNK / 2) * STEP_BYTES));
    const p = f.i32('p', scales);
    const largest = f.v128('largest', v128.zero());
    for (let i = 0; i < CHUNK; i += 4) {
      const seen = i32x4.leS(lanesFrom(i), i32x4.splat(last));
      const x = f.v128('x', v128.and(v128.load(p, 4 * i), seen));
      f.v128Store(this.#scratch, x, target + 4 * i);
      largest.set(m.max(largest, x));
    }
    const all = spread(f, largest, m.max);
    const unit = f.f32('unit', f32.div(f32x4.extractLane(all, 0), WEIGHT_MAX));
    f.f32Store(this.#scratch, unit, SCRATCH.unit + 4 * q);
    const scale = f.v128('scale', inverseOf(unit));
    for (let i = 0; i < CHUNK; i += 4) {
      f.v128Store(this.#scratch, m.mul(v128.load(this.#scratch, target + 4 * i), scale), target + 4 * i);
    }
  }

  #attendQueries(
    n: 1 | 2,
    query: Local<'i32'>,
    state: Local<'i32'>,
    keys: Local<'i32'>,
    alike: Local<'i32'> | undefined,
  ): void {
    const f = this.#f;
    this.#score(n, query, state, keys);
    if (alike) {
      f.if(i32.eqz(alike), () => {
        for (let q = 0; q < n; q++) {
          this.#scaleValues(q, f.i32('last', i32.sub(i32.load(state, q * STATE_BYTES + STATE.last), this.#start)));
        }
      });
    }
    for (let q = 0; q < n; q++) this.#weigh(q, state);
    this.#mix(n, query);
  }

  /** Scores of `n` queries against the 32 keys, into the scratch. */
  #score(n: number, query: Local<'i32'>, state: Local<'i32'>, keys: Local<'i32'>): void {
    const f = this.#f;
    const m = this.#m;
    const pa = f.i32('pa', keys);
    const steps = f.i32('steps');
    const keyScales = f.i32('keyScales', i32.add(keys, i32.mul(this.#a.keySteps, 2 * STEP_BYTES)));
    for (let half = 0; half < 2; half++) {
      const pb = Array.from({ length: n }, (_, q) => f.i32('pb', this.#queryAt(q ? i32.add(query, q) : query)));
      steps.set(this.#a.keySteps);
      emitTile(f, this.#ctx, this.#kind, pa, pb, steps).forEach((sums, q) => {
        const factor = f.v128('factor', v128.load32Splat(state, q * STATE_BYTES + STATE.factor));
        sums.forEach((sum, v) => {
          const at = half * VECTORS * 16 + 16 * v;
          const score = this.#kind === 'i16' ? m.mul(f32x4.convertI32x4S(sum), v128.load(keyScales, at)) : sum;
          f.v128Store(this.#scratch, m.mul(score, factor), SCRATCH.scores + q * 4 * CHUNK + at);
        });
      });
    }
  }

  #queryAt(query: Expr<'i32'>): Expr<'i32'> {
    const a = this.#a;
    if (this.#kind === 'i16') return i32.add(this.#queryBuffer, i32.mul(query, this.#queryStride));
    const head = i32.add(i32.mul(i32.divU(query, a.group), i32.mul(a.kvHeads, a.group)), i32.remU(query, a.group));
    return i32.add(this.#queryBuffer, i32.mul(head, i32.shl(a.headDim, 2)));
  }

  /** Caps and masks the scores of query `q`, turns them into weights and updates its state. */
  #weigh(q: number, firstState: Local<'i32'>): void {
    const f = this.#f;
    const a = this.#a;
    const m = this.#m;
    const state = f.i32('state', i32.add(firstState, q * STATE_BYTES));
    const scores = SCRATCH.scores + q * 4 * CHUNK;
    const p = f.i32('p');
    const end = f.i32('end', i32.add(this.#scratch, 4 * CHUNK));
    f.if(f32.gt(a.softcap, 0), () => {
      const cap = f.v128('cap', f32x4.splat(a.softcap));
      p.set(this.#scratch);
      f.doWhile(
        () => {
          const x = f.v128('x', m.div(v128.load(p, scores), cap));
          f.v128Store(p, m.mul(cap, tanh(m, x)), scores);
          p.inc(16);
        },
        i32.ltU(p, end),
      );
    });
    const last = f.i32('last', i32.sub(i32.load(state, STATE.last), this.#start));
    const firstSeen = f.i32('firstSeen', i32.select(a.window, i32.sub(i32.add(last, 1), a.window), 0));
    f.if(i32.or(i32.ltS(last, CHUNK - 1), i32.gtS(firstSeen, 0)), () => {
      for (let i = 0; i < CHUNK; i += 4) {
        const lanes = f.v128('lanes', lanesFrom(i));
        const seen = v128.and(i32x4.leS(lanes, i32x4.splat(last)), i32x4.geS(lanes, i32x4.splat(firstSeen)));
        const masked = v128.bitselect(v128.load(this.#scratch, scores + 4 * i), m.const(-Infinity), seen);
        f.v128Store(this.#scratch, masked, scores + 4 * i);
      }
    });
    const peak = f.v128('peak', v128.load(this.#scratch, scores));
    for (let i = 4; i < CHUNK; i += 4) peak.set(m.max(peak, v128.load(this.#scratch, scores + 4 * i)));
    const top = f.v128('top', m.max(spread(f, peak, m.max), m.const(LOWEST)));
    const sum = f.v128('sum', v128.zero());
    p.set(this.#scratch);
    const weights = SCRATCH.weights + q * 4 * CHUNK;
    const valueScales = SCRATCH.valueScales + q * 4 * CHUNK;
    const pw = f.i32('pw', this.#scratch);
    f.doWhile(
      () => {
        const e = [0, 16].map((at) =>
          f.v128('e', expNegative(m, f.v128('d', m.sub(v128.load(p, scores + at), top)))),
        ) as [Local<'v128'>, Local<'v128'>];
        sum.set(m.add(m.add(sum, e[0]), e[1]));
        if (this.#kind === 'f32') {
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
    f.v128Store(
      state,
      m.madd(v128.load(state, STATE.sum), f32x4.splat(old), m.mul(sum, f32x4.splat(fresh))),
      STATE.sum,
    );
    f.f32Store(this.#scratch, old, SCRATCH.factors + 8 * q);
    const weight = this.#kind === 'i16' ? f32.mul(fresh, f32.load(this.#scratch, SCRATCH.unit + 4 * q)) : fresh;
    f.f32Store(this.#scratch, weight, SCRATCH.factors + 8 * q + 4);
  }

  /** Adds the weighted values to the outputs of `n` queries. */
  #mix(n: number, query: Local<'i32'>): void {
    const f = this.#f;
    const m = this.#m;
    const group = f.i32('group');
    const steps = f.i32('steps');
    const pv = f.i32('pv');
    const groupBytes = (this.#kind === 'i16' ? CHUNK / 2 : CHUNK) * STEP_BYTES;
    const used = f.i32('used', this.#kind === 'i16' ? i32.shrU(i32.add(this.#valid, 1), 1) : this.#valid);
    const po = f.i32('po', i32.add(this.#output, i32.mul(query, this.#outputStride)));
    f.for(group, 0, this.#a.valueGroups, 1, () => {
      pv.set(i32.add(this.#values, i32.mul(group, groupBytes)));
      steps.set(used);
      const pw = Array.from({ length: n }, (_, q) =>
        f.i32('pw', i32.add(this.#scratch, SCRATCH.weights + q * 4 * CHUNK)),
      );
      emitTile(f, this.#ctx, this.#kind, pv, pw, steps).forEach((sums, q) => {
        const old = f.v128('old', v128.load32Splat(this.#scratch, SCRATCH.factors + 8 * q));
        const fresh = f.v128('fresh', v128.load32Splat(this.#scratch, SCRATCH.factors + 8 * q + 4));
        const target = q ? f.i32('target', i32.add(po, i32.mul(this.#outputStride, q))) : po;
        sums.forEach((sum, v) => {
          const added = this.#kind === 'i16' ? f32x4.convertI32x4S(sum) : sum;
          f.v128Store(target, m.madd(v128.load(target, 16 * v), old, m.mul(added, fresh)), 16 * v);
        });
      });
      po.inc(STEP_BYTES);
    });
  }

  /** Adds what the segment gave to the totals, and starts the next one. */
  #fold(folds: Local<'i32'>): void {
    const f = this.#f;
    const m = this.#m;
    const outputBytes = f.i32('outputBytes', i32.mul(this.#queries, this.#outputStride));
    const state = f.i32('state', i32.add(this.#scratch, SCRATCH.states));
    const query = f.i32('query');
    f.if(i32.eqz(folds), () => {
      f.memoryFill(this.#totals, 0, outputBytes);
      f.for(query, 0, this.#queries, 1, () => {
        f.f32Store(state, LOWEST, STATE.totalMax);
        f.f32Store(state, 0, STATE.totalSum);
        state.inc(STATE_BYTES);
      });
      state.set(i32.add(this.#scratch, SCRATCH.states));
    });
    const po = f.i32('po', this.#output);
    const pt = f.i32('pt', this.#totals);
    f.for(query, 0, this.#queries, 1, () => {
      const sum = f.v128('sum', v128.load(state, STATE.sum));
      const fold = emitFold(f, m, v128.load32Splat(state, STATE.totalMax), v128.load32Splat(state, STATE.max));
      const total = m.madd(v128.load32Splat(state, STATE.totalSum), fold.old, m.mul(spread(f, sum, m.add), fold.fresh));
      f.v128StoreLane(32, state, f.v128('total', total), 0, STATE.totalSum);
      f.v128StoreLane(32, state, fold.now, 0, STATE.totalMax);
      forColumns(f, this.#outputStride, [po, pt], (column) =>
        column.store(pt, m.madd(column.load(pt), fold.old, m.mul(column.load(po), fold.fresh))),
      );
      f.v128Store(state, v128.zero(), STATE.sum);
      f.f32Store(state, LOWEST, STATE.max);
      state.inc(STATE_BYTES);
    });
    f.memoryFill(this.#output, 0, outputBytes);
  }

  /** The totals take the place of the segment. */
  #takeTotals(): void {
    const f = this.#f;
    const query = f.i32('query');
    const state = f.i32('state', i32.add(this.#scratch, SCRATCH.states));
    f.for(query, 0, this.#queries, 1, () => {
      f.f32Store(state, f32.load(state, STATE.totalSum), STATE.sum);
      f.f32Store(state, f32.load(state, STATE.totalMax), STATE.max);
      state.inc(STATE_BYTES);
    });
    f.memoryCopy(this.#output, this.#totals, i32.mul(this.#queries, this.#outputStride));
  }

  /** `out = sums / denominator`, sinks included. */
  #finish(firstRow: Local<'i32'>, head: Local<'i32'>): void {
    const f = this.#f;
    const a = this.#a;
    const m = this.#m;
    const query = f.i32('query');
    const po = f.i32('po', this.#output);
    const target = f.i32('target');
    const source = f.i32('source');
    f.for(query, 0, this.#queries, 1, () => {
      const state = f.i32('state', i32.add(this.#scratch, i32.add(SCRATCH.states, i32.mul(query, STATE_BYTES))));
      const member = f.i32('member', i32.add(i32.mul(head, a.group), i32.remU(query, a.group)));
      const row = i32.add(firstRow, i32.divU(query, a.group));
      const heads = i32.mul(a.kvHeads, a.group);
      const sum = f.v128('sum', v128.load(state, STATE.sum));
      const total = f.v128('total', spread(f, sum, m.add));
      const share = f.v128('share');
      f.if(
        a.sinks,
        () => {
          const own = f.v128('own', v128.load32Splat(state, STATE.max));
          const sink = f.v128('sink', v128.load32Splat(i32.add(a.sinks, i32.shl(member, 2))));
          emitSinkShare(f, m, own, sink, total, share);
        },
        () => share.set(m.div(m.const(1), total)),
      );
      source.set(po);
      target.set(i32.add(a.out, i32.shl(i32.mul(i32.add(i32.mul(row, heads), member), a.valueDim), 2)));
      forColumns(f, i32.shl(a.valueDim, 2), [source, target], (column) =>
        column.store(target, m.mul(column.load(source), share)),
      );
      po.inc(this.#outputStride);
    });
  }

  #storePartial(item: Local<'i32'>): void {
    const f = this.#f;
    const a = this.#a;
    const m = this.#m;
    const stride = f.i32('stride', i32.add(this.#outputStride, 4 * PARTIAL_HEADER));
    const target = f.i32('target', i32.mul(i32.mul(i32.mul(item, a.tileRows), a.group), stride));
    target.set(i32.add(target, a.partial));
    const query = f.i32('query');
    const po = f.i32('po', this.#output);
    f.for(query, 0, this.#queries, 1, () => {
      const state = f.i32('state', i32.add(this.#scratch, i32.add(SCRATCH.states, i32.mul(query, STATE_BYTES))));
      const sum = f.v128('sum', v128.load(state, STATE.sum));
      f.f32Store(target, f32.load(state, STATE.max));
      f.f32Store(target, f32x4.extractLane(spread(f, sum, m.add), 0), 4);
      f.memoryCopy(i32.add(target, 4 * PARTIAL_HEADER), po, this.#outputStride);
      po.inc(this.#outputStride);
      target.inc(stride);
    });
  }
}

/** Low 16 bits of eight 32-bit lanes. */
const LOW_HALVES = [0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29];

function lanesFrom(first: number): V128 {
  const words = Int32Array.of(first, first + 1, first + 2, first + 3);
  return v128.const(new Uint8Array(words.buffer));
}

function chunksOf(positions: Expr<'i32'>): Expr<'i32'> {
  return i32.shrU(i32.add(positions, CHUNK - 1), CHUNK_SHIFT);
}

export function segmentsOf(chunks: Expr<'i32'>, segmentChunks: Local<'i32'>): Expr<'i32'> {
  return i32.divU(i32.sub(i32.add(chunks, segmentChunks), 1), segmentChunks);
}

/** Two maxima become one; what belongs to the first is multiplied by `old`, what belongs to the second by `fresh`. */
export function emitFold(f: FunctionBuilder, m: VectorLanes, total: V128, segment: V128) {
  const before = f.v128('before', total);
  const top = f.v128('top', segment);
  const now = f.v128('now', m.max(before, top));
  const old = f.v128('old', expNegative(m, f.v128('d', m.sub(before, now))));
  const fresh = f.v128('fresh', expNegative(m, f.v128('d', m.sub(top, now))));
  return { now, old, fresh };
}

/** `1 / unit` in all lanes, 0 for 0. */
export function inverseOf(unit: Local<'f32'>): V128 {
  return f32x4.splat(f32.select(f32.gt(unit, 0), f32.div(1, unit), 0));
}

/** Four floats of magnitude below 32768 to integers: pairs in the two low words. */
export function toI16(m: VectorLanes, x: V128): V128 {
  const whole = i32x4.truncSatF32x4S(m.nearest(x));
  return i16x8.narrowI32x4S(whole, v128.zero());
}

/** `share = e^(own - top) / (total e^(own - top) + e^(sink - top))` with the larger of both maxima as `top`. */
export function emitSinkShare(
  f: FunctionBuilder,
  m: VectorLanes,
  own: Local<'v128'>,
  sink: Local<'v128'>,
  total: Local<'v128'>,
  share: Local<'v128'>,
): void {
  const top = f.v128('top', m.max(own, sink));
  const scaled = f.v128('scaled', expNegative(m, f.v128('d', m.sub(own, top))));
  const extra = f.v128('extra', expNegative(m, f.v128('d', m.sub(sink, top))));
  share.set(m.div(scaled, m.madd(total, scaled, extra)));
}
