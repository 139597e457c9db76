import { DTYPE_BYTES, type DType, type TypedArray } from '../../core/dtype.ts';
import type { Storage, Tensor } from '../../core/tensor.ts';

/** A range of the main memory. */
export class CpuStorage implements Storage {
  readonly address: number;
  readonly bytes: number;

  constructor(address: number, bytes: number) {
    this.address = address;
    this.bytes = bytes;
  }
}

export function addressOf(t: Tensor): number {
  return (t.storage as CpuStorage).address + t.offset * DTYPE_BYTES[t.dtype];
}

/** The elements of a tensor, as stored: bit patterns for `f16` and `bf16`. */
export function elementsOf(t: Tensor, memory: ArrayBufferLike): TypedArray {
  const address = addressOf(t);
  switch (t.dtype) {
    case 'f32':
      return new Float32Array(memory, address, t.size);
    case 'i32':
      return new Int32Array(memory, address, t.size);
    case 'f16':
    case 'bf16':
      return new Uint16Array(memory, address, t.size);
    case 'u8':
      return new Uint8Array(memory, address, t.size);
  }
}

export function dtypeOf(data: TypedArray): DType {
  if (data instanceof Float32Array) return 'f32';
  if (data instanceof Int32Array) return 'i32';
  return data instanceof Uint8Array ? 'u8' : 'f16';
}
