import { defineKernel, type KernelContext, split, splitRange } from '../kernel.ts';
import type { Expr, V128 } from '../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { f32, f32x4, i32, v128 } from '../wasm/ops.ts';
import { scalarLanes, vectorLanes } from './lanes.ts';
import { forColumns } from './loops.ts';
import { reduceTwin, sumRow } from './rows.ts';

/** What `emitNormPart` works on: addresses (0 for parameters that are absent) and constants in all lanes. */
export interface NormPart {
  readonly x: Local<'i32'>;
  readonly out: Local<'i32'>;
  readonly weight: Local<'i32'>;
  readonly bias: Local<'i32'>;
  readonly n: Local<'i32'>;
  /** Non-zero: subtract the mean. */
  readonly centre: Expr<'i32'>;
  readonly eps: V128;
  readonly divisor: V128;
  readonly plus: V128;
}

/** `out = (x - mean) / sqrt(Σ(x - mean)² / divisor + eps) * (weight + plus) + bias` for `n` floats; `out` may be `x`. */
export function emitNormPart(f: FunctionBuilder, ctx: KernelContext, part: NormPart): void {
  const m = vectorLanes(f, ctx);
  const bytes = f.i32('bytes', i32.shl(part.n, 2));
  const px = f.i32('px');
  const py = f.i32('py');
  const other = f.i32('other');
  const mean = f.v128('mean', v128.zero());
  const centred = (v: V128) => f.v128('c', m.sub(v, mean));
  f.if(part.centre, () => {
    px.set(part.x);
    mean.set(m.div(sumRow(f, px, bytes, m.add), f32x4.splat(f32.convertI32S(part.n))));
  });
  px.set(part.x);
  const square = (sum: V128, v: V128) => {
    const c = centred(v);
    return m.madd(c, c, sum);
  };
  const power = sumRow(f, px, bytes, square, mean);
  const scale = f.v128('scale', m.div(m.const(1), m.sqrt(m.add(m.div(power, part.divisor), part.eps))));
  px.set(part.x);
  py.set(part.out);
  f.if(
    part.weight,
    () => {
      other.set(part.weight);
      forColumns(f, bytes, [px, py, other], (c) =>
        c.store(py, m.mul(m.mul(centred(c.load(px)), scale), m.add(c.load(other), part.plus))),
      );
    },
    () => forColumns(f, bytes, [px, py], (c) => c.store(py, m.mul(centred(c.load(px)), scale))),
  );
  f.if(part.bias, () => {
    other.set(part.bias);
    py.set(part.out);
    forColumns(f, bytes, [py, other], (c) => c.store(py, m.add(c.load(py), c.load(other))));
  });
}

/** The same with word positions; `weight` and `bias` are 0 when absent. */
export interface NormPartTwin {
  readonly x: number;
  readonly out: number;
  readonly weight: number;
  readonly bias: number;
  readonly n: number;
  readonly centre: boolean;
  readonly eps: number;
  readonly divisor: number;
  readonly plus: number;
}

export function normPartTwin(
  f32: Float32Array,
  { x, out, weight, bias, n, centre, eps, divisor, plus }: NormPartTwin,
): void {
  const m = scalarLanes;
  const total = centre ? reduceTwin(n, 0, (sum, i) => m.add(sum, f32[x + i]!), m.add) : 0;
  const mean = centre ? m.div(total, n) : 0;
  const centred = (i: number) => m.sub(f32[x + i]!, mean);
  const power = reduceTwin(n, 0, (sum, i) => m.madd(centred(i), centred(i), sum), m.add);
  const scale = m.div(1, m.sqrt(m.add(m.div(power, divisor), eps)));
  for (let i = 0; i < n; i++) {
    let y = m.mul(centred(i), scale);
    if (weight) y = m.mul(y, m.add(f32[weight + i]!, plus));
    if (bias) y = m.add(y, f32[bias + i]!);
    f32[out + i] = y;
  }
}

/**
 * Norms of `parts` consecutive runs of `n` floats; part `p` uses parameters from `(p mod groups) * n` on. With `add`,
 * `x += add` comes first. Threads share the parts.
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
    const constants = {
      eps: f.v128('eps', f32x4.splat(eps)),
      divisor: f.v128('divisor', f32x4.splat(divisor)),
      plus: f.v128('plus', f32x4.splat(plus)),
    };
    const start = f.i32('start');
    const target = f.i32('target');
    const partWeight = f.i32('partWeight');
    const partBias = f.i32('partBias');
    const px = f.i32('px');
    const pa = f.i32('pa');
    f.for(part, from, to, 1, () => {
      const at = f.i32('at', i32.mul(part, bytes));
      start.set(i32.add(x, at));
      target.set(i32.add(out, at));
      f.if(add, () => {
        px.set(start);
        pa.set(i32.add(add, at));
        forColumns(f, bytes, [px, pa], (c) => c.store(px, m.add(c.load(px), c.load(pa))));
      });
      const parameter = f.i32('parameter', i32.mul(i32.remU(part, groups), bytes));
      partWeight.set(i32.select(weight, i32.add(weight, parameter), 0));
      partBias.set(i32.select(bias, i32.add(bias, parameter), 0));
      emitNormPart(f, ctx, { x: start, out: target, weight: partWeight, bias: partBias, n, centre, ...constants });
    });
  },
  twin({ f32 }, { out, x, add, weight, bias, parts, n, groups, centre, ...constants }, tid, nt) {
    const [from, to] = splitRange(parts, tid, nt);
    for (let part = from; part < to; part++) {
      const at = (x >>> 2) + part * n;
      if (add) for (let i = 0; i < n; i++) f32[at + i] = Math.fround(f32[at + i]! + f32[(add >>> 2) + part * n + i]!);
      const parameter = (part % groups) * n;
      normPartTwin(f32, {
        ...{ x: at, out: (out >>> 2) + part * n, n, centre: centre !== 0, ...constants },
        weight: weight ? (weight >>> 2) + parameter : 0,
        bias: bias ? (bias >>> 2) + parameter : 0,
      });
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
