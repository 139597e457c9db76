import { defineKernel } from '../../kernel.ts';
import type { Expr } from '../../wasm/expr.ts';
import type { Local } from '../../wasm/function.ts';
import { f32, f32x4, i32, v128 } from '../../wasm/ops.ts';
import { forColumns } from '../loops.ts';
import { sumRow } from '../rows.ts';
import { attendChunk } from './attendChunk.ts';
import { beginTurned } from './attendLatent.ts';
import { finish, fold, storePartial, takeTotals } from './attendResult.ts';
import { ATTEND_FIELDS, Tile } from './attendTile.ts';
import { attendTwin } from './attendTwin.ts';
import { inverseOf, LOWEST, segmentsOf, toI16 } from './emit.ts';
import { type CacheKind, CHUNK, CHUNK_SHIFT, KEY_NORM, SCRATCH, STATE, STATE_BYTES } from './layout.ts';

/**
 * Attention of packed rows over a paged cache (causal, or of all rows to all positions), by online softmax over chunks of
 * 32 positions. The work is cut into items: a **tile** of up to `tileRows` rows of one sequence and all query heads of one
 * key head, and optionally a **segment** of its context, whose result goes to `partial` for `mergeAttention`. Thread `t`
 * takes items `t, t + nt, …`. A tile that runs over several segments folds them as `mergeAttention` does.
 *
 * Inside a tile, queries (row by row, head by head) go in pairs: every vector of keys or values is loaded once for two.
 * Weights are relative to the maximum of the chunk, so that integers use their whole range.
 */
const attendKernel = (kind: CacheKind, latent: boolean) =>
  defineKernel({
    name: `attend.${kind}${latent ? '.latent' : ''}`,
    fields: ATTEND_FIELDS,
    emit(f, a, ctx) {
      emitItems(new Tile(f, a, ctx, kind, latent));
    },
    twin: (m, a, tid, nt) => attendTwin(kind, latent, m, a, tid, nt),
  });

const kernelsOf = (latent: boolean) => ({
  f32: attendKernel('f32', latent),
  i16: attendKernel('i16', latent),
  i8: attendKernel('i8', latent),
});

export const attend = kernelsOf(false);
/** Over values that are the first entries of the keys. */
export const attendLatent = kernelsOf(true);

/** Walks over all items and runs those of this thread. */
function emitItems(t: Tile): void {
  const f = t.f;
  const a = t.a;
  const item = f.i32('item', t.ctx.tid);
  const base = f.i32('base');
  const first = f.i32('first');
  const rows = f.i32('rows');
  const tiles = f.i32('tiles');
  const pieces = f.i32('pieces');
  const firstChunk = f.i32('firstChunk');
  const firstSegment = f.i32('firstSegment');
  const folds = f.i32('folds');
  f.for(t.sequence, 0, a.sequences, 1, () => {
    const entry = i32.shl(t.sequence, 2);
    first.set(i32.load(i32.add(a.seqStart, entry)));
    rows.set(i32.sub(i32.load(i32.add(a.seqStart, entry), 4), first));
    t.length.set(i32.load(i32.add(a.kvLen, entry)));
    tiles.set(i32.divU(i32.sub(i32.add(rows, a.tileRows), 1), a.tileRows));
    firstChunk.set(firstVisible(t, i32.sub(t.length, rows)));
    pieces.set(1);
    f.if(a.split, () => {
      firstSegment.set(i32.divU(firstChunk, a.segmentChunks));
      pieces.set(i32.sub(segmentsOf(chunksOf(t.length), a.segmentChunks), firstSegment));
    });
    const end = f.i32('end', i32.add(base, i32.mul(i32.mul(tiles, pieces), a.kvHeads)));
    f.while(i32.ltU(item, end), () => {
      const local = f.i32('local', i32.sub(item, base));
      const unit = f.i32('unit', i32.divU(local, pieces));
      const piece = f.i32('piece', i32.remU(local, pieces));
      const head = f.i32('head', i32.remU(unit, a.kvHeads));
      const row = f.i32('row', i32.mul(i32.divU(unit, a.kvHeads), a.tileRows));
      const count = t.count;
      count.set(i32.sub(rows, row));
      count.set(i32.select(i32.ltU(count, a.tileRows), count, a.tileRows));
      t.position.set(i32.add(i32.sub(t.length, rows), row));
      t.queries.set(i32.mul(count, a.group));
      const from = f.i32('from', firstVisible(t, t.position));
      const to = f.i32('to', chunksOf(i32.select(a.causal, i32.add(t.position, count), t.length)));
      f.if(a.split, () => {
        const start = f.i32('segmentStart', i32.mul(i32.add(firstSegment, piece), a.segmentChunks));
        from.set(i32.select(i32.gtU(start, firstChunk), start, firstChunk));
        const until = f.i32('until', i32.add(start, a.segmentChunks));
        to.set(i32.select(i32.ltU(until, to), until, to));
      });
      const firstRow = f.i32('firstRow', i32.add(first, row));
      begin(t, firstRow, head);
      folds.set(0);
      f.for(t.chunk, from, to, 1, () => {
        attendChunk(t, head);
        const next = f.i32('next', i32.add(t.chunk, 1));
        const more = i32.and(i32.ltU(next, to), i32.eqz(i32.remU(next, a.segmentChunks)));
        f.if(more, () => {
          fold(t, folds);
          folds.inc(1);
        });
      });
      f.if(
        a.split,
        () => storePartial(t, item),
        () => {
          f.if(folds, () => {
            fold(t, folds);
            takeTotals(t);
          });
          finish(t, firstRow, head);
        },
      );
      item.set(i32.add(item, t.ctx.nt));
    });
    base.set(end);
  });
}

