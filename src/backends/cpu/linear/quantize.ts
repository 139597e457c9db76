import { defineKernel, type KernelContext, split, splitRange } from '../kernel.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { f32, f32x4, i8x16, i16x8, i32, i32x4, v128 } from '../wasm/ops.ts';
import type { Activation } from './family.ts';
import { ACTIVATION_BYTES, ACTIVATION_SCALE, BLOCK, PAIRS, STEPS, TILE } from './layout.ts';
import { largestOf, magnitude, peakOf, toInteger, toIntegers } from './rounding.ts';

/**
 * Largest code. 16-bit products have room for 256 times finer codes at the same speed: 32 of the largest products,
 * 127 · 32512, stay below 2^31.
 */
const LARGEST: Readonly<Record<'i8' | 'i16', number>> = { i8: 127, i16: 127 * 256 };
/** Blocks whose largest magnitude is below this are zero: the reciprocal of the scale would overflow. */
const SMALLEST = 2 ** -100;

/** Arguments of every kernel that prepares activations. */
export const QUANTIZE_FIELDS = {
  /** Input rows, one behind the other. */
  x: 'i32',
  /** Where codes, scales and sums go. */
  q: 'i32',
  d: 'i32',
  s: 'i32',
  rows: 'i32',
  columns: 'i32',
  copyStride: 'i32',
} as const;

/**
 * Activations to integer codes per block of 32: `d = max|x| / LARGEST`, `q = round(x / d)` to nearest, ties to even, and
 * `s = d Σq` for formats with minima. Codes are stored as bytes (`i8`) or 16-bit numbers (`i16`) in tile order
 * (`layout.ts`); `d` and `s`, times `ACTIVATION_SCALE`, as `[tile][block][token]`.
 *
 * A block with NaN or an infinity has such a scale.
 *
 * Threads share the rows, or, when `copyStride` is not zero, each makes a private copy `copyStride` bytes behind the
 * previous one: for a few rows that is cheaper than waiting for each other.
 */
function quantizer(kind: 'i8' | 'i16') {
  const width = ACTIVATION_BYTES[kind];
  const limit = LARGEST[kind];
  return defineKernel({
    name: `quantize.${kind}`,
    fields: QUANTIZE_FIELDS,
    emit(f, { x, q, d, s, rows, columns, copyStride }, ctx) {
      const { from, to } = share(f, rows, copyStride, ctx);
      const shift = f.i32('shift', i32.mul(copyStride, ctx.tid));
      const row = f.i32('row');
      const first = f.i32('first');
      const tokens = f.i32('tokens');
      const stride = f.i32('stride');
      const px = f.i32('px');
      const pq = f.i32('pq');
      const pd = f.i32('pd');
      const ps = f.i32('ps');
      const end = f.i32('end');
      f.for(row, from, to, 1, () => {
        first.set(i32.and(row, -TILE));
        tokens.set(i32.sub(rows, first));
        tokens.set(i32.select(i32.ltU(tokens, TILE), tokens, TILE));
        stride.set(i32.shl(tokens, 2));
        px.set(i32.add(x, i32.mul(row, i32.shl(columns, 2))));
        end.set(i32.add(px, i32.shl(columns, 2)));
        const token = i32.shl(i32.sub(row, first), 2);
        pq.set(i32.add(i32.add(q, shift), i32.add(i32.mul(first, i32.mul(columns, width)), token)));
        const scales = i32.add(i32.mul(i32.mul(first, i32.shrU(columns, 5)), 4), token);
        pd.set(i32.add(i32.add(d, shift), scales));
        ps.set(i32.add(i32.add(s, shift), scales));
        f.while(i32.ltU(px, end), () => {
          quantizeBlock(f, kind, px, pq, pd, ps, stride);
          px.inc(BLOCK * 4);
          pd.inc(stride);
          ps.inc(stride);
        });
      });
    },
    twin({ f32, u8, i16 }, { x, q, d, s, rows, columns, copyStride }, tid, nt) {
      const [from, to] = copyStride ? [0, rows] : splitRange(rows, tid, nt);
      const shift = copyStride * tid;
      const codes = new Int32Array(BLOCK);
      for (let row = from; row < to; row++) {
        const first = row - (row % TILE);
        const tokens = Math.min(TILE, rows - first);
        const token = row - first;
        for (let b = 0; b < columns / BLOCK; b++) {
          const at = (x >>> 2) + row * columns + b * BLOCK;
          let largest = 0;
          for (let k = 0; k < BLOCK; k++) largest = Math.max(largest, Math.abs(f32[at + k]!));
          const scale = Math.fround(Math.fround(largest / limit) * ACTIVATION_SCALE);
          const inverse = largest > SMALLEST ? Math.fround(limit / largest) : 0;
          let sum = 0;
          for (let k = 0; k < BLOCK; k++) {
            codes[k] = toInteger(f32[at + k]!, inverse);
            sum += codes[k]!;
          }
          const block = (q >>> 0) + shift + (first * columns + b * BLOCK * tokens) * width;
          let slot = 0;
          for (let step = 0; step < STEPS; step++) {
            const starts = kind === 'i8' ? [0, 16] : PAIRS;
            for (const start of starts) {
              const k = start + 4 * step;
              const to4 = block + (slot++ * tokens + token) * 4;
              if (kind === 'i8') for (let c = 0; c < 4; c++) u8[to4 + c] = codes[k + c]!;
              else for (let c = 0; c < 2; c++) i16[to4 / 2 + c] = codes[k + 2 * c]!;
            }
          }
          const pair = first * (columns / BLOCK) + b * tokens + token;
          f32[((d + shift) >>> 2) + pair] = scale;
          f32[((s + shift) >>> 2) + pair] = scale * sum;
        }
      }
    },
  });
}

