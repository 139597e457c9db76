import { defineKernel, type Kernel, type KernelContext, split, splitRange, type Views } from '../kernel.ts';
import type { V128 } from '../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { f32x4, i32, i32x4, v128 } from '../wasm/ops.ts';
import { type Block32, blockCode, codeOf, halves, minimumOf, offsetsOf, SIGN_AND_REST, scaleOf } from './block32.ts';
import { BLOCK, GROUP, HALF_SCALE, PAIRS, QUADS, RESULT_SCALE, STEPS } from './layout.ts';
import { writeOut, writeOutTwin } from './writeOut.ts';

/** Arguments shared by the tile kernels of every format. */
export const TILE_FIELDS = {
  /** First group of the section, and rows of it. */
  w: 'i32',
  rows: 'i32',
  /** Columns. */
  columns: 'i32',
  /** Activations of the first tile: codes, scales, scaled sums; see `quantize.ts` for `copyStride`. */
  x: 'i32',
  d: 'i32',
  s: 'i32',
  copyStride: 'i32',
  tiles: 'i32',
  /** Result of the first token, and bytes between tokens. */
  y: 'i32',
  yStride: 'i32',
  /** Address of one float per row, or 0. */
  bias: 'i32',
  /** 1: adds to `y`. */
  accumulate: 'i32',
} as const;

export type TileKernel = Kernel<typeof TILE_FIELDS>;

/**
 * `y[token, row] = Σ w[row, k] x[token, k]` for tiles of `n` tokens. Threads take consecutive groups of 8 rows; for each
 * group the tiles run in the inner loop, so that weights come from the nearest cache from the second tile on.
 */
export function tileKernel(format: Block32, n: number): TileKernel {
  const offsets = offsetsOf(format);
  return defineKernel({
    name: `linear.${format.name}.${n}`,
    fields: TILE_FIELDS,
    emit(f, a, ctx) {
      const blocks = f.i32('blocks', i32.shrU(a.columns, 5));
      const { from, to } = split(f, i32.shrU(i32.add(a.rows, GROUP - 1), 3), ctx);
      const groupBytes = f.i32('groupBytes', i32.mul(blocks, offsets.bytes));
      const copy = f.i32('copy', i32.mul(a.copyStride, ctx.tid));
      for (const p of [a.x, a.d, a.s]) p.inc(copy);
      a.w.inc(i32.mul(from, groupBytes));
      a.y.inc(i32.shl(from, 5));
      f.if(a.bias, () => a.bias.inc(i32.shl(from, 5)));
      const rowsLeft = f.i32('rowsLeft', i32.sub(a.rows, i32.shl(from, 3)));
      const group = f.i32('group');
      const tile = f.i32('tile');
      const [px, pd, ps, py] = [f.i32('px'), f.i32('pd'), f.i32('ps'), f.i32('py')];
      const pw = f.i32('pw');
      const endOfGroup = f.i32('endOfGroup');
      f.for(group, from, to, 1, () => {
        px.set(a.x);
        pd.set(a.d);
        ps.set(a.s);
        py.set(a.y);
        endOfGroup.set(i32.add(a.w, groupBytes));
        f.for(tile, 0, a.tiles, 1, () => {
          pw.set(a.w);
          const sums = emitTile(f, format, n, { pw, px, pd, ps, end: endOfGroup }, ctx);
          writeOut(f, sums, { py, stride: a.yStride, rowsLeft, bias: a.bias, accumulate: a.accumulate });
        });
        a.w.set(endOfGroup);
        a.y.inc(GROUP * 4);
        f.if(a.bias, () => a.bias.inc(GROUP * 4));
        rowsLeft.inc(-GROUP);
      });
    },
    twin(m, a, tid, nt) {
      const blocks = a.columns / BLOCK;
      const [from, to] = splitRange(Math.ceil(a.rows / GROUP), tid, nt);
      const copy = a.copyStride * tid;
      for (let group = from; group < to; group++) {
        for (let tile = 0; tile < a.tiles; tile++) {
          for (let token = 0; token < n; token++) {
            for (let r = 0; r < GROUP && group * GROUP + r < a.rows; r++) {
              let sum = 0;
              for (let b = 0; b < blocks; b++) {
                const block = (a.w >>> 0) + (group * blocks + b) * offsets.bytes;
                const pair = (tile * blocks + b) * n + token;
                const xd = m.f32[((a.d + copy) >>> 2) + pair]!;
                const xs = m.f32[((a.s + copy) >>> 2) + pair]!;
                const codes = dotTwin(m, format, block, r, (a.x >>> 0) + copy, tile * blocks + b, n, token);
                const scale = scaleOf(m, block, r) * HALF_SCALE;
                if (format.offset) {
                  const centred = Math.fround(Math.fround(codes * xd) + Math.fround(xs * -format.offset));
                  sum = Math.fround(sum + Math.fround(centred * scale));
                } else {
                  sum = Math.fround(sum + Math.fround(codes * Math.fround(scale * xd)));
                  if (format.minimum)
                    sum = Math.fround(sum + Math.fround(minimumOf(m, block, r, offsets) * HALF_SCALE * xs));
                }
              }
              writeOutTwin(m, Math.fround(sum * RESULT_SCALE), group * GROUP + r, tile * n + token, a);
            }
          }
        }
      }
    },
  });
}

interface Pointers {
  readonly pw: Local<'i32'>;
  readonly px: Local<'i32'>;
  readonly pd: Local<'i32'>;
  readonly ps: Local<'i32'>;
  readonly end: Local<'i32'>;
}

/** Sums of 8 rows × `n` tokens over all blocks; the pointers end behind what they read. */
function emitTile(f: FunctionBuilder, format: Block32, n: number, p: Pointers, ctx: KernelContext): Local<'v128'>[][] {
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
