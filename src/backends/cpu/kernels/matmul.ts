import { defineKernel, split, splitRange } from '../kernel.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { f32, f32x4, i8x16, i32, v128 } from '../wasm/ops.ts';
import { emitTile } from './attention/tile.ts';
import { scalarLanes } from './lanes.ts';
import { loadPart } from './loops.ts';

const FIELDS = {
  out: 'i32',
  a: 'i32',
  b: 'i32',
  /** Pairs of matrices, and the distances between them, and between rows of `out`; all in bytes. */
  batch: 'i32',
  aBatch: 'i32',
  bBatch: 'i32',
  outBatch: 'i32',
  outRow: 'i32',
  /** Distances between rows of `a`, and between numbers of a row: the transpose of a matrix is read as it lies. */
  aRow: 'i32',
  aStep: 'i32',
  m: 'i32',
  n: 'i32',
  k: 'i32',
  /** One number per row, added; 0: none. */
  bias: 'i32',
} as const;

/** Rows of `a` that share what is loaded of `b`. */
const ROWS = 2;
/** Columns of `out` in a tile of `matmul`, and in one of `matmulTransposed`. */
const WIDE = 16;
const NARROW = 4;

/** `out = a b (+ bias)` for `a` `[m, k]` and `b` `[k, n]`, `batch` times. Threads share pairs of rows. */
export const matmul = defineKernel({
  name: 'matmul',
  fields: FIELDS,
  emit(f, t, ctx) {
    const pairs = f.i32('pairs', i32.shrU(i32.add(t.m, ROWS - 1), 1));
    const { from, to } = split(f, f.i32('units', i32.mul(t.batch, pairs)), ctx);
    const unit = f.i32('unit');
    const pa = f.i32('pa');
    const pb = f.i32('pb');
    const po = f.i32('po');
    const column = f.i32('column');
    const steps = f.i32('steps');
    const stepBytes = f.i32('stepBytes', i32.shl(t.n, 2));
    f.for(unit, from, to, 1, () => {
      const index = f.i32('index', i32.divU(unit, pairs));
      const row = f.i32('row', i32.shl(i32.remU(unit, pairs), 1));
      pa.set(i32.add(i32.add(t.a, i32.mul(index, t.aBatch)), i32.mul(row, t.aRow)));
      pb.set(i32.add(t.b, i32.mul(index, t.bBatch)));
      po.set(i32.add(i32.add(t.out, i32.mul(index, t.outBatch)), i32.mul(row, t.outRow)));
      const both = f.i32('both', i32.ltU(i32.add(row, 1), t.m));
      const bias = [0, 1].map((q) => f.f32(`bias${q}`, 0));
      f.if(t.bias, () => {
        const at = i32.add(t.bias, i32.shl(row, 2));
        bias[0]!.set(f32.load(at));
        f.if(both, () => bias[1]!.set(f32.load(at, 4)));
      });
      const tile = (rows: number) => {
        const source = f.i32('source', i32.add(pb, i32.shl(column, 2)));
        const words = Array.from({ length: rows }, (_, q) => f.i32('word', q ? i32.add(pa, t.aRow) : pa));
        steps.set(t.k);
        emitTile(f, ctx, 'f32', source, words, steps, stepBytes, t.aStep).forEach((sums, q) => {
          const start = i32.add(po, i32.shl(column, 2));
          const target = f.i32('target', q ? i32.add(start, t.outRow) : start);
          sums.forEach((sum, v) => {
            f.v128Store(target, f32x4.add(sum, f32x4.splat(bias[q]!)), 16 * v);
          });
        });
      };
      const single = (q: number) => {
        const source = f.i32('source', i32.add(pb, i32.shl(column, 2)));
        const word = f.i32('word', q ? i32.add(pa, t.aRow) : pa);
        const sum = f.v128('sum', v128.zero());
        steps.set(t.k);
        f.doWhile(() => {
          sum.set(ctx.madd(v128.load32Zero(source), v128.load32Zero(word), sum));
          source.inc(stepBytes);
          word.inc(t.aStep);
          steps.inc(-1);
        }, steps);
        const start = i32.add(po, i32.shl(column, 2));
        f.f32Store(q ? i32.add(start, t.outRow) : start, f32.add(f32x4.extractLane(sum, 0), bias[q]!));
      };
      column.set(0);
      f.while(i32.leU(i32.add(column, WIDE), t.n), () => {
        f.if(
          both,
          () => tile(2),
          () => tile(1),
        );
        column.inc(WIDE);
      });
      f.while(i32.ltU(column, t.n), () => {
        single(0);
        f.if(both, () => single(1));
        column.inc(1);
      });
    });
  },
  twin({ f32 }, t, tid, nt) {
    const m = scalarLanes;
    const pairs = Math.ceil(t.m / ROWS);
    const [from, to] = splitRange(t.batch * pairs, tid, nt);
    for (let unit = from; unit < to; unit++) {
      const index = Math.floor(unit / pairs);
      const first = (unit % pairs) * ROWS;
      for (let row = first; row < Math.min(first + ROWS, t.m); row++) {
        const a = (t.a + index * t.aBatch + row * t.aRow) >>> 2;
        const b = (t.b + index * t.bBatch) >>> 2;
        const out = (t.out + index * t.outBatch + row * t.outRow) >>> 2;
        const bias = t.bias ? f32[(t.bias >>> 2) + row]! : 0;
        for (let c = 0; c < t.n; c++) {
          let sum = 0;
          for (let i = 0; i < t.k; i++) sum = m.madd(f32[b + i * t.n + c]!, f32[a + i * (t.aStep / 4)]!, sum);
          f32[out + c] = m.add(sum, bias);
        }
      }
    }
  },
});

