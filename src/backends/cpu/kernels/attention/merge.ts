import { defineKernel, split, splitRange } from '../../kernel.ts';
import { i32, v128 } from '../../wasm/ops.ts';
import { scalarLanes, vectorLanes } from '../lanes.ts';
import { forColumns } from '../loops.ts';
import { foldTwin, sinkShareTwin } from './attendTwin.ts';
import { emitFold, emitSinkShare, LOWEST, segmentsOf } from './emit.ts';
import { CHUNK, CHUNK_SHIFT, PARTIAL_HEADER, STEP_BYTES } from './layout.ts';

/**
 * Folds the segments that `attend` left in `partial`, in order of position. Every sequence is one tile; threads share heads,
 * each with all rows of all sequences.
 */
export const mergeAttention = defineKernel({
  name: 'mergeAttention',
  fields: {
    ...{ out: 'i32', partial: 'i32', seqStart: 'i32', kvLen: 'i32', sinks: 'i32', sequences: 'i32', kvHeads: 'i32' },
    ...{ group: 'i32', valueDim: 'i32', valueGroups: 'i32', tileRows: 'i32', segmentChunks: 'i32', window: 'i32' },
  },
  emit(f, a, ctx) {
    const m = vectorLanes(f, ctx);
    const heads = f.i32('heads', i32.mul(a.kvHeads, a.group));
    const stride = f.i32('stride', i32.add(i32.mul(a.valueGroups, STEP_BYTES), 4 * PARTIAL_HEADER));
    const tileBytes = f.i32('tileBytes', i32.mul(i32.mul(a.tileRows, a.group), stride));
    const { from, to } = split(f, heads, ctx);
    const sequence = f.i32('sequence');
    const base = f.i32('base');
    const pieces = f.i32('pieces');
    const row = f.i32('row');
    const head = f.i32('head');
    const piece = f.i32('piece');
    const p = f.i32('p');
    const ps = f.i32('ps');
    const po = f.i32('po');
    f.for(sequence, 0, a.sequences, 1, () => {
      const entry = i32.shl(sequence, 2);
      const first = f.i32('first', i32.load(i32.add(a.seqStart, entry)));
      const rows = f.i32('rows', i32.sub(i32.load(i32.add(a.seqStart, entry), 4), first));
      const length = f.i32('length', i32.load(i32.add(a.kvLen, entry)));
      f.if(rows, () => {
        const seen = f.i32('seen', i32.sub(i32.add(i32.sub(length, rows), 1), a.window));
        seen.set(i32.select(i32.and(a.window, i32.select(i32.gtS(seen, 0), -1, 0)), i32.shrU(seen, CHUNK_SHIFT), 0));
        const chunks = i32.shrU(i32.add(length, CHUNK - 1), CHUNK_SHIFT);
        pieces.set(i32.sub(segmentsOf(chunks, a.segmentChunks), i32.divU(seen, a.segmentChunks)));
        f.for(row, 0, rows, 1, () => {
          f.for(head, from, to, 1, () => {
            const kvHead = i32.divU(head, a.group);
            const query = i32.add(i32.mul(row, a.group), i32.remU(head, a.group));
            const start = f.i32('start', i32.mul(i32.add(base, i32.mul(kvHead, pieces)), tileBytes));
            start.set(i32.add(i32.add(start, a.partial), i32.mul(query, stride)));
            const target = f.i32('target', i32.mul(i32.add(i32.mul(i32.add(first, row), heads), head), a.valueDim));
            target.set(i32.add(a.out, i32.shl(target, 2)));
            const bytes = f.i32('bytes', i32.shl(a.valueDim, 2));
            const top = f.v128('top', m.const(LOWEST));
            const total = f.v128('total', v128.zero());
            p.set(start);
            f.for(piece, 0, pieces, 1, () => {
              const { now, old, fresh } = emitFold(f, m, top, v128.load32Splat(p));
              top.set(now);
              total.set(m.madd(total, old, m.mul(v128.load32Splat(p, 4), fresh)));
              ps.set(i32.add(p, 4 * PARTIAL_HEADER));
              po.set(target);
              f.if(
                piece,
                () =>
                  forColumns(f, bytes, [ps, po], (c) => c.store(po, m.madd(c.load(po), old, m.mul(c.load(ps), fresh)))),
                () => forColumns(f, bytes, [ps, po], (c) => c.store(po, m.mul(c.load(ps), fresh))),
              );
              p.inc(tileBytes);
            });
            const share = f.v128('share');
            f.if(
              a.sinks,
              () => {
                const sink = f.v128('sink', v128.load32Splat(i32.add(a.sinks, i32.shl(head, 2))));
                emitSinkShare(f, m, top, sink, total, share);
              },
              () => share.set(m.div(m.const(1), total)),
            );
            po.set(target);
            forColumns(f, bytes, [po], (c) => c.store(po, m.mul(c.load(po), share)));
          });
        });
        base.inc(i32.mul(pieces, a.kvHeads));
      });
    });
  },
  twin({ f32, i32 }, a, tid, nt) {
    const m = scalarLanes;
    const heads = a.kvHeads * a.group;
    const stride = a.valueGroups * (STEP_BYTES / 4) + PARTIAL_HEADER;
    const [from, to] = splitRange(heads, tid, nt);
    let base = 0;
    for (let s = 0; s < a.sequences; s++) {
      const first = i32[(a.seqStart >>> 2) + s]!;
      const rows = i32[(a.seqStart >>> 2) + s + 1]! - first;
      const length = i32[(a.kvLen >>> 2) + s]!;
      if (rows === 0) continue;
      const seen = a.window ? Math.floor(Math.max(0, length - rows + 1 - a.window) / CHUNK) : 0;
      const pieces = Math.ceil(Math.ceil(length / CHUNK) / a.segmentChunks) - Math.floor(seen / a.segmentChunks);
      for (let row = 0; row < rows; row++) {
        for (let head = from; head < to; head++) {
          const at = (piece: number) => {
            const item = base + Math.floor(head / a.group) * pieces + piece;
            return (a.partial >>> 2) + (item * a.tileRows * a.group + row * a.group + (head % a.group)) * stride;
          };
          const target = (a.out >>> 2) + ((first + row) * heads + head) * a.valueDim;
          let top = Math.fround(LOWEST);
          let total = 0;
          for (let piece = 0; piece < pieces; piece++) {
            const { now, old, fresh } = foldTwin(top, f32[at(piece)]!);
            top = now;
            total = m.madd(total, old, m.mul(f32[at(piece) + 1]!, fresh));
            for (let d = 0; d < a.valueDim; d++) {
              const x = m.mul(f32[at(piece) + PARTIAL_HEADER + d]!, fresh);
              f32[target + d] = piece ? m.madd(f32[target + d]!, old, x) : x;
            }
          }
          const share = a.sinks ? sinkShareTwin(top, f32[(a.sinks >>> 2) + head]!, total) : m.div(1, total);
          for (let d = 0; d < a.valueDim; d++) f32[target + d] = m.mul(f32[target + d]!, share);
        }
      }
      base += pieces * a.kvHeads;
    }
  },
});
