import type { KernelContext } from '../kernel.ts';
import type { V128 } from '../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { i16x8, i32, i32x4, v128 } from '../wasm/ops.ts';
import { type CodeFormat, codeOffsets, isWide, PAIR, PAIR_STEPS, sumsOf } from './kquant.ts';
import { codeReader, stepsAlike, wordsPerStep } from './kquantCodes.ts';
import { QUADS } from './layout.ts';

/** One vector per token and quad of rows. */
export type Tile = readonly (readonly Local<'v128'>[])[];

export function tileLocals(f: FunctionBuilder, name: string, tokens: number): Tile {
  return Array.from({ length: tokens }, (_, t) => f.v128s(`${name}${t}_`, QUADS));
}

export function forEachOf(tile: Tile, body: (sum: Local<'v128'>, token: number, quad: number) => void): void {
  tile.forEach((row, token) => {
    row.forEach((sum, quad) => {
      body(sum, token, quad);
    });
  });
}

export interface PairEmitter {
  /** Sums are 16-bit numbers, two per row; otherwise 32-bit numbers, one per row. */
  readonly narrow: boolean;
  /** The offset of the codes is taken back inside of the sums. */
  readonly corrected: boolean;
  /** What `emit` multiplies: a pair, or the half of one. */
  readonly columns: number;
  /**
   * Products of the codes of `columns` columns at `pw` and the activations at `px`; both then move on. `useSums` is called
   * with every sum of some steps, as soon as it is complete. Where sums are corrected, `pc` points to their sums of
   * activations (`SUM_WORDS.halvesOf16`).
   */
  emit(
    at: { readonly pw: Local<'i32'>; readonly px: Local<'i32'>; readonly pc: Local<'i32'> },
    useSums: (sums: Tile, lastStep: number) => void,
  ): void;
}

/**
 * With activations per 256 columns, the columns are written out without a loop: 8 steps × 2 quads × `n` tokens, or 4 steps
 * where the halves of a pair are decoded in the same way and have sums of their own. Engines keep the sums in registers,
 * and nothing of the decoding has to be carried from step to step; but the longer the code, the more of it some engines
 * move to where registers run out. The others loop over steps that are decoded in the same way.
 */
export function pairEmitter(f: FunctionBuilder, format: CodeFormat, n: number, ctx: KernelContext): PairEmitter {
  const { dot } = ctx.variant;
  const wide = isWide(format, ctx.variant);
  const narrow = !wide && dot === 'i16';
  const { steps, corrected } = narrow
    ? sumsOf(format)
    : { steps: format.run === 16 || format.scalePerHalf ? 4 : PAIR_STEPS, corrected: false };
  const words = wordsPerStep(wide);
  const parts =
    format.inputs === 256 && steps <= PAIR_STEPS / 2 && format.run !== PAIR && stepsAlike(format) < PAIR_STEPS ? 2 : 1;
  const reader = codeReader(f, format, ctx.variant);
  const sums = tileLocals(f, 'products', n);
  const codes = f.v128s('codes', QUADS);
  const x = f.v128('x');
  const correction = f.v128('correction');
  // Blocks of 32 columns alternate between their halves.
  const order = Array.from({ length: PAIR_STEPS / parts }, (_, i) =>
    format.scalePerHalf ? 2 * (i & 3) + (i >> 2) : i,
  );
  const pairBytes = codeOffsets(format).pair;
  // Steps written out, and how often.
  const unit = format.scalePerHalf ? order.length : Math.min(order.length, stepsAlike(format));
  const turns = Math.max(1, Math.min(steps, order.length) / unit);
  const end = f.i32('endOfSteps');

  const multiply = (w: V128, sum: V128 | undefined): V128 => {
    if (wide) return sum ? i32x4.add(sum, i32x4.dotI16x8S(x, w)) : i32x4.dotI16x8S(x, w);
    if (!narrow) return i32x4.relaxedDotI8x16I7x16AddS(x, w, sum ?? v128.zero());
    const product = i16x8.relaxedDotI8x16I7x16S(x, w);
    if (sum) return i16x8.add(sum, product);
    return corrected ? i16x8.sub(product, correction) : product;
  };
  return {
    narrow,
    corrected,
    columns: PAIR / parts,
    emit({ pw, px, pc }, useSums) {
      const multiplySteps = (from: number, afresh: boolean) => {
        reader.startPair();
        for (let i = 0; i < unit; i++) multiplyStep(order[i]!, from + i, i % steps === 0 && afresh);
        pw.inc((pairBytes / PAIR_STEPS) * unit);
        px.inc(unit * words * n * 4);
      };
      const multiplyStep = (step: number, i: number, afresh: boolean) => {
        for (let half = 0; half < words; half++) {
          const first = afresh && half === 0;
          codes.forEach((w, quad) => {
            w.set(wide ? reader.words(quad, step, half, pw, 0) : reader.bytes(quad, step, pw, 0));
          });
          sums.forEach((row, t) => {
            x.set(v128.load32Splat(px, ((step * words + half) * n + t) * 4));
            if (first && corrected) {
              const sumOfRun = v128.load32Splat(pc, ((i >> 2) * n + t) * 4);
              correction.set(i16x8.shl(sumOfRun, Math.log2(format.offset!)));
            }
            row.forEach((sum, quad) => {
              sum.set(multiply(codes[quad]!, first ? undefined : sum));
            });
          });
        }
        if (turns === 1 && (i + 1) % steps === 0) useSums(sums, step);
      };
      for (let i = 0; i < order.length; i += unit * turns) {
        if (turns > 1) end.set(i32.add(pw, (pairBytes / PAIR_STEPS) * unit * turns));
        multiplySteps(i, true);
        if (turns === 1) continue;
        f.doWhile(() => multiplySteps(i, false), i32.ltU(pw, end));
        useSums(sums, i + unit * turns - 1);
      }
    },
  };
}
