import { defineKernel, split, splitRange } from '../kernel.ts';
import { f32, i32 } from '../wasm/ops.ts';
import { SPATIAL } from './conv.ts';

/**
 * Second half of a transposed convolution: `columns` has a row for every tap of every output channel, `[features, kernel,
 * input positions]`; each number is added where its tap puts it. Threads share the output lines.
 */
export const fold = defineKernel({
  name: 'fold',
  fields: { out: 'i32', columns: 'i32', bias: 'i32', features: 'i32', ...SPATIAL },
  emit(f, a, ctx) {
    const lines = f.i32('lines', i32.mul(a.features, i32.mul(a.outD, a.outH)));
    const { from, to } = split(f, lines, ctx);
    const taps = f.i32('taps', i32.mul(i32.mul(a.kD, a.kH), a.kW));
    const positions = f.i32('positions', i32.mul(i32.mul(a.inD, a.inH), a.inW));
    const line = f.i32('line');
    const tap = f.i32('tap');
    const x = f.i32('x');
    const o = f.i32('o');
    f.for(line, from, to, 1, () => {
      const feature = f.i32('feature', i32.divU(line, i32.mul(a.outD, a.outH)));
      const start = f.i32('start', i32.add(a.out, i32.shl(i32.mul(line, a.outW), 2)));
      const value = f.f32('value', 0);
      f.if(a.bias, () => value.set(f32.load(i32.add(a.bias, i32.shl(feature, 2)))));
      f.for(o, 0, a.outW, 1, () => f.f32Store(i32.add(start, i32.shl(o, 2)), value));
      f.for(tap, 0, taps, 1, () => {
        const d = i32.divU(tap, i32.mul(a.kH, a.kW));
        const h = i32.remU(i32.divU(tap, a.kW), a.kH);
        const w = i32.remU(tap, a.kW);
        // Where the tap came from, times the stride: negative ones are large unsigned numbers.
        const z = f.i32('z', i32.add(i32.remU(i32.divU(line, a.outH), a.outD), i32.sub(a.padD, i32.mul(d, a.stepD))));
        const y = f.i32('y', i32.add(i32.remU(line, a.outH), i32.sub(a.padH, i32.mul(h, a.stepH))));
        const whole = i32.eqz(i32.or(i32.remU(z, a.strideD), i32.remU(y, a.strideH)));
        const inside = i32.and(i32.ltU(z, i32.mul(a.inD, a.strideD)), i32.ltU(y, i32.mul(a.inH, a.strideH)));
        f.if(i32.and(whole, inside), () => {
          const row = i32.add(i32.mul(i32.divU(z, a.strideD), a.inH), i32.divU(y, a.strideH));
          const source = i32.add(i32.mul(i32.add(i32.mul(feature, taps), tap), positions), i32.mul(row, a.inW));
          const p = f.i32('p', i32.add(a.columns, i32.shl(source, 2)));
          o.set(i32.sub(i32.mul(w, a.stepW), a.padW));
          f.for(x, 0, a.inW, 1, () => {
            f.if(i32.ltU(o, a.outW), () => {
              const at = f.i32('at', i32.add(start, i32.shl(o, 2)));
              f.f32Store(at, f32.add(f32.load(at), f32.load(p)));
            });
            p.inc(4);
            o.inc(a.strideW);
          });
        });
      });
    });
  },
  twin({ f32 }, a, tid, nt) {
    const [from, to] = splitRange(a.features * a.outD * a.outH, tid, nt);
    const taps = a.kD * a.kH * a.kW;
    const positions = a.inD * a.inH * a.inW;
    for (let line = from; line < to; line++) {
      const feature = Math.floor(line / (a.outD * a.outH));
      const start = (a.out >>> 2) + line * a.outW;
      f32.fill(a.bias ? f32[(a.bias >>> 2) + feature]! : 0, start, start + a.outW);
      for (let tap = 0; tap < taps; tap++) {
        const z = (Math.floor(line / a.outH) % a.outD) + a.padD - Math.floor(tap / (a.kH * a.kW)) * a.stepD;
        const y = (line % a.outH) + a.padH - (Math.floor(tap / a.kW) % a.kH) * a.stepH;
        if (z < 0 || z >= a.inD * a.strideD || z % a.strideD || y < 0 || y >= a.inH * a.strideH || y % a.strideH)
          continue;
        const row = (z / a.strideD) * a.inH + y / a.strideH;
        const source = (a.columns >>> 2) + (feature * taps + tap) * positions + row * a.inW;
        for (let x = 0; x < a.inW; x++) {
          const o = x * a.strideW + (tap % a.kW) * a.stepW - a.padW;
          if (o >= 0 && o < a.outW) f32[start + o]! += f32[source + x]!;
        }
      }
    }
  },
});