/** The first chunk that the query at `position` sees. */
function firstVisible(t: Tile, position: Expr<'i32'>): Expr<'i32'> {
  const { window } = t.a;
  const first = t.f.i32('firstVisible', i32.sub(i32.add(position, 1), window));
  return i32.select(i32.and(window, i32.select(i32.gtS(first, 0), -1, 0)), i32.shrU(first, CHUNK_SHIFT), 0);
}

/** Resets the states of the tile's queries; those of a cache of integers become integers. */
function begin(t: Tile, firstRow: Local<'i32'>, head: Local<'i32'>): void {
  const f = t.f;
  const a = t.a;
  const m = t.m;
  const headBytes = f.i32('headBytes', i32.shl(a.headDim, 2));
  const state = f.i32('state', i32.add(t.scratch, SCRATCH.states));
  const row = f.i32('row');
  const member = f.i32('member');
  const source = f.i32('source');
  const firstQuery = i32.add(a.q, i32.mul(i32.mul(i32.add(i32.mul(firstRow, a.kvHeads), head), a.group), headBytes));
  const afterStates = i32.add(state, i32.mul(t.queries, STATE_BYTES));
  if (t.kind !== 'f32') {
    t.queryBuffer.set(afterStates);
    t.queryStride.set(i32.shl(a.keySteps, 2));
    t.output.set(i32.add(t.queryBuffer, i32.mul(t.queries, t.queryStride)));
  } else {
    t.output.set(afterStates);
  }
  const target = f.i32('target', t.queryBuffer);
  f.for(row, 0, t.count, 1, () => {
    source.set(i32.add(firstQuery, i32.mul(i32.mul(row, i32.mul(a.kvHeads, a.group)), headBytes)));
    f.for(member, 0, a.group, 1, () => {
      f.v128Store(state, v128.zero(), STATE.sum);
      f.f32Store(state, LOWEST, STATE.max);
      const last = i32.select(a.causal, i32.add(t.position, row), i32.sub(t.length, 1));
      f.i32Store(state, last, STATE.last);
      if (t.kind === 'f32') {
        f.f32Store(state, a.scale, STATE.factor);
      } else {
        const p = f.i32('p', source);
        const norm = f.v128('norm', m.sqrt(sumRow(f, p, headBytes, (sum, x) => m.madd(x, x, sum))));
        const unit = f.f32('unit', f32.div(f32x4.extractLane(norm, 0), KEY_NORM));
        f.f32Store(state, f32.mul(unit, a.scale), STATE.factor);
        const scale = f.v128('scale', inverseOf(unit));
        p.set(source);
        const end = f.i32('end', i32.add(target, t.queryStride));
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
  f.memoryFill(t.output, 0, i32.mul(t.queries, t.outputStride));
  t.totals.set(i32.add(t.output, i32.mul(t.queries, t.outputStride)));
  if (t.latent) beginTurned(t);
  if (t.kind === 'f32') {
    // Floats are read where they are: query `i` of the tile is `rowBytes` per row and `headBytes` per head away.
    t.queryBuffer.set(firstQuery);
  }
}

function chunksOf(positions: Expr<'i32'>): Expr<'i32'> {
  return i32.shrU(i32.add(positions, CHUNK - 1), CHUNK_SHIFT);
}
