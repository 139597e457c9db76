import type { DType, TypedArray } from '../../core/dtype.ts';
import type { Storage, Tensor } from '../../core/tensor.ts';

/** Bytes of one element in device memory: WGSL addresses words only, so every element type fills one. */
export const WORD = 4;

/** One buffer of the device. A buffer holds one persistent tensor or weight, or one tensor of the arena at a time. */
export class GpuStorage implements Storage {
  readonly buffer: GPUBuffer;
  readonly bytes: number;
  /** Set once the buffer is destroyed: bind groups that name it are of no use any more. */
  dead = false;

  constructor(buffer: GPUBuffer, bytes: number) {
    this.buffer = buffer;
    this.bytes = bytes;
  }
}

export function storageOf(t: Tensor): GpuStorage {
  return t.storage as GpuStorage;
}

/** Host elements as words. `f16` and `bf16` bit patterns and bytes stand in the low bits of theirs. */
export function widen(data: TypedArray, count: number): Float32Array | Int32Array | Uint32Array {
  if (data instanceof Float32Array || data instanceof Int32Array) return data;
  const words = new Uint32Array(count);
  for (let i = 0; i < count; i++) words[i] = data[i] as number;
  return words;
}

/** Words as host elements of a type, in `to` where it is given. */
export function narrow(words: ArrayBuffer, dtype: DType, count: number, to?: TypedArray): TypedArray {
  switch (dtype) {
    case 'f32':
      return fill(new Float32Array(words, 0, count), to);
    case 'i32':
      return fill(new Int32Array(words, 0, count), to);
    case 'f16':
    case 'bf16':
      return fill(Uint16Array.from(new Uint32Array(words, 0, count)), to);
    case 'u8':
      return fill(Uint8Array.from(new Uint32Array(words, 0, count)), to);
  }
}

function fill<T extends TypedArray>(from: T, to: TypedArray | undefined): T {
  if (to === undefined) return from.slice() as T;
  to.set(from);
  return to as T;
}
