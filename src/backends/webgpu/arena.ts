/** Scratch memory of a step: one buffer for each place in the order of requests. */

import type { Backend } from '../../core/backend.ts';
import type { DType } from '../../core/dtype.ts';
import { type Shape, sizeOf, Tensor } from '../../core/tensor.ts';
import { type GpuStorage, WORD } from './storage.ts';

export interface ArenaHost {
  readonly backend: Backend;
  create(bytes: number): GpuStorage;
  /** Called when a larger buffer takes the place of one that recorded commands may still use. */
  retire(storage: GpuStorage): void;
}

interface Place {
  storage: GpuStorage;
  /** Tensors over the buffer, the shapes of late. */
  readonly tensors: Tensor[];
}

/** Shapes remembered for one place: scopes that follow each other take turns there. */
const VARIANTS = 8;
/** Up to here buffers double, beyond they grow by this much. */
const STEP_BYTES = 1 << 22;

/**
 * Tensors taken inside a scope die together at its end, and the next scope at that depth takes the same buffers again. A
 * WebGPU buffer cannot be read and written by one dispatch through two bindings, so each tensor has a buffer of its own.
 */
export class GpuArena {
  readonly #host: ArenaHost;
  readonly #places: Place[] = [];
  #depth = 0;
  #next = 0;

  constructor(host: ArenaHost) {
    this.#host = host;
  }

  get active(): boolean {
    return this.#depth > 0;
  }

  get bytes(): number {
    return this.#places.reduce((n, p) => n + p.storage.bytes, 0);
  }

  scope(body: () => void): void {
    const next = this.#next;
    this.#depth++;
    try {
      body();
    } finally {
      this.#depth--;
      this.#next = next;
    }
  }

  /** `[rows, width]` in f32; reuses the tensor object of an earlier pass. */
  rows(rows: number, width: number): Tensor {
    const place = this.#reserve(rows * width * WORD);
    const { tensors } = place;
    for (let i = 0; i < tensors.length; i++) {
      const t = tensors[i] as Tensor;
      const { shape } = t;
      if (shape.length === 2 && shape[0] === rows && shape[1] === width && t.dtype === 'f32') return t;
    }
    return this.#remember(place, [rows, width], 'f32');
  }

  take(shape: Shape, dtype: DType): Tensor {
    const place = this.#reserve(sizeOf(shape) * WORD);
    const { tensors } = place;
    for (let i = 0; i < tensors.length; i++) {
      const t = tensors[i] as Tensor;
      if (t.dtype === dtype && same(t.shape, shape)) return t;
    }
    return this.#remember(place, [...shape], dtype);
  }

  /** Takes back what was taken outside of any scope. */
  settle(): void {
    if (this.#depth === 0) this.#next = 0;
  }

  /** Returns all buffers; no scope may be open. */
  dispose(): void {
    for (const { storage } of this.#places) this.#host.retire(storage);
    this.#places.length = this.#next = 0;
  }

  #remember(place: Place, shape: Shape, dtype: DType): Tensor {
    const t = new Tensor(this.#host.backend, place.storage, shape, dtype);
    if (place.tensors.length === VARIANTS) place.tensors.shift();
    place.tensors.push(t);
    return t;
  }

  #reserve(bytes: number): Place {
    const at = this.#next++;
    let place = this.#places[at];
    if (place === undefined) {
      place = { storage: this.#host.create(rounded(bytes)), tensors: [] };
      this.#places[at] = place;
    } else if (place.storage.bytes < bytes) {
      const storage = this.#host.create(rounded(bytes));
      this.#host.retire(place.storage);
      place.storage = storage;
      place.tensors.length = 0;
    }
    return place;
  }
}

function rounded(bytes: number): number {
  if (bytes > STEP_BYTES) return Math.ceil(bytes / STEP_BYTES) * STEP_BYTES;
  let size = 256;
  while (size < bytes) size *= 2;
  return size;
}

function same(a: Shape, b: Shape): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
