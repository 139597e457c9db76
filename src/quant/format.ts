import { f16ToF32, f32ToF16, type StorageType } from '../core/dtype.ts';

/**
 * One way to store the elements of a row: `type.blockSize` elements in `type.blockBytes` bytes. The functions trust
 * their arguments; `dequantizeInto` and `quantize` check them.
 */
export interface QuantFormat {
  readonly type: StorageType;
  /** Decodes `blocks` blocks that start at byte `at` into `out[outAt…]`. Allocates nothing. */
  readonly unpack: Unpack;
  /** Encodes one row. Absent: the format can only be read. */
  readonly pack?: Pack;
  /** `pack` lets an importance vector choose scales and codes; otherwise it ignores one. */
  readonly usesImportance?: boolean;
  /** The format represents infinities and NaN. */
  readonly nonFinite?: boolean;
  /** Larger magnitudes cannot be written. */
  readonly largest?: number;
  /** Byte positions of the binary16 fields of a block: a value too large for its scale shows up there as infinity. */
  readonly halves?: readonly number[];
}

/**
 * A way to store a matrix whose parts do not follow row by row: scales of the whole tensor, or of groups that run across
 * rows. The functions trust their arguments.
 */
export interface TensorFormat {
  readonly name: string;
  /** The number of elements must divide by this. */
  readonly multiple: number;
  /** Larger magnitudes cannot be written. */
  readonly largest: number;
  /** Bytes of `rows` rows of `columns` elements. Rises with `rows`. */
  bytes(rows: number, columns: number): number;
  pack(x: Float32Array, columns: number, out: Uint8Array): void;
  unpack(bytes: Uint8Array, rows: number, columns: number, out: Float32Array): void;
}

export type Unpack = (bytes: Uint8Array, at: number, out: Float32Array, outAt: number, blocks: number) => void;

/** `x` is one row, `out` its bytes; `importance` has one weight per column. */
export type Pack = (x: Float32Array, out: Uint8Array, importance: Float32Array | undefined) => void;

/** The little-endian binary16 number at byte `at`. */
export function half(bytes: Uint8Array, at: number): number {
  return f16ToF32(bytes[at]! | (bytes[at + 1]! << 8));
}

/** Stores `value` as binary16 at byte `at` and returns it as rounded there. */
export function putHalf(bytes: Uint8Array, at: number, value: number): number {
  const bits = f32ToF16(value);
  bytes[at] = bits;
  bytes[at + 1] = bits >> 8;
  return f16ToF32(bits);
}

/** The little-endian unsigned 16-bit number at byte `at`. */
export function u16(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8);
}

/** The little-endian 32-bit word at byte `at`, as a signed integer. */
export function i32(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24);
}

/** Byte as a signed integer. */
export function i8(byte: number): number {
  return (byte << 24) >> 24;
}
