import { f16ToF32 } from '../../../core/dtype.ts';
import type { KernelContext, Variant, Views } from '../kernel.ts';
import type { V128 } from '../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { i8x16, i16x8, i32x4, v128 } from '../wasm/ops.ts';
import { GROUP, PAIRS, QUADS, STEPS } from './layout.ts';

/** One of the formats with blocks of 32 columns: value = `d (q − offset)` or `d q + m`. */
export interface Block32 {
  readonly name: 'Q4_0' | 'Q4_1' | 'Q5_0' | 'Q5_1' | 'Q8_0';
  readonly bits: 4 | 5 | 8;
  readonly minimum: boolean;
  readonly offset: number;
}

export const BLOCK32_FORMATS: readonly Block32[] = [
  { name: 'Q4_0', bits: 4, minimum: false, offset: 8 },
  { name: 'Q4_1', bits: 4, minimum: true, offset: 0 },
  { name: 'Q5_0', bits: 5, minimum: false, offset: 16 },
  { name: 'Q5_1', bits: 5, minimum: true, offset: 0 },
  { name: 'Q8_0', bits: 8, minimum: false, offset: 0 },
];

/** Byte offsets inside one block of a group. */
export interface Offsets {
  readonly minimum: number;
  readonly fifthBits: number;
  readonly codes: number;
  /** Bytes of codes of one step, both quads. */
  readonly step: number;
  /** Bytes of the whole block. */
  readonly bytes: number;
}

const SCALES = GROUP * 2;
const VECTOR = 16;

export function offsetsOf(format: Block32): Offsets {
  const minimum = SCALES;
  const fifthBits = minimum + (format.minimum ? SCALES : 0);
  const codes = fifthBits + (format.bits === 5 ? QUADS * VECTOR : 0);
  const step = format.bits === 8 ? PAIRS.length * GROUP * 2 : QUADS * VECTOR;
  return { minimum, fifthBits, codes, step, bytes: codes + STEPS * step };
}

/** Which activations the format is multiplied with. */
export function activationOf(format: Block32, variant: Variant): 'i8' | 'i16' {
  return format.bits === 8 || variant.dot === 'simd' ? 'i16' : 'i8';
}

/** Emits what the tile kernel needs to know about a format. */
export interface BlockCode {
  /** Vectors of codes per quad and step; the activations have as many words per step and token. */
  readonly parts: number;
  /** Steps after which 16-bit sums must be widened; `undefined` when sums are 32-bit. */
  readonly widenAfter: number | undefined;
  /** Before the steps of a block. */
  startBlock(block: Local<'i32'>): void;
  /** Loads what part `part` of a step needs; `at` points to the step, `offset` bytes in front of its codes. */
  code(quad: number, part: number, at: Local<'i32'>, offset: number): V128;
  /** After the last part of a step. */
  endStep(): void;
  /** Sum of products of activations and codes, added to `sum` (absent: the first). */
  dot(activations: V128, codes: V128, sum: V128 | undefined): V128;
}

