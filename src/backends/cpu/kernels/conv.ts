import { defineKernel, split, splitRange } from '../kernel.ts';
import type { Expr } from '../wasm/expr.ts';
import { f32, f32x4, i32, v128 } from '../wasm/ops.ts';

/** Sizes of a convolution over three axes (missing ones in front have size 1): input, kernel, output, and how it steps. */
export const SPATIAL = {
  inD: 'i32',
  inH: 'i32',
  inW: 'i32',
  kD: 'i32',
  kH: 'i32',
  kW: 'i32',
  outD: 'i32',
  outH: 'i32',
  outW: 'i32',
  strideD: 'i32',
  strideH: 'i32',
  strideW: 'i32',
  padD: 'i32',
  padH: 'i32',
  padW: 'i32',
  stepD: 'i32',
  stepH: 'i32',
  stepW: 'i32',
} as const;

/**
 * The inputs of `count` output positions from `first` on, one row of `channels * kernel` numbers for each: with these rows
 * a convolution is a matrix product. Threads share the positions.
 */
export const unfold = defineKernel({
  name: 'unfold',
  fields: { columns: 'i32', x: 'i32', channels: 'i32', first: 'i32', count: 'i32', ...SPATIAL },
  emit(f, a, ctx) {
    const { from, to } = split(f, a.count, ctx);
    const position = f.i32('position');
    const [channel, d, h, w] = ['channel', 'd', 'h', 'w'].map((name) => f.i32(name)) as [
      ReturnType<typeof f.i32>,
      ReturnType<typeof f.i32>,
      ReturnType<typeof f.i32>,
      ReturnType<typeof f.i32>,
    ];
    const line = f.i32('line');
    const value = f.f32('value');
    const taps = i32.mul(i32.mul(a.kD, a.kH), a.kW);
    const p = f.i32('p', i32.add(a.columns, i32.shl(i32.mul(from, i32.mul(a.channels, taps)), 2)));
    f.for(position, from, to, 1, () => {
      const at = f.i32('at', i32.add(a.first, position));
      const x0 = f.i32('x0', i32.sub(i32.mul(i32.remU(at, a.outW), a.strideW), a.padW));
      const row = f.i32('row', i32.divU(at, a.outW));
      const y0 = f.i32('y0', i32.sub(i32.mul(i32.remU(row, a.outH), a.strideH), a.padH));
      const z0 = f.i32('z0', i32.sub(i32.mul(i32.divU(row, a.outH), a.strideD), a.padD));
      f.for(channel, 0, a.channels, 1, () => {
        f.for(d, 0, a.kD, 1, () => {
          const z = f.i32('z', i32.add(z0, i32.mul(d, a.stepD)));
          f.for(h, 0, a.kH, 1, () => {
            const y = f.i32('y', i32.add(y0, i32.mul(h, a.stepH)));
            // Negative coordinates are large unsigned ones.
            const inside = f.i32('inside', i32.and(i32.ltU(z, a.inD), i32.ltU(y, a.inH)));
            line.set(i32.mul(i32.add(i32.mul(i32.add(i32.mul(channel, a.inD), z), a.inH), y), a.inW));
            f.for(w, 0, a.kW, 1, () => {
              const x = f.i32('x', i32.add(x0, i32.mul(w, a.stepW)));
              value.set(0);
              f.if(i32.and(inside, i32.ltU(x, a.inW)), () =>
                value.set(f32.load(i32.add(a.x, i32.shl(i32.add(line, x), 2)))),
              );
              f.f32Store(p, value);
              p.inc(4);
            });
          });
        });
      });
    });
  },
  twin({ f32 }, a, tid, nt) {
    const [from, to] = splitRange(a.count, tid, nt);
    let p = (a.columns >>> 2) + from * a.channels * a.kD * a.kH * a.kW;
    for (let position = from; position < to; position++) {
      const at = a.first + position;
      const x0 = (at % a.outW) * a.strideW - a.padW;
      const row = Math.floor(at / a.outW);
      const y0 = (row % a.outH) * a.strideH - a.padH;
      const z0 = Math.floor(row / a.outH) * a.strideD - a.padD;
      for (let channel = 0; channel < a.channels; channel++) {
        for (let d = 0; d < a.kD; d++) {
          for (let h = 0; h < a.kH; h++) {
            for (let w = 0; w < a.kW; w++) {
              const [z, y, x] = [z0 + d * a.stepD, y0 + h * a.stepH, x0 + w * a.stepW];
              const inside = z >= 0 && z < a.inD && y >= 0 && y < a.inH && x >= 0 && x < a.inW;
              const line = ((channel * a.inD + z) * a.inH + y) * a.inW;
              f32[p++] = inside ? f32[(a.x >>> 2) + line + x]! : 0;
            }
          }
        }
      }
    }
  },
});

