import type { KernelContext } from '../kernel.ts';
import type { V128 } from '../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { i16x8, i32x4, v128 } from '../wasm/ops.ts';
import { type CodeFormat, isWide, PAIR, PAIR_STEPS, sumsOf } from './kquant.ts';
import { codeReader, halvesAlike, wordsPerStep } from './kquantCodes.ts';
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
   * Products of the codes of `columns` columns, which start `offset` bytes behind `pw`, and the activations at `px`, which then
   * moves on. `useSums` is called with every sum of some steps, as soon as it is complete. Where sums are corrected, `pc`
   * points to their sums of activations (`SUM_WORDS.halvesOf16`).
   */
  emit(
    at: { readonly pw: Local<'i32'>; readonly offset: number; readonly px: Local<'i32'>; readonly pc: Local<'i32'> },
    useSums: (sums: Tile, lastStep: number) => void,
  ): void;
}

/**
 * The columns are written out without a loop: 8 steps × 2 quads × `n` tokens, or 4 steps where the halves of a pair are
 * decoded in the same way and have sums of their own. Engines keep the sums in registers, and nothing of the decoding has
 * to be carried from step to step; but the longer the code, the more of it some engines move to where registers run out.
 */
export function pairEmitter(f: FunctionBuilder, format: CodeFormat, n: number, ctx: KernelContext): PairEmitter {
  const { dot } = ctx.variant;
  const wide = isWide(format, ctx.variant);
  const narrow = !wide && dot === 'i16';
  const { steps, corrected } = narrow
    ? sumsOf(format)
    : { steps: format.run === 16 || format.scalePerHalf ? 4 : PAIR_STEPS, corrected: false };
  const words = wordsPerStep(wide);
  const parts = format.block === 256 && steps <= PAIR_STEPS / 2 && format.run !== PAIR && halvesAlike(format) ? 2 : 1;
  const reader = codeReader(f, format, ctx.variant);
  const sums = tileLocals(f, 'products', n);
  const codes = f.v128s('codes', QUADS);
  const x = f.v128('x');
  const correction = f.v128('correction');
  // Blocks of 32 columns alternate between their halves.
  const order = Array.from({ length: PAIR_STEPS / parts }, (_, i) =>
    format.scalePerHalf ? 2 * (i & 3) + (i >> 2) : i,
  );

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
    emit({ pw, offset, px, pc }, useSums) {
      reader.startPair();
      order.forEach((step, i) => {
        for (let half = 0; half < words; half++) {
          const first = i % steps === 0 && half === 0;
          codes.forEach((w, quad) => {
            w.set(wide ? reader.words(quad, step, half, pw, offset) : reader.bytes(quad, step, pw, offset));
          });
          sums.forEach((row, t) => {
            x.set(v128.load32Splat(px, ((step * words + half) * n + t) * 4));
            if (first && corrected) {
              const sumOfRun = v128.load32Splat(pc, ((step >> 2) * n + t) * 4);
              correction.set(i16x8.shl(sumOfRun, Math.log2(format.offset!)));
            }
            row.forEach((sum, quad) => {
              sum.set(multiply(codes[quad]!, first ? undefined : sum));
            });
          });
        }
        if ((i + 1) % steps === 0) useSums(sums, step);
      });
      px.inc(order.length * words * n * 4);
    },
  };
}