/** Largest (`mean` 0) or mean number of windows of `[planes, in…]`; windows lie inside. Threads share the output lines. */
export const pool = defineKernel({
  name: 'pool',
  fields: { out: 'i32', x: 'i32', planes: 'i32', mean: 'i32', ...SPATIAL },
  emit(f, a, ctx) {
    const { from, to } = split(f, f.i32('lines', i32.mul(a.planes, i32.mul(a.outD, a.outH))), ctx);
    const line = f.i32('line');
    const o = f.i32('o');
    const d = f.i32('d');
    const h = f.i32('h');
    const w = f.i32('w');
    const p = f.i32('p');
    const count = f.f32('count', f32.convertI32S(i32.mul(i32.mul(a.kD, a.kH), a.kW)));
    const target = f.i32('target', i32.add(a.out, i32.shl(i32.mul(from, a.outW), 2)));
    f.for(line, from, to, 1, () => {
      const plane = i32.mul(i32.divU(line, i32.mul(a.outD, a.outH)), a.inD);
      const z = f.i32('z', i32.add(plane, i32.mul(i32.remU(i32.divU(line, a.outH), a.outD), a.strideD)));
      const y = f.i32('y', i32.mul(i32.remU(line, a.outH), a.strideH));
      f.for(o, 0, a.outW, 1, () => {
        const result = f.f32('result', f32.select(a.mean, 0, -Infinity));
        f.for(d, 0, a.kD, 1, () =>
          f.for(h, 0, a.kH, 1, () => {
            const row = i32.add(i32.mul(i32.add(z, d), a.inH), i32.add(y, h));
            p.set(i32.add(a.x, i32.shl(i32.add(i32.mul(row, a.inW), i32.mul(o, a.strideW)), 2)));
            f.for(w, 0, a.kW, 1, () => {
              const value = f.f32('value', f32.load(p));
              result.set(f32.select(a.mean, f32.add(result, value), f32.max(result, value)));
              p.inc(4);
            });
          }),
        );
        f.f32Store(target, f32.select(a.mean, f32.div(result, count), result));
        target.inc(4);
      });
    });
  },
  twin({ f32 }, a, tid, nt) {
    const [from, to] = splitRange(a.planes * a.outD * a.outH, tid, nt);
    for (let line = from; line < to; line++) {
      const z = Math.floor(line / (a.outD * a.outH)) * a.inD + (Math.floor(line / a.outH) % a.outD) * a.strideD;
      const y = (line % a.outH) * a.strideH;
      for (let o = 0; o < a.outW; o++) {
        let result = a.mean ? 0 : -Infinity;
        for (let d = 0; d < a.kD; d++) {
          for (let h = 0; h < a.kH; h++) {
            for (let w = 0; w < a.kW; w++) {
              const value = f32[(a.x >>> 2) + ((z + d) * a.inH + y + h) * a.inW + o * a.strideW + w]!;
              result = a.mean ? Math.fround(result + value) : Math.max(result, value);
            }
          }
        }
        f32[(a.out >>> 2) + line * a.outW + o] = a.mean ? Math.fround(result / (a.kD * a.kH * a.kW)) : result;
      }
    }
  },
});
