import { defineKernel, splitRange } from '../kernel.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { f32, f32x4, i8x16, i16x8, i32, i32x4, v128 } from '../wasm/ops.ts';
import { TILE } from './layout.ts';
import { share } from './quantize.ts';
import { largestOf, magnitude, peakOf, toInteger, toIntegers } from './rounding.ts';

/** Columns that share a scale. */
export const SUPER_BLOCK = 256;
const LARGEST = 127;
/** Blocks whose largest magnitude is below this are zero: the reciprocal of the scale would overflow. */
const SMALLEST = 2 ** -100;

/**
 * Words of sums of a block, two 16-bit sums to a word: for each 16 columns the sums of the first two and of the last two
 * of every four columns; the sums of two times 16 columns; of two times 32.
 */
export const SUM_WORDS = { halvesOf16: 0, of16: 16, of32: 24, count: 28 } as const;
/** Bytes of the sums of one token and block. */
export const SUM_BYTES = SUM_WORDS.count * 4;

/** `k8`: codes are bytes; `k16`: 16-bit numbers, for products of 16 bits. */
export type SuperActivation = 'k8' | 'k16';

const STEP = 4;
const CHUNK = 16;
const HALVES = [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7] as const;
const NEIGHBOURS = [4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11] as const;

/**
 * Activations to 8-bit codes per block of 256: `d = max|x| / 127`, `q = round(x / d)` to nearest, ties to even. Codes lie
 * in the order of the columns, 4 (`k8`) or 2 (`k16`: columns 0 and 2, then 1 and 3 of four) to a word, the words of the
 * tokens of a tile side by side; `d` as `[tile][block][token]`; `s` as
 * `[tile][block][word][token]` holds sums of codes as 16-bit integers (`SUM_WORDS`). Threads work as in `quantize.ts`.
 */
function quantizer(kind: SuperActivation) {
  const width = kind === 'k8' ? 1 : 2;
  return defineKernel({
    name: `quantize.${kind}`,
    fields: { x: 'i32', q: 'i32', d: 'i32', s: 'i32', rows: 'i32', columns: 'i32', copyStride: 'i32' },
    emit(f, { x, q, d, s, rows, columns, copyStride }, ctx) {
      const { from, to } = share(f, rows, copyStride, ctx);
      const shift = f.i32('shift', i32.mul(copyStride, ctx.tid));
      const row = f.i32('row');
      const first = f.i32('first');
      const tokens = f.i32('tokens');
      const stride = f.i32('stride');
      const [px, pq, pd, ps] = [f.i32('px'), f.i32('pq'), f.i32('pd'), f.i32('ps')];
      const end = f.i32('end');
      f.for(row, from, to, 1, () => {
        first.set(i32.and(row, -TILE));
        tokens.set(i32.sub(rows, first));
        tokens.set(i32.select(i32.ltU(tokens, TILE), tokens, TILE));
        stride.set(i32.shl(tokens, 2));
        px.set(i32.add(x, i32.mul(row, i32.shl(columns, 2))));
        end.set(i32.add(px, i32.shl(columns, 2)));
        const token = i32.shl(i32.sub(row, first), 2);
        const blocksBefore = i32.mul(first, i32.shrU(columns, 8));
        pq.set(i32.add(i32.add(q, shift), i32.add(i32.mul(first, i32.mul(columns, width)), token)));
        pd.set(i32.add(i32.add(d, shift), i32.add(i32.shl(blocksBefore, 2), token)));
        ps.set(i32.add(i32.add(s, shift), i32.add(i32.mul(blocksBefore, SUM_BYTES), token)));
        f.while(i32.ltU(px, end), () => {
          quantizeBlock(f, kind, { px, pq, pd, ps, stride });
          pd.inc(stride);
        });
      });
    },
    twin({ f32, u8, i16 }, { x, q, d, s, rows, columns, copyStride }, tid, nt) {
      const [from, to] = copyStride ? [0, rows] : splitRange(rows, tid, nt);
      const shift = copyStride * tid;
      const codes = new Int32Array(SUPER_BLOCK);
      for (let row = from; row < to; row++) {
        const first = row - (row % TILE);
        const tokens = Math.min(TILE, rows - first);
        const token = row - first;
        for (let b = 0; b < columns / SUPER_BLOCK; b++) {
          const at = (x >>> 2) + row * columns + b * SUPER_BLOCK;
          let largest = 0;
          for (let k = 0; k < SUPER_BLOCK; k++) largest = Math.max(largest, Math.abs(f32[at + k]!));
          const inverse = largest > SMALLEST ? Math.fround(LARGEST / largest) : 0;
          for (let k = 0; k < SUPER_BLOCK; k++) codes[k] = toInteger(f32[at + k]!, inverse);
          const tile = first * (columns / SUPER_BLOCK) + b * tokens;
          f32[((d + shift) >>> 2) + tile + token] = largest / LARGEST;
          const block = (q >>> 0) + shift + tile * SUPER_BLOCK * width;
          const sums = ((s >>> 0) + shift + tile * SUM_BYTES) >>> 1;
          const word = (i: number) => i * tokens + token;
          const run = (first: number, count: number) =>
            codes.subarray(first, first + count).reduce((sum, code) => sum + code, 0);
          for (let k = 0; k < SUPER_BLOCK; k += 4) {
            const at = sums + word(SUM_WORDS.halvesOf16 + (k >> 4)) * 2;
            for (let i = 0; i < 2; i++) i16[at + i] = (k & 12 ? i16[at + i]! : 0) + run(k + 2 * i, 2);
          }
          for (let i = 0; i < 16; i++) i16[sums + word(SUM_WORDS.of16 + (i >> 1)) * 2 + (i & 1)] = run(16 * i, 16);
          for (let i = 0; i < 8; i++) i16[sums + word(SUM_WORDS.of32 + (i >> 1)) * 2 + (i & 1)] = run(32 * i, 32);
          for (let k = 0; k < SUPER_BLOCK; k++) {
            if (kind === 'k8') u8[block + word(k >> 2) * 4 + (k & 3)] = codes[k]!;
            else i16[(block >>> 1) + word((k >> 2) * 2 + (k & 1)) * 2 + ((k & 3) >> 1)] = codes[k]!;
          }
        }
      }
    },
  });
}

