import type { Backend } from './backend.ts';
import type { DType, TypedArray } from './dtype.ts';
import { InferenceError, ShapeError } from './errors.ts';

export type Shape = readonly number[];

/** Memory of one back-end; only that back-end looks inside. */
export interface Storage {
  readonly bytes: number;
}

export function sizeOf(shape: Shape): number {
  let n = 1;
  for (const d of shape) n *= d;
  return n;
}

/**
 * A contiguous row-major array on one back-end. Views (`reshape`, `rows`) share the storage; there are no strides.
 * A tensor taken inside `backend.scope` belongs to the arena and dies with the scope; others live until `dispose()`.
 */
export class Tensor {
  readonly backend: Backend;
  readonly storage: Storage;
  readonly shape: Shape;
  readonly dtype: DType;
  /** Position in the storage, in elements. */
  readonly offset: number;
  readonly size: number;

  constructor(backend: Backend, storage: Storage, shape: Shape, dtype: DType = 'f32', offset = 0) {
    this.backend = backend;
    this.storage = storage;
    this.shape = shape;
    this.dtype = dtype;
    this.offset = offset;
    this.size = sizeOf(shape);
  }

  get rank(): number {
    return this.shape.length;
  }

  /** Size of axis `axis`; negative counts from the end. */
  dim(axis: number): number {
    const d = this.shape[axis < 0 ? this.shape.length + axis : axis];
    if (d === undefined) throw new ShapeError(`dim: expected an axis of ${describe(this)}, got ${axis}`);
    return d;
  }

  /** Size of the last axis (1 for a scalar). */
  get width(): number {
    return this.shape.length ? (this.shape[this.shape.length - 1] as number) : 1;
  }

  /** Product of all axes but the last. */
  get rowCount(): number {
    return this.width ? this.size / this.width : 0;
  }

  /** Same data, new shape; one entry may be -1. */
  reshape(shape: Shape): Tensor {
    const known = shape.reduce((n, d) => (d === -1 ? n : n * d), 1);
    const full = shape.map((d) => (d === -1 ? this.size / known : d));
    if (sizeOf(full) !== this.size || full.some((d) => !Number.isInteger(d))) {
      throw new ShapeError(`reshape: expected a shape of ${this.size} elements, got [${shape}] for ${describe(this)}`);
    }
    return new Tensor(this.backend, this.storage, full, this.dtype, this.offset);
  }

  /** Entries `[start, end)` of the first axis, as a view. */
  rows(start: number, end: number): Tensor {
    const n = this.dim(0);
    if (!(start >= 0 && start <= end && end <= n)) {
      throw new ShapeError(`rows: expected 0 <= start <= end <= ${n}, got [${start}, ${end})`);
    }
    const row = n ? this.size / n : 0;
    const shape = [end - start, ...this.shape.slice(1)];
    return new Tensor(this.backend, this.storage, shape, this.dtype, this.offset + start * row);
  }

  /** The values, copied to the host once everything enqueued before has run. */
  read(): Promise<TypedArray> {
    return this.backend.read(this);
  }

  /** The values as 32-bit floats. The tensor must be `f32`. */
  async toFloat32Array(): Promise<Float32Array> {
    if (this.dtype !== 'f32')
      throw new InferenceError(`toFloat32Array: expected f32, got ${this.dtype}; cast it first`);
    return (await this.backend.read(this)) as Float32Array;
  }

  /** Returns persistent memory; tensors of an arena scope and views need no disposal. */
  dispose(): void {
    this.backend.free(this);
  }
}

/** `f32[2,3]`, for messages. */
export function describe(t: Tensor): string {
  return `${t.dtype}[${t.shape.join(',')}]`;
}
