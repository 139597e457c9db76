import { CODE_VALUES } from '../../../quant/codes.ts';
import type { Variant } from '../kernel.ts';
import type { V128 } from '../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../wasm/function.ts';
import { f32x4, i8x16, i16x8, i32x4, v128 } from '../wasm/ops.ts';
import { upperHalves } from './float.ts';
import type { GroupedFormat } from './grouped.ts';
import { QUADS } from './layout.ts';

/** Numbers of the columns of a step: `numbers[column][quad]`. */
export type StepNumbers = readonly (readonly Local<'v128'>[])[];

/** Emits the decoding of the codes of a step, which lie `offset` bytes behind `at`, without scale. */
export type DecodeStep = (at: Local<'i32'>, offset: number) => void;

/** The factor of numbers whose exponents keep the bias of E4M3. */
export const E4M3_PLACED = 2 ** -120;
/** Sign, exponent and fraction in the upper half of a float. */
const E4M3_BITS = 0x87f0;

/** The E4M3 codes of eight rows as floats times `E4M3_PLACED`. */
export function placeE4m3(
  f: FunctionBuilder,
  at: Local<'i32'>,
  offset: number,
  bits: Local<'v128'>,
  quads: readonly Local<'v128'>[],
): void {
  bits.set(v128.and(i16x8.shrS(i16x8.shl(v128.load8x8U(at, offset), 8), 4), f.pooled.i16x8(E4M3_BITS)));
  upperHalves(f, bits, quads);
}

export function stepDecoder(
  f: FunctionBuilder,
  format: GroupedFormat,
  variant: Variant,
  numbers: StepNumbers,
): DecodeStep {
  const bytes = f.v128('bytes');
  const upper = f.v128('upper');
  const toFloats = (column: number, words: V128, signed: boolean) => {
    bytes.set(words);
    const low = signed ? i32x4.extendLowI16x8S(bytes) : i32x4.extendLowI16x8U(bytes);
    const high = signed ? i32x4.extendHighI16x8S(bytes) : i32x4.extendHighI16x8U(bytes);
    numbers[column]![0]!.set(f32x4.convertI32x4S(low));
    numbers[column]![1]!.set(f32x4.convertI32x4S(high));
  };
  /** Low halves to `bytes`, high halves to `upper`. */
  const splitNibbles = (at: Local<'i32'>, offset: number) => {
    bytes.set(v128.load64Zero(at, offset));
    upper.set(v128.and(i16x8.shrU(bytes, 4), f.pooled.i8x16(15)));
    bytes.set(v128.and(bytes, f.pooled.i8x16(15)));
  };
  switch (format.code) {
    case 'u4':
      return (at, offset) => {
        splitNibbles(at, offset);
        toFloats(0, i16x8.extendLowI8x16U(bytes), false);
        toFloats(1, i16x8.extendLowI8x16U(upper), false);
      };
    case 'u8':
      return (at, offset) => toFloats(0, v128.load8x8U(at, offset), false);
    case 'i8':
      return (at, offset) => toFloats(0, v128.load8x8S(at, offset), true);
    case 'e4m3':
      return (at, offset) => {
        placeE4m3(f, at, offset, bytes, numbers[0]!);
        for (const number of numbers[0]!) number.set(f32x4.mul(number, f.pooled.f32x4(1 / E4M3_PLACED)));
      };
    default:
      return bookDecoder(f, CODE_VALUES[format.code], variant, numbers, splitNibbles, bytes, upper);
  }
}

/** Byte `from + i` of two vectors by turns. */
const interleaved = (from: number) => Array.from({ length: 16 }, (_, i) => from + (i >> 1) + (i & 1 ? 16 : 0));
/** 16-bit word `from + i` of two vectors by turns. */
const interleavedWords = (from: number) =>
  Array.from({ length: 16 }, (_, i) => 2 * (from + (i >> 2)) + (i & 1) + (i & 2 ? 16 : 0));

/** A book of 16 floats as four tables of their bytes: 16 codes are looked up at once, and the bytes put together. */
function bookDecoder(
  f: FunctionBuilder,
  book: Float32Array,
  variant: Variant,
  numbers: StepNumbers,
  splitNibbles: DecodeStep,
  low: Local<'v128'>,
  high: Local<'v128'>,
): DecodeStep {
  const bytesOfBook = new Uint8Array(book.buffer, book.byteOffset, book.byteLength);
  const tables = [0, 1, 2, 3].map((byte) => f.pooled.bytes(Array.from(book, (_, i) => bytesOfBook[4 * i + byte]!)));
  const planes = f.v128s('plane', tables.length);
  const lower = f.v128('lower');
  const swizzle = variant.dot === 'simd' ? i8x16.swizzle : i8x16.relaxedSwizzle;
  return (at, offset) => {
    splitNibbles(at, offset);
    low.set(i8x16.shuffle(low, high, [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23]));
    planes.forEach((plane, i) => {
      plane.set(swizzle(tables[i]!, low));
    });
    for (let column = 0; column < 2; column++) {
      lower.set(i8x16.shuffle(planes[0]!, planes[1]!, interleaved(8 * column)));
      high.set(i8x16.shuffle(planes[2]!, planes[3]!, interleaved(8 * column)));
      for (let quad = 0; quad < QUADS; quad++) {
        numbers[column]![quad]!.set(i8x16.shuffle(lower, high, interleavedWords(4 * quad)));
      }
    }
  };
}