/**
 * Convolution line by line: every tap of the kernel adds a multiple of a line of the input to a line of the output. For
 * grouped convolutions, where matrix products would be tiny. Threads share the output lines of all channels.
 */
export const convLines = defineKernel({
  name: 'convLines',
  fields: {
    out: 'i32',
    x: 'i32',
    w: 'i32',
    bias: 'i32',
    batch: 'i32',
    /** Channels of `x`, of `out`, and those of `x` in a group. */
    channels: 'i32',
    features: 'i32',
    perGroup: 'i32',
    ...SPATIAL,
  },
  emit(f, a, ctx) {
    const lines = f.i32('lines', i32.mul(i32.mul(a.batch, a.features), i32.mul(a.outD, a.outH)));
    const { from, to } = split(f, lines, ctx);
    const line = f.i32('line');
    const locals = ['channel', 'd', 'h', 'w'].map((name) => f.i32(name));
    const [channel, d, h, w] = locals as [
      (typeof locals)[0],
      (typeof locals)[0],
      (typeof locals)[0],
      (typeof locals)[0],
    ];
    const pw = f.i32('pw');
    const po = f.i32('po');
    const px = f.i32('px');
    const left = f.i32('left');
    const featuresPerGroup = f.i32('featuresPerGroup', i32.divU(a.features, i32.divU(a.channels, a.perGroup)));
    const taps = f.i32('taps', i32.mul(i32.mul(a.kD, a.kH), a.kW));
    f.for(line, from, to, 1, () => {
      const feature = f.i32('feature', i32.remU(i32.divU(line, i32.mul(a.outD, a.outH)), a.features));
      const image = f.i32('image', i32.divU(line, i32.mul(a.features, i32.mul(a.outD, a.outH))));
      const y0 = f.i32('y0', i32.sub(i32.mul(i32.remU(line, a.outH), a.strideH), a.padH));
      const z0 = f.i32('z0', i32.sub(i32.mul(i32.remU(i32.divU(line, a.outH), a.outD), a.strideD), a.padD));
      const start = f.i32('start', i32.add(a.out, i32.shl(i32.mul(line, a.outW), 2)));
      const value = f.f32('value', 0);
      f.if(a.bias, () => value.set(f32.load(i32.add(a.bias, i32.shl(feature, 2)))));
      po.set(start);
      left.set(a.outW);
      f.doWhile(() => {
        f.f32Store(po, value);
        po.inc(4);
        left.inc(-1);
      }, left);
      const firstChannel = f.i32(
        'firstChannel',
        i32.add(i32.mul(image, a.channels), i32.mul(i32.divU(feature, featuresPerGroup), a.perGroup)),
      );
      pw.set(i32.add(a.w, i32.shl(i32.mul(i32.mul(feature, a.perGroup), taps), 2)));
      f.for(channel, firstChannel, i32.add(firstChannel, a.perGroup), 1, () => {
        f.for(d, 0, a.kD, 1, () => {
          const z = f.i32('z', i32.add(z0, i32.mul(d, a.stepD)));
          f.for(h, 0, a.kH, 1, () => {
            const y = f.i32('y', i32.add(y0, i32.mul(h, a.stepH)));
            const inside = f.i32('inside', i32.and(i32.ltU(z, a.inD), i32.ltU(y, a.inH)));
            const source = f.i32(
              'source',
              i32.mul(i32.add(i32.mul(i32.add(i32.mul(channel, a.inD), z), a.inH), y), a.inW),
            );
            f.for(w, 0, a.kW, 1, () => {
              f.if(inside, () => {
                const offset = f.i32('offset', i32.sub(i32.mul(w, a.stepW), a.padW));
                // Outputs whose input `o * strideW + offset` lies in the line.
                const low = f.i32('low', ceilDivide(i32.sub(0, offset), a.strideW));
                low.set(i32.select(i32.gtS(low, 0), low, 0));
                const high = f.i32('high', ceilDivide(i32.sub(a.inW, offset), a.strideW));
                high.set(i32.select(i32.ltS(high, a.outW), high, a.outW));
                left.set(i32.sub(high, low));
                po.set(i32.add(start, i32.shl(low, 2)));
                px.set(i32.add(a.x, i32.shl(i32.add(source, i32.add(i32.mul(low, a.strideW), offset)), 2)));
                const factor = f.v128('factor', v128.load32Splat(pw));
                f.if(i32.eq(a.strideW, 1), () =>
                  f.while(i32.geS(left, 4), () => {
                    f.v128Store(po, ctx.madd(v128.load(px), factor, v128.load(po)));
                    po.inc(16);
                    px.inc(16);
                    left.inc(-4);
                  }),
                );
                f.while(i32.gtS(left, 0), () => {
                  const sum = ctx.madd(v128.load32Zero(px), factor, v128.load32Zero(po));
                  f.f32Store(po, f32x4.extractLane(sum, 0));
                  po.inc(4);
                  px.inc(i32.shl(a.strideW, 2));
                  left.inc(-1);
                });
              });
              pw.inc(4);
            });
          });
        });
      });
    });
  },
  twin({ f32 }, a, tid, nt) {
    const [from, to] = splitRange(a.batch * a.features * a.outD * a.outH, tid, nt);
    const featuresPerGroup = a.features / (a.channels / a.perGroup);
    const taps = a.kD * a.kH * a.kW;
    for (let line = from; line < to; line++) {
      const feature = Math.floor(line / (a.outD * a.outH)) % a.features;
      const image = Math.floor(line / (a.features * a.outD * a.outH));
      const y0 = (line % a.outH) * a.strideH - a.padH;
      const z0 = (Math.floor(line / a.outH) % a.outD) * a.strideD - a.padD;
      const firstChannel = image * a.channels + Math.floor(feature / featuresPerGroup) * a.perGroup;
      for (let o = 0; o < a.outW; o++) {
        let sum = a.bias ? f32[(a.bias >>> 2) + feature]! : 0;
        for (let tap = 0; tap < a.perGroup * taps; tap++) {
          const channel = firstChannel + Math.floor(tap / taps);
          const z = z0 + (Math.floor(tap / (a.kH * a.kW)) % a.kD) * a.stepD;
          const y = y0 + (Math.floor(tap / a.kW) % a.kH) * a.stepH;
          const x = o * a.strideW - a.padW + (tap % a.kW) * a.stepW;
          if (z < 0 || z >= a.inD || y < 0 || y >= a.inH || x < 0 || x >= a.inW) continue;
          const factor = f32[(a.w >>> 2) + feature * a.perGroup * taps + tap]!;
          const source = ((channel * a.inD + z) * a.inH + y) * a.inW + x;
          sum = Math.fround(Math.fround(f32[(a.x >>> 2) + source]! * factor) + sum);
        }
        f32[(a.out >>> 2) + line * a.outW + o] = sum;
      }
    }
  },
});

/** `ceil(a / b)` for positive `b`. */
function ceilDivide(a: Expr<'i32'>, b: Expr<'i32'>): Expr<'i32'> {
  // Division truncates: right for negative numbers, one short for positive ones with a rest.
  return i32.add(i32.divS(a, b), i32.gtS(i32.remS(a, b), 0));
}