interface Pointers {
  readonly px: Local<'i32'>;
  readonly pq: Local<'i32'>;
  readonly pd: Local<'i32'>;
  readonly ps: Local<'i32'>;
  /** Bytes between the words of a token. */
  readonly stride: Local<'i32'>;
}

/** One block of one row; `px`, `pq` and `ps` end behind it. */
function quantizeBlock(f: FunctionBuilder, kind: SuperActivation, p: Pointers): void {
  const largest = f.v128('largest', v128.zero());
  const at = f.i32('at', p.px);
  const end = f.i32('endOfBlock', i32.add(p.px, SUPER_BLOCK * 4));
  f.doWhile(
    () => {
      largest.set(largestOf([largest, ...[0, 1, 2, 3].map((i) => magnitude(f, v128.load(at, 16 * i)))]));
      at.inc(64);
    },
    i32.ltU(at, end),
  );
  const peak = f.f32('peak', peakOf(largest));
  f.f32Store(p.pd, f32.div(peak, LARGEST));
  const inverse = f.v128('inverse', f32x4.splat(f32.select(f32.gt(peak, SMALLEST), f32.div(LARGEST, peak), 0)));

  const values = f.v128s('x', 4);
  const codes = f.v128('codes');
  const sum = f.v128('sum');
  const runs = Array.from({ length: 4 }, (_, i) => f.i32(`run${i}`));
  const sumsOf16 = f.i32('sumsOf16', i32.add(p.ps, i32.mul(p.stride, SUM_WORDS.of16)));
  const sumsOf32 = f.i32('sumsOf32', i32.add(p.ps, i32.mul(p.stride, SUM_WORDS.of32)));
  const storePair = (to: Local<'i32'>, low: Local<'i32'>, high: Local<'i32'>) => {
    f.i32Store16(to, low);
    f.i32Store16(to, high, 2);
    to.inc(p.stride);
  };
  f.doWhile(
    () => {
      for (const run of runs) {
        values.forEach((v, i) => {
          v.set(toIntegers(f, v128.load(p.px, 16 * i), inverse));
        });
        codes.set(
          i8x16.narrowI16x8S(i16x8.narrowI32x4S(values[0]!, values[1]!), i16x8.narrowI32x4S(values[2]!, values[3]!)),
        );
        sum.set(i16x8.extaddPairwiseI8x16S(codes));
        for (const order of [HALVES, NEIGHBOURS]) sum.set(i16x8.add(sum, i8x16.shuffle(sum, sum, order)));
        f.v128StoreLane(32, p.ps, sum, 0);
        p.ps.inc(p.stride);
        run.set(i32x4.extractLane(i32x4.extaddPairwiseI16x8S(sum), 0));
        const parts =
          kind === 'k8'
            ? [codes]
            : [f.v128('even', i16x8.shrS(i16x8.shl(codes, 8), 8)), f.v128('odd', i16x8.shrS(codes, 8))];
        for (let step = 0; step < CHUNK / STEP; step++) {
          for (const part of parts) {
            f.v128StoreLane(32, p.pq, part, step);
            p.pq.inc(p.stride);
          }
        }
        p.px.inc(CHUNK * 4);
      }
      const [a, b, c, d] = runs as [Local<'i32'>, Local<'i32'>, Local<'i32'>, Local<'i32'>];
      storePair(sumsOf16, a, b);
      storePair(sumsOf16, c, d);
      a.set(i32.add(a, b));
      c.set(i32.add(c, d));
      storePair(sumsOf32, a, c);
    },
    i32.ltU(p.px, end),
  );
  p.ps.set(sumsOf32);
}

export const quantizeK8 = quantizer('k8');
export const quantizeK16 = quantizer('k16');
