import { defineKernel, split, splitRange } from '../../kernel.ts';
import { i32, v128 } from '../../wasm/ops.ts';
import { scalarLanes, vectorLanes } from '../lanes.ts';
import { forColumns } from '../loops.ts';
import { swish } from '../math.ts';
import { SEQUENCE_FIELDS, sequenceAt, sequenceTwin } from './units.ts';

/**
 * Depthwise convolution over the rows of each sequence and the `kernel - 1` inputs before them, which `state` keeps.
 * `x` points at the first column that takes part, rows lie `stride` floats apart. Threads share the channels.
 */
export const causalConv = defineKernel({
  name: 'causalConv',
  fields: {
    ...{ out: 'i32', x: 'i32', w: 'i32', bias: 'i32', state: 'i32', stride: 'i32', channels: 'i32', kernel: 'i32' },
    ...SEQUENCE_FIELDS,
    silu: 'i32',
  },
  emit(f, a, ctx) {
    const m = vectorLanes(f, ctx);
    const { from, to } = split(f, i32.shrU(i32.add(a.channels, 3), 2), ctx);
    const start = f.i32('start', i32.shl(from, 4));
    const width = f.i32('width', i32.shl(a.channels, 2));
    const stop = f.i32('stop', i32.shl(to, 4));
    const bytes = f.i32('bytes', i32.sub(i32.select(i32.ltU(stop, width), stop, width), start));
    const [sequence, row, tap, time] = [f.i32('sequence'), f.i32('row'), f.i32('tap'), f.i32('time')];
    const [px, pw, py, target] = [f.i32('px'), f.i32('pw'), f.i32('py'), f.i32('target')];
    const past = f.i32('past', i32.sub(a.kernel, 1));
    f.for(sequence, 0, a.sequences, 1, () => {
      const { first, end, slot, fresh } = sequenceAt(f, a, sequence);
      const tail = f.i32('tail', i32.add(i32.add(a.state, start), i32.mul(i32.mul(slot, past), width)));
      /** Sets `px` to the input at `time`, counted from the first row; runs `none` where it is before the sequence. */
      const input = (some: () => void, none: () => void) => {
        f.if(
          i32.ltS(time, 0),
          () => {
            px.set(i32.add(tail, i32.mul(i32.add(time, past), width)));
            f.if(fresh, none, some);
          },
          () => {
            px.set(i32.add(i32.add(a.x, start), i32.mul(i32.add(first, time), i32.shl(a.stride, 2))));
            some();
          },
        );
      };
      f.for(row, first, end, 1, () => {
        target.set(i32.add(i32.add(a.out, start), i32.mul(row, width)));
        py.set(target);
        f.if(
          a.bias,
          () => {
            px.set(i32.add(a.bias, start));
            forColumns(f, bytes, [px, py], (c) => c.store(py, c.load(px)));
          },
          () => forColumns(f, bytes, [py], (c) => c.store(py, v128.zero())),
        );
        f.for(tap, 0, a.kernel, 1, () => {
          time.set(i32.add(i32.sub(i32.sub(row, first), past), tap));
          const add = () => {
            pw.set(i32.add(i32.add(a.w, start), i32.mul(tap, width)));
            py.set(target);
            forColumns(f, bytes, [px, pw, py], (c) => c.store(py, m.madd(c.load(pw), c.load(px), c.load(py))));
          };
          input(add, () => {});
        });
        f.if(a.silu, () => {
          py.set(target);
          forColumns(f, bytes, [py], (c) => c.store(py, swish(m, c.load(py), undefined)));
        });
      });
      // Rising: an entry is read before it is overwritten.
      f.if(i32.ltU(first, end), () =>
        f.for(tap, 0, past, 1, () => {
          time.set(i32.add(i32.sub(i32.sub(end, first), past), tap));
          py.set(i32.add(tail, i32.mul(tap, width)));
          input(
            () => forColumns(f, bytes, [px, py], (c) => c.store(py, c.load(px))),
            () => forColumns(f, bytes, [py], (c) => c.store(py, v128.zero())),
          );
        }),
      );
    });
  },
  twin(memory, a, tid, nt) {
    const m = scalarLanes;
    const { f32 } = memory;
    const [from, to] = splitRange((a.channels + 3) >>> 2, tid, nt);
    const past = a.kernel - 1;
    for (let s = 0; s < a.sequences; s++) {
      const { first, end, slot, fresh } = sequenceTwin(memory, a, s);
      const tail = (a.state >>> 2) + slot * past * a.channels;
      for (let c = 4 * from; c < Math.min(4 * to, a.channels); c++) {
        /** Undefined before the sequence. */
        const input = (time: number): number | undefined => {
          if (time >= 0) return f32[(a.x >>> 2) + (first + time) * a.stride + c]!;
          return fresh ? undefined : f32[tail + (time + past) * a.channels + c]!;
        };
        for (let t = 0; t < end - first; t++) {
          let sum = a.bias ? f32[(a.bias >>> 2) + c]! : 0;
          for (let j = 0; j < a.kernel; j++) {
            const x = input(t - past + j);
            if (x !== undefined) sum = m.madd(f32[(a.w >>> 2) + j * a.channels + c]!, x, sum);
          }
          f32[(a.out >>> 2) + (first + t) * a.channels + c] = a.silu ? swish(m, sum, undefined) : sum;
        }
        if (first === end) continue;
        for (let j = 0; j < past; j++) f32[tail + j * a.channels + c] = input(end - first - past + j) ?? 0;
      }
    }
  },
});