/** `out = a bᵀ (+ bias)` for `a` `[m, k]` and `b` `[n, k]`, both without gaps, `batch` times. Threads share pairs of rows. */
export const matmulTransposed = defineKernel({
  name: 'matmulTransposed',
  fields: FIELDS,
  emit(f, t, ctx) {
    const pairs = f.i32('pairs', i32.shrU(i32.add(t.m, ROWS - 1), 1));
    const { from, to } = split(f, f.i32('units', i32.mul(t.batch, pairs)), ctx);
    const unit = f.i32('unit');
    const pa = f.i32('pa');
    const pb = f.i32('pb');
    const po = f.i32('po');
    const column = f.i32('column');
    const rowBytes = f.i32('rowBytes', i32.shl(t.k, 2));
    f.for(unit, from, to, 1, () => {
      const index = f.i32('index', i32.divU(unit, pairs));
      const row = f.i32('row', i32.shl(i32.remU(unit, pairs), 1));
      pa.set(i32.add(i32.add(t.a, i32.mul(index, t.aBatch)), i32.mul(row, rowBytes)));
      pb.set(i32.add(t.b, i32.mul(index, t.bBatch)));
      po.set(i32.add(i32.add(t.out, i32.mul(index, t.outBatch)), i32.mul(row, t.outRow)));
      const both = f.i32('both', i32.ltU(i32.add(row, 1), t.m));
      const bias = [0, 1].map((q) => f.f32(`bias${q}`, 0));
      f.if(t.bias, () => {
        const at = i32.add(t.bias, i32.shl(row, 2));
        bias[0]!.set(f32.load(at));
        f.if(both, () => bias[1]!.set(f32.load(at, 4)));
      });
      const tile = (rows: number, columns: number) => {
        const a = Array.from({ length: rows }, (_, q) => f.i32('a', q ? i32.add(pa, rowBytes) : pa));
        const b = Array.from({ length: columns }, (_, c) => f.i32('b', c ? i32.add(pb, i32.mul(rowBytes, c)) : pb));
        const sums = a.map(() => b.map(() => f.v128('sum', v128.zero())));
        const left = f.i32('left', rowBytes);
        const step = (load: (p: Local<'i32'>) => Local<'v128'>) => {
          const x = a.map(load);
          b.forEach((p, c) => {
            const y = load(p);
            x.forEach((v, q) => {
              sums[q]![c]!.set(ctx.madd(v, y, sums[q]![c]!));
            });
          });
        };
        f.while(i32.geS(left, 16), () => {
          step((p) => f.v128('x', v128.load(p)));
          for (const p of [...a, ...b]) p.inc(16);
          left.inc(-16);
        });
        f.if(left, () => step((p) => loadPart(f, p, i32.gtS(left, 4), i32.gtS(left, 8))));
        const start = f.i32('start', i32.add(po, i32.shl(column, 2)));
        sums.forEach((row4, q) => {
          const target = q ? f.i32('target', i32.add(start, t.outRow)) : start;
          const total = f32x4.add(sumLanes(f, row4), f32x4.splat(bias[q]!));
          if (columns === NARROW) f.v128Store(target, total);
          else f.f32Store(target, f32x4.extractLane(total, 0));
        });
      };
      column.set(0);
      f.while(i32.leU(i32.add(column, NARROW), t.n), () => {
        f.if(
          both,
          () => tile(2, NARROW),
          () => tile(1, NARROW),
        );
        column.inc(NARROW);
        pb.inc(i32.shl(rowBytes, 2));
      });
      f.while(i32.ltU(column, t.n), () => {
        f.if(
          both,
          () => tile(2, 1),
          () => tile(1, 1),
        );
        column.inc(1);
        pb.inc(rowBytes);
      });
    });
  },
  twin({ f32 }, t, tid, nt) {
    const m = scalarLanes;
    const pairs = Math.ceil(t.m / ROWS);
    const [from, to] = splitRange(t.batch * pairs, tid, nt);
    for (let unit = from; unit < to; unit++) {
      const index = Math.floor(unit / pairs);
      const first = (unit % pairs) * ROWS;
      for (let row = first; row < Math.min(first + ROWS, t.m); row++) {
        const a = ((t.a + index * t.aBatch) >>> 2) + row * t.k;
        const out = (t.out + index * t.outBatch + row * t.outRow) >>> 2;
        const bias = t.bias ? f32[(t.bias >>> 2) + row]! : 0;
        for (let c = 0; c < t.n; c++) {
          const b = ((t.b + index * t.bBatch) >>> 2) + c * t.k;
          const lanes = [0, 0, 0, 0] as [number, number, number, number];
          for (let i = 0; i < t.k; i++) lanes[i % 4] = m.madd(f32[a + i]!, f32[b + i]!, lanes[i % 4]!);
          f32[out + c] = m.add(m.add(m.add(lanes[0], lanes[2]), m.add(lanes[1], lanes[3])), bias);
        }
      }
    }
  },
});

/** Lane `c` is the sum of the lanes of `sums[c]`; with a single vector all lanes are its sum. */
function sumLanes(f: FunctionBuilder, sums: readonly Local<'v128'>[]): Local<'v128'> {
  const words = (a: Local<'v128'>, b: Local<'v128'>, order: readonly number[]) =>
    i8x16.shuffle(
      a,
      b,
      order.flatMap((w) => [4 * w, 4 * w + 1, 4 * w + 2, 4 * w + 3]),
    );
  const [s0, s1, s2, s3] = [0, 1, 2, 3].map((c) => sums[c % sums.length]!) as [
    Local<'v128'>,
    Local<'v128'>,
    Local<'v128'>,
    Local<'v128'>,
  ];
  const low = f.v128('low', f32x4.add(words(s0, s1, [0, 4, 1, 5]), words(s0, s1, [2, 6, 3, 7])));
  const high = f.v128('high', f32x4.add(words(s2, s3, [0, 4, 1, 5]), words(s2, s3, [2, 6, 3, 7])));
  return f.v128('total', f32x4.add(words(low, high, [0, 1, 4, 5]), words(low, high, [2, 3, 6, 7])));
}
