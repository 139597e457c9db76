import { defineKernel, split, splitRange } from '../kernel.ts';
import type { Expr } from '../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { f32, f64, i32 } from '../wasm/ops.ts';

/** Ways to sample. `bicubic` is Keys' kernel with a = -0.75. */
export const RESIZE_MODES = { nearest: 1, bilinear: 2, bicubic: 4 } as const;
const TAPS = 4;
const A = -0.75;

/** Sources and weights along one axis for one output position. */
interface Samples {
  readonly at: readonly Local<'i32'>[];
  readonly weight: readonly Local<'f64'>[];
}

/**
 * `[planes, inH, inW]` to `[planes, outH, outW]`; `taps` is a value of `RESIZE_MODES`. Positions beyond the edge repeat
 * the edge. Threads share the output lines.
 */
export const resize = defineKernel({
  name: 'resize',
  fields: {
    ...({ out: 'i32', x: 'i32', planes: 'i32', inH: 'i32', inW: 'i32' } as const),
    ...({ outH: 'i32', outW: 'i32', taps: 'i32', alignCorners: 'i32' } as const),
  },
  emit(f, a, ctx) {
    const { from, to } = split(f, f.i32('lines', i32.mul(a.planes, a.outH)), ctx);
    const line = f.i32('line');
    const column = f.i32('column');
    const rows = newSamples(f);
    const columns = newSamples(f);
    const total = f.local('f64', 'total');
    const p = f.i32('p', i32.add(a.out, i32.shl(i32.mul(from, a.outW), 2)));
    f.for(line, from, to, 1, () => {
      const plane = f.i32('plane', i32.mul(i32.divU(line, a.outH), i32.mul(a.inH, a.inW)));
      emitSamples(f, rows, f.i32('row', i32.remU(line, a.outH)), a.outH, a.inH, a.taps, a.alignCorners);
      f.for(column, 0, a.outW, 1, () => {
        emitSamples(f, columns, column, a.outW, a.inW, a.taps, a.alignCorners);
        total.set(0);
        for (let i = 0; i < TAPS; i++) {
          f.if(i32.gtU(a.taps, i), () => {
            const source = f.i32('source', i32.add(plane, i32.mul(rows.at[i]!, a.inW)));
            for (let j = 0; j < TAPS; j++) {
              f.if(i32.gtU(a.taps, j), () => {
                const x = f32.load(i32.add(a.x, i32.shl(i32.add(source, columns.at[j]!), 2)));
                const weight = f64.mul(rows.weight[i]!, columns.weight[j]!);
                total.set(f64.add(total, f64.mul(weight, f64.promoteF32(x))));
              });
            }
          });
        }
        f.f32Store(p, f32.demoteF64(total));
        p.inc(4);
      });
    });
  },
  twin({ f32 }, a, tid, nt) {
    const [from, to] = splitRange(a.planes * a.outH, tid, nt);
    for (let line = from; line < to; line++) {
      const plane = Math.floor(line / a.outH) * a.inH * a.inW;
      const rows = samplesTwin(line % a.outH, a.outH, a.inH, a.taps, a.alignCorners);
      for (let column = 0; column < a.outW; column++) {
        let total = 0;
        for (const r of rows) {
          for (const c of samplesTwin(column, a.outW, a.inW, a.taps, a.alignCorners)) {
            total += r.weight * c.weight * f32[(a.x >>> 2) + plane + r.at * a.inW + c.at]!;
          }
        }
        f32[(a.out >>> 2) + line * a.outW + column] = total;
      }
    }
  },
});

function newSamples(f: FunctionBuilder): Samples {
  return {
    at: Array.from({ length: TAPS }, () => f.i32('at')),
    weight: Array.from({ length: TAPS }, () => f.local('f64', 'weight')),
  };
}

function emitSamples(
  f: FunctionBuilder,
  s: Samples,
  position: Local<'i32'>,
  output: Local<'i32'>,
  input: Local<'i32'>,
  taps: Local<'i32'>,
  alignCorners: Local<'i32'>,
): void {
  const last = f.i32('last', i32.sub(input, 1));
  const edge = (i: Expr<'i32'>) => {
    const at = f.i32('at', i);
    return i32.select(i32.ltS(at, 0), 0, i32.select(i32.gtS(at, last), last, at));
  };
  f.if(
    i32.eq(taps, RESIZE_MODES.nearest),
    () => {
      s.at[0]!.set(i32.divU(i32.mul(position, input), output));
      s.weight[0]!.set(1);
    },
    () => {
      const wide = (x: Expr<'i32'>) => f64.convertI32S(x);
      const centre = f.local('f64', 'centre');
      f.if(
        alignCorners,
        () => {
          centre.set(0);
          f.if(i32.gtS(output, 1), () => centre.set(f64.div(wide(i32.mul(position, last)), wide(i32.sub(output, 1)))));
        },
        () => centre.set(f64.sub(f64.div(f64.mul(f64.add(wide(position), 0.5), wide(input)), wide(output)), 0.5)),
      );
      const floor = f.local('f64', 'floor');
      floor.set(f64.floor(centre));
      const base = f.i32('base', i32.truncSatF64S(floor));
      const rest = f.local('f64', 'rest');
      rest.set(f64.sub(centre, floor));
      f.if(
        i32.eq(taps, RESIZE_MODES.bilinear),
        () => {
          s.at[0]!.set(edge(base));
          s.at[1]!.set(edge(i32.add(base, 1)));
          s.weight[0]!.set(f64.sub(1, rest));
          s.weight[1]!.set(rest);
        },
        () => {
          for (let i = 0; i < TAPS; i++) {
            s.at[i]!.set(edge(i32.add(base, i - 1)));
            const d = f.local('f64', 'd');
            // Distances rest + 1, rest, 1 - rest, 2 - rest.
            d.set(i < 2 ? f64.add(rest, 1 - i) : f64.sub(i - 1, rest));
            s.weight[i]!.set(i === 1 || i === 2 ? near(d) : far(d));
          }
        },
      );
    },
  );
}

/** Keys' kernel within distance 1, and between 1 and 2. */
const near = (d: Local<'f64'>) => f64.add(f64.mul(f64.mul(f64.sub(f64.mul(d, A + 2), A + 3), d), d), 1);
const far = (d: Local<'f64'>) => f64.sub(f64.mul(f64.add(f64.mul(f64.sub(f64.mul(d, A), 5 * A), d), 8 * A), d), 4 * A);

function samplesTwin(position: number, output: number, input: number, taps: number, alignCorners: number) {
  const edge = (i: number) => Math.min(input - 1, Math.max(0, i));
  if (taps === RESIZE_MODES.nearest) return [{ at: Math.floor((position * input) / output), weight: 1 }];
  const corner = output > 1 ? (position * (input - 1)) / (output - 1) : 0;
  const centre = alignCorners ? corner : ((position + 0.5) * input) / output - 0.5;
  const base = Math.floor(centre);
  const rest = centre - base;
  if (taps === RESIZE_MODES.bilinear) {
    return [
      { at: edge(base), weight: 1 - rest },
      { at: edge(base + 1), weight: rest },
    ];
  }
  return [rest + 1, rest, 1 - rest, 2 - rest].map((d, i) => ({
    at: edge(base + i - 1),
    weight: i === 1 || i === 2 ? ((A + 2) * d - (A + 3)) * d * d + 1 : ((A * d - 5 * A) * d + 8 * A) * d - 4 * A,
  }));
}
