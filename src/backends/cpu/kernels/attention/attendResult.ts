/** What becomes of the sums of a tile: folded over segments, divided into the output, or kept for `mergeAttention`. */
import type { Local } from '../../wasm/function.ts';
import { f32, f32x4, i32, v128 } from '../../wasm/ops.ts';
import { forColumns } from '../loops.ts';
import { spread } from '../rows.ts';
import type { Tile } from './attendTile.ts';
import { emitFold, emitSinkShare, LOWEST } from './emit.ts';
import { PARTIAL_HEADER, SCRATCH, STATE, STATE_BYTES } from './layout.ts';

/** Adds what the segment gave to the totals, and starts the next one. */
export function fold(t: Tile, folds: Local<'i32'>): void {
  const f = t.f;
  const m = t.m;
  const outputBytes = f.i32('outputBytes', i32.mul(t.queries, t.outputStride));
  const state = f.i32('state', i32.add(t.scratch, SCRATCH.states));
  const query = f.i32('query');
  f.if(i32.eqz(folds), () => {
    f.memoryFill(t.totals, 0, outputBytes);
    f.for(query, 0, t.queries, 1, () => {
      f.f32Store(state, LOWEST, STATE.totalMax);
      f.f32Store(state, 0, STATE.totalSum);
      state.inc(STATE_BYTES);
    });
    state.set(i32.add(t.scratch, SCRATCH.states));
  });
  const po = f.i32('po', t.output);
  const pt = f.i32('pt', t.totals);
  f.for(query, 0, t.queries, 1, () => {
    const sum = f.v128('sum', v128.load(state, STATE.sum));
    const fold = emitFold(f, m, v128.load32Splat(state, STATE.totalMax), v128.load32Splat(state, STATE.max));
    const total = m.madd(v128.load32Splat(state, STATE.totalSum), fold.old, m.mul(spread(f, sum, m.add), fold.fresh));
    f.v128StoreLane(32, state, f.v128('total', total), 0, STATE.totalSum);
    f.v128StoreLane(32, state, fold.now, 0, STATE.totalMax);
    forColumns(f, t.outputStride, [po, pt], (column) =>
      column.store(pt, m.madd(column.load(pt), fold.old, m.mul(column.load(po), fold.fresh))),
    );
    f.v128Store(state, v128.zero(), STATE.sum);
    f.f32Store(state, LOWEST, STATE.max);
    state.inc(STATE_BYTES);
  });
  f.memoryFill(t.output, 0, outputBytes);
}

/** The totals take the place of the segment. */
export function takeTotals(t: Tile): void {
  const f = t.f;
  const query = f.i32('query');
  const state = f.i32('state', i32.add(t.scratch, SCRATCH.states));
  f.for(query, 0, t.queries, 1, () => {
    f.f32Store(state, f32.load(state, STATE.totalSum), STATE.sum);
    f.f32Store(state, f32.load(state, STATE.totalMax), STATE.max);
    state.inc(STATE_BYTES);
  });
  f.memoryCopy(t.output, t.totals, i32.mul(t.queries, t.outputStride));
}

/** `out = sums / denominator`, sinks included. */
export function finish(t: Tile, firstRow: Local<'i32'>, head: Local<'i32'>): void {
  const f = t.f;
  const a = t.a;
  const m = t.m;
  const query = f.i32('query');
  const po = f.i32('po', t.output);
  const target = f.i32('target');
  const source = f.i32('source');
  f.for(query, 0, t.queries, 1, () => {
    const state = f.i32('state', i32.add(t.scratch, i32.add(SCRATCH.states, i32.mul(query, STATE_BYTES))));
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
    po.inc(t.outputStride);
  });
}

export function storePartial(t: Tile, item: Local<'i32'>): void {
  const f = t.f;
  const a = t.a;
  const m = t.m;
  const stride = f.i32('stride', i32.add(t.outputStride, 4 * PARTIAL_HEADER));
  const target = f.i32('target', i32.mul(i32.mul(i32.mul(item, a.tileRows), a.group), stride));
  target.set(i32.add(target, a.partial));
  const query = f.i32('query');
  const po = f.i32('po', t.output);
  f.for(query, 0, t.queries, 1, () => {
    const state = f.i32('state', i32.add(t.scratch, i32.add(SCRATCH.states, i32.mul(query, STATE_BYTES))));
    const sum = f.v128('sum', v128.load(state, STATE.sum));
    f.f32Store(target, f32.load(state, STATE.max));
    f.f32Store(target, f32x4.extractLane(spread(f, sum, m.add), 0), 4);
    f.memoryCopy(i32.add(target, 4 * PARTIAL_HEADER), po, t.outputStride);
    po.inc(t.outputStride);
    target.inc(stride);
  });
}
