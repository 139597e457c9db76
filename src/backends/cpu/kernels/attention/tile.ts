import type { KernelContext } from '../../kernel.ts';
import type { I32 } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../../wasm/function.ts';
import { i32x4, v128 } from '../../wasm/ops.ts';
import { type CacheKind, stepBytesOf } from './layout.ts';

/** Vectors of a step: 16 words. */
export const VECTORS = 4;

/**
 * `sums[q][v] = Σ over steps of word(pb[q]) · vector v of the step at pa`: the tile both for queries against keys and for
 * weights against values. Words of an 8-bit cache are widened to pairs of 16 bits. Steps lie `stepBytes` apart, words `wordBytes`. Pointers end behind what they
 * read; `steps` is at least 1 and ends as 0.
 */
export function emitTile(
  f: FunctionBuilder,
  ctx: KernelContext,
  kind: CacheKind,
  pa: Local<'i32'>,
  pb: readonly Local<'i32'>[],
  steps: Local<'i32'>,
  stepBytes: I32 = stepBytesOf(kind),
  wordBytes: I32 = 4,
): Local<'v128'>[][] {
  const sums = pb.map(() => Array.from({ length: VECTORS }, () => f.v128('sum', v128.zero())));
  const word = pb.map(() => f.v128('word'));
  const a = f.v128('a');
  f.doWhile(() => {
    word.forEach((w, q) => {
      w.set(v128.load32Splat(pb[q]!));
    });
    for (let v = 0; v < VECTORS; v++) {
      a.set(kind === 'i8' ? v128.load8x8S(pa, 8 * v) : v128.load(pa, 16 * v));
      sums.forEach((row, q) => {
        const sum = row[v]!;
        sum.set(kind === 'f32' ? ctx.madd(a, word[q]!, sum) : i32x4.add(sum, i32x4.dotI16x8S(a, word[q]!)));
      });
    }
    pa.inc(stepBytes);
    for (const p of pb) p.inc(wordBytes);
    steps.inc(-1);
  }, steps);
  return sums;
}
