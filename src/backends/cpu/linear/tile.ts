import type { KernelContext, Views } from '../kernel.ts';
import type { V128 } from '../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { f32x4, i32, i32x4, v128 } from '../wasm/ops.ts';
import { type Block32, blockCode, codeOf, halves, minimumOf, offsetsOf, SIGN_AND_REST, scaleOf } from './block32.ts';
import { defineTileKernel, type TileKernel, type TilePointers } from './driver.ts';
import { BLOCK, HALF_SCALE, PAIRS, QUADS, RESULT_SCALE, STEPS } from './layout.ts';

/** The tile kernel of a format with blocks of 32 columns. */
export function tileKernel(format: Block32, n: number): TileKernel {
  const offsets = offsetsOf(format);
  return defineTileKernel(format.name, n, {
    groupBytes: (columns) => i32.mul(i32.shrU(columns, 5), offsets.bytes),
    emitTile: (f, p, _, ctx) => emitTile(f, format, n, p, ctx),
    sumTwin(m, a, { group, row, tile, token, copy }) {
      const blocks = a.columns / BLOCK;
      let sum = 0;
      for (let b = 0; b < blocks; b++) {
        const block = (a.w >>> 0) + (group * blocks + b) * offsets.bytes;
        const pair = (tile * blocks + b) * n + token;
        const xd = m.f32[((a.d + copy) >>> 2) + pair]!;
        const xs = m.f32[((a.s + copy) >>> 2) + pair]!;
        const codes = dotTwin(m, format, block, row, (a.x >>> 0) + copy, tile * blocks + b, n, token);
        const scale = scaleOf(m, block, row) * HALF_SCALE;
        if (format.offset) {
          const centred = Math.fround(Math.fround(codes * xd) + Math.fround(xs * -format.offset));
          sum = Math.fround(sum + Math.fround(centred * scale));
        } else {
          sum = Math.fround(sum + Math.fround(codes * Math.fround(scale * xd)));
          const minimum = format.minimum ? minimumOf(m, block, row, offsets) * HALF_SCALE : 0;
          if (format.minimum) sum = Math.fround(sum + Math.fround(minimum * xs));
        }
      }
      return Math.fround(sum * RESULT_SCALE);
    },
  });
}

/** Sums of 8 rows × `n` tokens over all blocks; the pointers end behind what they read. */
function emitTile(
  f: FunctionBuilder,
  format: Block32,
  n: number,
  p: TilePointers,
  ctx: KernelContext,
): Local<'v128'>[][] {
  const offsets = offsetsOf(format);
  const code = blockCode(f, format, ctx);
  const tokens = Array.from({ length: n }, (_, i) => i);
  const quads = Array.from({ length: QUADS }, (_, i) => i);
  const sums = tokens.map((t) => f.v128s(`sum${t}_`, QUADS));
  const narrow = tokens.map((t) => f.v128s(`narrow${t}_`, QUADS));
  const wide =
    code.widenAfter !== undefined && code.widenAfter < STEPS ? tokens.map((t) => f.v128s(`wide${t}_`, QUADS)) : narrow;
  const x = f.v128('x');
  const w = f.v128s('w', QUADS);
  const scales = f.v128s('scale', QUADS);
  const minima = f.v128s('minimum', QUADS);
  const block = f.i32('block');
  const endOfSteps = f.i32('endOfSteps');
  const stepWords = code.parts * n;
  const xd = f.v128('xd');
  const xs = f.v128('xs');
  // Tiles of one or two tokens leave registers free.
  const constants = n <= 2 ? f.pooled : f.inMemory;
  const upper = constants.i16x8(SIGN_AND_REST);
  const centre = format.offset ? constants.f32x4(-format.offset) : undefined;

  const step = (first: boolean) => {
    for (let part = 0; part < code.parts; part++) {
      for (const q of quads) w[q]!.set(code.code(q, part, p.pw, offsets.codes));
      for (const t of tokens) {
        x.set(v128.load32Splat(p.px, (part * n + t) * 4));
        for (const q of quads) {
          const sum = narrow[t]![q]!;
          sum.set(code.dot(x, w[q]!, first && part === 0 ? undefined : sum));
        }
      }
    }
    code.endStep();
    p.pw.inc(offsets.step);
    p.px.inc(stepWords * 4);
  };
  const steps = (count: number) => {
    endOfSteps.set(i32.add(p.pw, count * offsets.step));
    step(true);
    f.doWhile(() => step(false), i32.ltU(p.pw, endOfSteps));
  };

  for (const sum of sums.flat()) sum.set(v128.zero());
  f.doWhile(
    () => {
      block.set(p.pw);
      code.startBlock(block);
      const widenAfter = code.widenAfter ?? STEPS;
      for (let done = 0; done < STEPS; done += widenAfter) {
        steps(widenAfter);
        if (wide !== narrow) {
          for (const t of tokens) {
            for (const q of quads) {
              const widened = i32x4.extaddPairwiseI16x8S(narrow[t]![q]!);
              wide[t]![q]!.set(done ? i32x4.add(wide[t]![q]!, widened) : widened);
            }
          }
        }
      }
      halves(block, 0, upper, x, scales);
      if (format.minimum) halves(block, offsets.minimum, upper, x, minima);
      for (const t of tokens) {
        xd.set(v128.load32Splat(p.pd, 4 * t));
        const scaledSum = v128.load32Splat(p.ps, 4 * t);
        if (format.minimum) xs.set(scaledSum);
        if (centre) xs.set(f32x4.mul(scaledSum, centre));
        for (const q of quads) {
          const total = wide[t]![q]!;
          const integers: V128 = code.widenAfter === STEPS ? i32x4.extaddPairwiseI16x8S(total) : total;
          const codes = f32x4.convertI32x4S(integers);
          const sum = sums[t]![q]!;
          if (centre) {
            sum.set(ctx.madd(ctx.madd(codes, xd, xs), scales[q]!, sum));
          } else {
            sum.set(ctx.madd(codes, f32x4.mul(scales[q]!, xd), sum));
            if (format.minimum) sum.set(ctx.madd(minima[q]!, xs, sum));
          }
        }
      }
      p.pw.set(i32.add(block, offsets.bytes));
      p.pd.inc(4 * n);
      p.ps.inc(4 * n);
    },
    i32.ltU(p.pw, p.end),
  );
  for (const sum of sums.flat()) sum.set(f32x4.mul(sum, f.inMemory.f32x4(RESULT_SCALE)));
  return sums;
}

/** The integer sum of one block, row and token, from SIMD128 activations. */
function dotTwin(
  m: Views,
  format: Block32,
  block: number,
  row: number,
  x: number,
  blockIndex: number,
  n: number,
  token: number,
): number {
  const offsets = offsetsOf(format);
  const words = STEPS * PAIRS.length;
  let sum = 0;
  for (let word = 0; word < words; word++) {
    const at = (x + ((blockIndex * words + word) * n + token) * 4) >>> 1;
    const k = 4 * (word >> 2) + PAIRS[word & 3]!;
    for (let c = 0; c < 2; c++) sum += m.i16[at + c]! * codeOf(m, format, offsets, block, row, k + 2 * c);
  }
  return sum;
}
