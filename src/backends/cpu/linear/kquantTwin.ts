import { bf16ToF32, f16ToF32 } from '../../../core/dtype.ts';
import type { Views } from '../kernel.ts';
import { type CodeFormat, codeOffsets, inputScale, PAIR, PAIR_STEPS } from './kquant.ts';
import { SUM_BYTES, SUM_WORDS } from './kquantActivations.ts';
import { codeOf, decoded, stepOf } from './kquantCodes.ts';
import { GROUP, HALF_SCALE } from './layout.ts';

const f = Math.fround;

/** The scale of a row of the block at byte `block`; `second`: that of the second half, or minus that of the minima. */
export function scaleOf(m: Views, format: CodeFormat, block: number, row: number, second = false): number {
  const at = block + (second ? codeOffsets(format).second : 0);
  if (format.scale === 'f32') return m.f32[(at >>> 2) + row]!;
  const bits = m.u16[(at >>> 1) + row]!;
  return format.scale === 'bf16' ? bf16ToF32(bits) : f16ToF32(bits);
}

export function runScaleOf(m: Views, format: CodeFormat, block: number, row: number, run: number): number {
  const at = block + codeOffsets(format).scales + run * GROUP + row;
  return format.minimum === 'nibbles' ? m.u8[at]! & 15 : m.i8[at]!;
}

export function runMinimumOf(m: Views, format: CodeFormat, block: number, row: number, run: number): number {
  const { scales, minima } = codeOffsets(format);
  if (format.minimum === 'bias') return 1;
  if (format.minimum === 'nibbles') return m.u8[block + scales + run * GROUP + row]! >> 4;
  return m.u8[block + minima + (run >> 1) * 2 * GROUP + row * 2 + (run & 1)]!;
}

function codeAt(m: Views, format: CodeFormat, block: number, row: number, k: number): number {
  const { codes, pair } = codeOffsets(format);
  const at = block + codes + Math.floor(k / PAIR) * pair;
  return codeOf(m, format, at, row, k % PAIR);
}

/** The number that a code stands for, without scale. */
export function numberOf(m: Views, format: CodeFormat, block: number, row: number, k: number): number {
  const code = codeAt(m, format, block, row, k);
  return format.book ? format.book.numbers[code]! : decoded(format, code);
}

/** Activations of one tile of `n` tokens, `k16` or `i16`: block and token counted from the first tile. */
export interface ActivationsAt {
  readonly x: number;
  readonly d: number;
  readonly s: number;
  readonly n: number;
  readonly block: number;
  readonly token: number;
}

function activationOf(m: Views, format: CodeFormat, a: ActivationsAt, k: number): number {
  const step = (a.block * (format.block / PAIR) + Math.floor(k / PAIR)) * PAIR_STEPS + stepOf(format, k % PAIR);
  const word = ((step * 2 + (k & 1)) * a.n + a.token) * 2;
  return m.i16[(a.x >>> 1) + word + ((k & 3) >> 1)]!;
}

/** `sum` plus the product of one block of a row and the activations, as the SIMD128 kernel rounds it. */
export function blockSumTwin(
  m: Views,
  format: CodeFormat,
  block: number,
  row: number,
  a: ActivationsAt,
  sum: number,
): number {
  /** Over the values of some columns; `plus` is added to each of them. */
  const dot = (first: number, count: number, plus = 0): number => {
    let total = 0;
    for (let k = first; k < first + count; k++) {
      total += (decoded(format, codeAt(m, format, block, row, k)) + plus) * activationOf(m, format, a, k);
    }
    return total;
  };
  if (format.inputs === 256) {
    const xd = m.f32[(a.d >>> 2) + a.block * a.n + a.token]!;
    const scaled = (integers: number, scale: number) => f(f(integers) * f(scale * xd));
    const run = format.run ?? 256;
    let total = 0;
    let minima = 0;
    for (let r = 0; r < 256 / run; r++) {
      total += (format.run ? runScaleOf(m, format, block, row, r) : 1) * dot(r * run, run);
      if (!format.minimum) continue;
      const firstWord = run === 16 ? SUM_WORDS.of16 : SUM_WORDS.of32;
      const word = (a.block * (SUM_BYTES / 4) + firstWord + (r >> 1)) * a.n + a.token;
      minima += runMinimumOf(m, format, block, row, r) * m.i16[(a.s >>> 1) + word * 2 + (r & 1)]!;
    }
    sum = f(sum + scaled(total, scaleOf(m, format, block, row)));
    if (format.minimum) sum = f(sum + scaled(minima, scaleOf(m, format, block, row, true)));
    return sum;
  }
  const scale = scaleOf(m, format, block, row) * (format.scale === 'f16' ? HALF_SCALE : 1);
  const factor = inputScale(format);
  const pairs = format.block / PAIR;
  for (let i = 0; i < pairs; i++) {
    const at = (a.block * pairs + i) * a.n + a.token;
    const xd = f(m.f32[(a.d >>> 2) + at]! * factor);
    const xs = f(m.f32[(a.s >>> 2) + at]! * factor);
    const scaled = (integers: number, by: number) => f(f(integers) * f(by * xd));
    const k = PAIR * i;
    if (format.scalePerHalf) {
      sum = f(sum + scaled(dot(k, 16), scale));
      sum = f(sum + scaled(dot(k + 16, 16), scaleOf(m, format, block, row, true)));
      continue;
    }
    if (!format.offset) sum = f(sum + scaled(dot(k, PAIR), scale));
    else {
      // The kernel multiplies values plus offset, and takes the offset back with the sum of the activations.
      const centred = f(f(f(dot(k, PAIR, format.offset)) * xd) + f(xs * -format.offset));
      sum = f(sum + f(centred * scale));
    }
    if (format.minimum) sum = f(sum + f(scaleOf(m, format, block, row, true) * xs));
  }
  return sum;
}
