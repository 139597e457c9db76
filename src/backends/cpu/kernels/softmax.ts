import { defineKernel, split, splitRange } from '../kernel.ts';
import { f32x4, i32 } from '../wasm/ops.ts';
import { scalarLanes, vectorLanes } from './lanes.ts';
import { forColumns } from './loops.ts';
import { expNegative } from './math.ts';
import { reduceRow, reduceTwin, sumRow } from './rows.ts';

/**
 * `out = softmax(scale * x (+ mask))` by rows; `maskRow` is the distance of mask rows in bytes (0: one for all). A row of
 * minus infinities gives zeros. `out` may be `x`.
 */
export const softmax = defineKernel({
  name: 'softmax',
  fields: { out: 'i32', x: 'i32', mask: 'i32', maskRow: 'i32', rows: 'i32', width: 'i32', scale: 'f32' },
  emit(f, { out, x, mask, maskRow, rows, width, scale }, ctx) {
    const m = vectorLanes(f, ctx);
    const { from, to } = split(f, rows, ctx);
    const bytes = f.i32('bytes', i32.shl(width, 2));
    const factor = f.v128('scale', f32x4.splat(scale));
    const row = f.i32('row');
    const px = f.i32('px');
    const pm = f.i32('pm');
    const py = f.i32('py');
    const start = f.i32('start');
    f.for(row, from, to, 1, () => {
      px.set(i32.add(x, i32.mul(row, bytes)));
      start.set(i32.add(out, i32.mul(row, bytes)));
      py.set(start);
      f.if(
        mask,
        () => {
          pm.set(i32.add(mask, i32.mul(row, maskRow)));
          forColumns(f, bytes, [px, pm, py], (c) => c.store(py, m.madd(c.load(px), factor, c.load(pm))));
        },
        () => forColumns(f, bytes, [px, py], (c) => c.store(py, m.mul(c.load(px), factor))),
      );
      py.set(start);
      const lowest = m.const(-Infinity);
      const peak = reduceRow(f, py, bytes, {
        neutral: lowest,
        missing: lowest,
        step: (sum, v) => m.max(sum, v),
        combine: (a, b) => m.max(a, b),
      });
      // Finite even when the whole row is masked: exp(-∞ - peak) is then 0, not NaN.
      peak.set(m.max(peak, m.const(LOWEST)));
      py.set(start);
      forColumns(f, bytes, [py], (c) => c.store(py, expNegative(m, f.v128('d', m.sub(c.load(py), peak)))));
      py.set(start);
      const total = sumRow(f, py, bytes, (sum, v) => m.add(sum, v));
      const share = f.v128('share', m.div(m.const(1), m.max(total, m.const(SMALLEST))));
      py.set(start);
      forColumns(f, bytes, [py], (c) => c.store(py, m.mul(c.load(py), share)));
    });
  },
  twin({ f32 }, { out, x, mask, maskRow, rows, width, scale }, tid, nt) {
    const m = scalarLanes;
    const [from, to] = splitRange(rows, tid, nt);
    for (let row = from; row < to; row++) {
      const at = (out >>> 2) + row * width;
      for (let i = 0; i < width; i++) {
        const v = f32[(x >>> 2) + row * width + i]!;
        f32[at + i] = mask ? m.madd(v, scale, f32[((mask + row * maskRow) >>> 2) + i]!) : m.mul(v, scale);
      }
      const highest = reduceTwin(width, -Infinity, (sum, i) => m.max(sum, f32[at + i]!), m.max);
      const peak = m.max(highest, Math.fround(LOWEST));
      for (let i = 0; i < width; i++) f32[at + i] = expNegative(m, m.sub(f32[at + i]!, peak));
      const total = reduceTwin(width, 0, (sum, i) => m.add(sum, f32[at + i]!), m.add);
      const share = m.div(1, m.max(total, Math.fround(SMALLEST)));
      for (let i = 0; i < width; i++) f32[at + i] = m.mul(f32[at + i]!, share);
    }
  },
});

const LOWEST = -3.4028234663852886e38;
/** A sum of exponentials is at least 1 unless the whole row is masked. */
const SMALLEST = 1e-30;
