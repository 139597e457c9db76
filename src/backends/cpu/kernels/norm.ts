import { defineKernel, split, splitRange } from '../kernel.ts';
import type { V128 } from '../wasm/expr.ts';
import { f32, f32x4, i32, v128 } from '../wasm/ops.ts';
import { scalarLanes, vectorLanes } from './lanes.ts';
import { forColumns } from './loops.ts';
import { reduceTwin, sumRow } from './rows.ts';

/**
 * Norms of `parts` consecutive runs of `n` floats: `(x - mean) / sqrt(power + eps)`, times `weight + plus`, plus `bias`,
 * where `power` is the sum of squares over `divisor` and the mean is subtracted when `centre`. Part `p` uses parameters
 * from `(p mod groups) * n` on. With `add`, `x += add` comes first. Threads share the parts.
 */
export const norm = defineKernel({
  name: 'norm',
  fields: {
    ...{ out: 'i32', x: 'i32', add: 'i32', weight: 'i32', bias: 'i32', parts: 'i32', n: 'i32', groups: 'i32' },
    ...{ centre: 'i32', eps: 'f32', divisor: 'f32', plus: 'f32' },
  },
  emit(f, { out, x, add, weight, bias, parts, n, groups, centre, eps, divisor, plus }, ctx) {
    const m = vectorLanes(f, ctx);
    const { from, to } = split(f, parts, ctx);
    const bytes = f.i32('bytes', i32.shl(n, 2));
    const part = f.i32('part');
    const px = f.i32('px');
    const start = f.i32('start');
    const other = f.i32('other');
    const py = f.i32('py');
    const mean = f.v128('mean');
    const scale = f.v128('scale');
    const epsilon = f.v128('eps', f32x4.splat(eps));
    const over = f.v128('divisor', f32x4.splat(divisor));
    const extra = f.v128('plus', f32x4.splat(plus));
    const centred = (v: V128) => f.v128('c', m.sub(v, mean));
    f.for(part, from, to, 1, () => {
      start.set(i32.add(x, i32.mul(part, bytes)));
      f.if(add, () => {
        px.set(start);
        other.set(i32.add(add, i32.mul(part, bytes)));
        forColumns(f, bytes, [px, other], (c) => c.store(px, m.add(c.load(px), c.load(other))));
      });
      mean.set(v128.zero());
      f.if(centre, () => {
        px.set(start);
        mean.set(
          m.div(
            sumRow(f, px, bytes, (sum, v) => m.add(sum, v)),
            f32x4.splat(f32.convertI32S(n)),
          ),
        );
      });
      px.set(start);
      const power = sumRow(
        f,
        px,
        bytes,
        (sum, v) => {
          const c = centred(v);
          return m.madd(c, c, sum);
        },
        mean,
      );
      scale.set(m.div(m.const(1), m.sqrt(m.add(m.div(power, over), epsilon))));
      const parameter = f.i32('parameter', i32.mul(i32.remU(part, groups), bytes));
      px.set(start);
      py.set(i32.add(out, i32.mul(part, bytes)));
      f.if(
        weight,
        () => {
          other.set(i32.add(weight, parameter));
          forColumns(f, bytes, [px, py, other], (c) => {
            const factor = m.add(c.load(other), extra);
            c.store(py, m.mul(m.mul(centred(c.load(px)), scale), factor));
          });
        },
        () => forColumns(f, bytes, [px, py], (c) => c.store(py, m.mul(centred(c.load(px)), scale))),
      );
      f.if(bias, () => {
        other.set(i32.add(bias, parameter));
        py.set(i32.add(out, i32.mul(part, bytes)));
        forColumns(f, bytes, [py, other], (c) => c.store(py, m.add(c.load(py), c.load(other))));
      });
    });
  },
  twin({ f32 }, { out, x, add, weight, bias, parts, n, groups, centre, eps, divisor, plus }, tid, nt) {
    const m = scalarLanes;
    const [from, to] = splitRange(parts, tid, nt);
    for (let part = from; part < to; part++) {
      const at = (x >>> 2) + part * n;
      if (add) for (let i = 0; i < n; i++) f32[at + i] = m.add(f32[at + i]!, f32[(add >>> 2) + part * n + i]!);
      const total = centre ? reduceTwin(n, 0, (sum, i) => m.add(sum, f32[at + i]!), m.add) : 0;
      const mean = centre ? m.div(total, n) : 0;
      const centred = (i: number) => m.sub(f32[at + i]!, mean);
      const power = reduceTwin(n, 0, (sum, i) => m.madd(centred(i), centred(i), sum), m.add);
      const scale = m.div(1, m.sqrt(m.add(m.div(power, divisor), eps)));
      const parameter = (part % groups) * n;
      for (let i = 0; i < n; i++) {
        let y = m.mul(centred(i), scale);
        if (weight) y = m.mul(y, m.add(f32[(weight >>> 2) + parameter + i]!, plus));
        if (bias) y = m.add(y, f32[(bias >>> 2) + parameter + i]!);
        f32[(out >>> 2) + part * n + i] = y;
      }
    }
  },
});