export function share(f: FunctionBuilder, rows: Local<'i32'>, copyStride: Local<'i32'>, ctx: KernelContext) {
  const range = split(f, rows, ctx);
  f.if(copyStride, () => {
    range.from.set(0);
    range.to.set(rows);
  });
  return range;
}

/** One block of one row; `pq` ends behind it. */
function quantizeBlock(
  f: FunctionBuilder,
  kind: 'i8' | 'i16',
  px: Local<'i32'>,
  pq: Local<'i32'>,
  pd: Local<'i32'>,
  ps: Local<'i32'>,
  stride: Local<'i32'>,
): void {
  const values = f.v128s('x', 8);
  values.forEach((v, i) => {
    v.set(v128.load(px, 16 * i));
  });
  const peak = f.f32('peak', peakOf(f.v128('largest', largestOf(values.map((v) => magnitude(f, v))))));
  const scale = f.f32('scale', f32.div(peak, LARGEST[kind]));
  const inverse = f.v128('inverse', f32x4.splat(f32.select(f32.gt(peak, SMALLEST), f32.div(LARGEST[kind], peak), 0)));
  for (const v of values) v.set(toIntegers(f, v, inverse));
  const sums = [...values] as Parameters<typeof i32x4.add>[0][];
  while (sums.length > 1) sums.push(i32x4.add(sums.shift()!, sums.shift()!));
  const sum = f.v128('sum', sums[0]!);
  sum.set(i32x4.add(sum, i8x16.shuffle(sum, sum, [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7])));
  const total = i32.add(i32x4.extractLane(sum, 0), i32x4.extractLane(sum, 1));
  scale.set(f32.mul(scale, ACTIVATION_SCALE));
  f.f32Store(pd, scale);
  f.f32Store(ps, f32.mul(scale, f32.convertI32S(total)));
  const parts = kind === 'i8' ? bytesOf(f, values) : pairsOf(f, values);
  for (let step = 0; step < STEPS; step++) {
    for (const part of parts) {
      f.v128StoreLane(32, pq, part, step);
      pq.inc(stride);
    }
  }
}

/** Codes of the low and the high half of the block; dword `step` belongs to step `step`. */
function bytesOf(f: FunctionBuilder, values: readonly Local<'v128'>[]): Local<'v128'>[] {
  return [0, 4].map((i) =>
    f.v128(
      `half${i}`,
      i8x16.narrowI16x8S(
        i16x8.narrowI32x4S(values[i]!, values[i + 1]!),
        i16x8.narrowI32x4S(values[i + 2]!, values[i + 3]!),
      ),
    ),
  );
}

/** The same in 16 bits, pairs of even and of odd columns: dword `step` of each belongs to step `step` (`PAIRS`). */
function pairsOf(f: FunctionBuilder, values: readonly Local<'v128'>[]): Local<'v128'>[] {
  return [0, 4].flatMap((i) => {
    const low = f.v128('low', i16x8.narrowI32x4S(values[i]!, values[i + 1]!));
    const high = f.v128('high', i16x8.narrowI32x4S(values[i + 2]!, values[i + 3]!));
    const every = (first: number) => [0, 1, 2, 3, 4, 5, 6, 7].flatMap((n) => [4 * n + first, 4 * n + first + 1]);
    return [f.v128('even', i8x16.shuffle(low, high, every(0))), f.v128('odd', i8x16.shuffle(low, high, every(2)))];
  });
}

export const quantizeI8 = quantizer('i8');
export const quantizeI16 = quantizer('i16');

const perBlock32 = (kind: 'i8' | 'i16'): Activation => {
  const kernel = kind === 'i8' ? quantizeI8 : quantizeI16;
  return {
    name: kind,
    kernel,
    direct: false,
    codeBytes: (columns) => ACTIVATION_BYTES[kind] * columns,
    scaleBytes: (columns) => (columns / BLOCK) * 4,
    sumBytes: (columns) => (columns / BLOCK) * 4,
  };
};
/** Activations in blocks of 32 columns, for every format with such blocks. */
export const BLOCK32_ACTIVATIONS = { i8: perBlock32('i8'), i16: perBlock32('i16') } as const;
