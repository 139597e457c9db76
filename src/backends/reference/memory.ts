import type { DType, TypedArray } from '../../core/dtype.ts';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from '../../core/dtype.ts';
import type { Storage, Tensor } from '../../core/tensor.ts';

/** Plain host memory. */
export class HostStorage implements Storage {
  readonly buffer: ArrayBuffer;

  constructor(bytes: number) {
    this.buffer = new ArrayBuffer(bytes);
  }

  get bytes(): number {
    return this.buffer.byteLength;
  }
}

/** The elements of a tensor as stored: bit patterns for `f16` and `bf16`. */
export function dataOf(t: Tensor): TypedArray {
  const { buffer } = t.storage as HostStorage;
  return viewOf(buffer, t.dtype, t.offset, t.size);
}

export function viewOf(buffer: ArrayBuffer, dtype: DType, offset: number, size: number): TypedArray {
  switch (dtype) {
    case 'f32':
      return new Float32Array(buffer, offset * 4, size);
    case 'i32':
      return new Int32Array(buffer, offset * 4, size);
    case 'f16':
    case 'bf16':
      return new Uint16Array(buffer, offset * 2, size);
    case 'u8':
      return new Uint8Array(buffer, offset, size);
  }
}

export function floats(t: Tensor): Float32Array {
  return dataOf(t) as Float32Array;
}

export function ints(t: Tensor): Int32Array {
  return dataOf(t) as Int32Array;
}

/** Stored element → number, by type. */
export const DECODE: Readonly<Record<DType, (stored: number) => number>> = {
  f32: (v) => v,
  i32: (v) => v,
  u8: (v) => v,
  f16: f16ToF32,
  bf16: bf16ToF32,
};

/** Number → stored element: rounds to nearest for floats, truncates and saturates for integers. */
export const ENCODE: Readonly<Record<DType, (value: number) => number>> = {
  f32: Math.fround,
  i32: (v) => whole(v, -(2 ** 31), 2 ** 31 - 1),
  u8: (v) => whole(v, 0, 255),
  f16: f32ToF16,
  bf16: f32ToBf16,
};

function whole(value: number, low: number, high: number): number {
  return Number.isNaN(value) ? 0 : Math.min(high, Math.max(low, Math.trunc(value)));
}