export function blockCode(f: FunctionBuilder, format: Block32, ctx: KernelContext): BlockCode {
  const { dot } = ctx.variant;
  const offsets = offsetsOf(format);
  const multiply = (x: V128, w: V128, sum: V128 | undefined): V128 => {
    if (format.bits === 8 || dot === 'simd') {
      return sum ? i32x4.add(sum, i32x4.dotI16x8S(x, w)) : i32x4.dotI16x8S(x, w);
    }
    if (dot === 'i32') return i32x4.relaxedDotI8x16I7x16AddS(x, w, sum ?? v128.zero());
    return sum ? i16x8.add(sum, i16x8.relaxedDotI8x16I7x16S(x, w)) : i16x8.relaxedDotI8x16I7x16S(x, w);
  };
  if (format.bits === 8) {
    return {
      parts: PAIRS.length,
      widenAfter: undefined,
      startBlock() {},
      code: (quad, part, at, offset) => v128.load8x8S(at, offset + (part * QUADS + quad) * GROUP),
      endStep() {},
      dot: multiply,
    };
  }
  const wide = dot === 'simd';
  const raw = f.v128s('raw', QUADS);
  const fifth = format.bits === 5 ? f.v128s('fifth', QUADS) : [];
  const nibble = wide ? f.pooled.i16x8(15) : f.pooled.i8x16(15);
  const bit4 = format.bits === 5 ? (wide ? f.pooled.i16x8(16) : f.pooled.i8x16(16)) : nibble;
  // Right shift that brings nibble `part` down, and left shift that brings its fifth bit to bit 4.
  const shifts = wide ? [0, 8, 4, 12] : [0, 4];
  const fifthShifts = wide ? [4, -4, 3, -5] : [4, 3];
  const shift = (v: V128, left: number) => (left > 0 ? i16x8.shl(v, left) : left < 0 ? i16x8.shrU(v, -left) : v);
  return {
    parts: shifts.length,
    widenAfter: dot === 'i16' ? (format.bits === 5 ? 2 : STEPS) : undefined,
    startBlock(block) {
      fifth.forEach((v, quad) => {
        v.set(v128.load(block, offsets.fifthBits + quad * VECTOR));
      });
    },
    code(quad, part, at, offset) {
      const codes = raw[quad]!;
      if (part === 0) codes.set(v128.load(at, offset + quad * VECTOR));
      const moved = shift(codes, -shifts[part]!);
      const low = wide && part === 3 ? moved : v128.and(moved, nibble);
      const high = fifth[quad];
      return high ? v128.or(low, v128.and(shift(high, fifthShifts[part]!), bit4)) : low;
    },
    endStep() {
      for (const v of fifth) v.set(i16x8.shrU(v, 2));
    },
    dot: multiply,
  };
}

/**
 * Eight binary16 numbers to two quads of floats, times `HALF_SCALE`: exact for every finite value. The exponent keeps its
 * binary16 bias.
 */
export function halves(
  at: Local<'i32'>,
  offset: number,
  signAndRest: V128,
  bits: Local<'v128'>,
  quads: readonly Local<'v128'>[],
): void {
  bits.set(v128.load(at, offset));
  const upper = v128.and(i16x8.shrS(bits, 3), signAndRest);
  const lower = i16x8.shl(bits, 13);
  quads[0]!.set(upper);
  bits.set(lower);
  quads[1]!.set(i8x16.shuffle(bits, quads[0]!, [8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31]));
  quads[0]!.set(i8x16.shuffle(bits, quads[0]!, [0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23]));
}
/** Sign, exponent and the upper fraction bits after an arithmetic shift by 3. */
export const SIGN_AND_REST = 0x8fff;

/** What twins read from the block at byte `block`. */
export function scaleOf(m: Views, block: number, row: number): number {
  return f16ToF32(m.u16[(block >>> 1) + row]!);
}

export function minimumOf(m: Views, block: number, row: number, offsets: Offsets): number {
  return f16ToF32(m.u16[((block + offsets.minimum) >>> 1) + row]!);
}

/** The unsigned code (Q8_0: signed) of `row` and column `k` of the block at byte `block`. */
export function codeOf(m: Views, format: Block32, offsets: Offsets, block: number, row: number, k: number): number {
  const quad = row >> 2;
  const half = k >> 4;
  const step = (k & 15) >> 2;
  const at = block + offsets.codes + step * offsets.step;
  if (format.bits === 8) {
    // Pairs are (k, k + 2): bit 0 of the column picks the pair, bit 1 the place in it.
    const part = half * 2 + (k & 1);
    return m.i8[at + (part * QUADS + quad) * GROUP + (row & 3) * 2 + ((k & 2) >> 1)]!;
  }
  const lane = (row & 3) * 4 + (k & 3);
  const low = (m.u8[at + quad * VECTOR + lane]! >> (4 * half)) & 15;
  if (format.bits === 4) return low;
  const fifth = m.u8[block + offsets.fifthBits + quad * VECTOR + lane]! >> (2 * step + half);
  return low | ((fifth & 1) << 4);
}