/**
 * Norm of groups of channels of `[batch, channels, plane]`: `parts = batch * groups` runs of `channels * plane` floats
 * (`channels` of one group), with one weight and bias per channel.
 */
export const groupNorm = defineKernel({
  name: 'groupNorm',
  fields: {
    ...{ out: 'i32', x: 'i32', weight: 'i32', bias: 'i32', parts: 'i32', groups: 'i32', channels: 'i32', plane: 'i32' },
    ...{ eps: 'f32', plus: 'f32' },
  },
  emit(f, { out, x, weight, bias, parts, groups, channels, plane, eps, plus }, ctx) {
    const m = vectorLanes(f, ctx);
    const { from, to } = split(f, parts, ctx);
    const bytes = f.i32('bytes', i32.shl(i32.mul(channels, plane), 2));
    const planeBytes = f.i32('planeBytes', i32.shl(plane, 2));
    const part = f.i32('part');
    const channel = f.i32('channel');
    const parameter = f.i32('parameter');
    const px = f.i32('px');
    const py = f.i32('py');
    const mean = f.v128('mean');
    const scale = f.v128('scale');
    const shift = f.v128('shift');
    const count = f.v128('count', f32x4.splat(f32.convertI32S(i32.mul(channels, plane))));
    f.for(part, from, to, 1, () => {
      px.set(i32.add(x, i32.mul(part, bytes)));
      mean.set(
        m.div(
          sumRow(f, px, bytes, (sum, v) => m.add(sum, v)),
          count,
        ),
      );
      px.set(i32.add(x, i32.mul(part, bytes)));
      const power = sumRow(
        f,
        px,
        bytes,
        (sum, v) => {
          const c = f.v128('c', m.sub(v, mean));
          return m.madd(c, c, sum);
        },
        mean,
      );
      const inverse = f.v128('inverse', m.div(m.const(1), m.sqrt(m.add(m.div(power, count), f32x4.splat(eps)))));
      px.set(i32.add(x, i32.mul(part, bytes)));
      py.set(i32.add(out, i32.mul(part, bytes)));
      parameter.set(i32.shl(i32.mul(i32.remU(part, groups), channels), 2));
      f.for(channel, 0, channels, 1, () => {
        scale.set(inverse);
        shift.set(v128.zero());
        f.if(weight, () =>
          scale.set(m.mul(inverse, m.add(v128.load32Splat(i32.add(weight, parameter)), f32x4.splat(plus)))),
        );
        f.if(bias, () => shift.set(v128.load32Splat(i32.add(bias, parameter))));
        const nextX = f.i32('nextX', i32.add(px, planeBytes));
        const nextY = f.i32('nextY', i32.add(py, planeBytes));
        forColumns(f, planeBytes, [px, py], (c) => c.store(py, m.madd(m.sub(c.load(px), mean), scale, shift)));
        px.set(nextX);
        py.set(nextY);
        parameter.inc(4);
      });
    });
  },
  twin({ f32 }, { out, x, weight, bias, parts, groups, channels, plane, eps, plus }, tid, nt) {
    const m = scalarLanes;
    const [from, to] = splitRange(parts, tid, nt);
    const n = channels * plane;
    for (let part = from; part < to; part++) {
      const at = (x >>> 2) + part * n;
      const mean = m.div(
        reduceTwin(n, 0, (sum, i) => m.add(sum, f32[at + i]!), m.add),
        n,
      );
      const centred = (i: number) => m.sub(f32[at + i]!, mean);
      const power = reduceTwin(n, 0, (sum, i) => m.madd(centred(i), centred(i), sum), m.add);
      const inverse = m.div(1, m.sqrt(m.add(m.div(power, n), eps)));
      for (let i = 0; i < n; i++) {
        const channel = (part % groups) * channels + Math.floor(i / plane);
        const scale = weight ? m.mul(inverse, m.add(f32[(weight >>> 2) + channel]!, plus)) : inverse;
        const shift = bias ? f32[(bias >>> 2) + channel]! : 0;
        f32[(out >>> 2) + part * n + i] = m.madd(centred(i), scale, shift);
      }
    }
  },
});
