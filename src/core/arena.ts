import type { DType } from './dtype.ts';
import { DTYPE_BYTES } from './dtype.ts';
import type { Shape, Storage, Tensor } from './tensor.ts';
import { sizeOf } from './tensor.ts';

/** What the arena asks of its back-end. */
export interface ArenaHost<S extends Storage> {
  /** One chunk of scratch memory. */
  chunk(bytes: number): S;
  release(storage: S): void;
  /** A tensor over a chunk; `offset` is in elements. */
  tensor(storage: S, shape: Shape, dtype: DType, offset: number): Tensor;
}

/** Every tensor of the arena starts on such a boundary: a cache line, and more than any SIMD width. */
const ALIGN = 128;
/** Tensors remembered for one place in the order: scopes that follow each other take turns there. */
const VARIANTS = 8;

/**
 * Scratch memory of a step. Tensors taken inside a scope die together at its end, and the same sequence of shapes gets
 * the same memory and the same `Tensor` objects again: a decode step allocates nothing.
 */
export class Arena<S extends Storage> {
  readonly #host: ArenaHost<S>;
  readonly #chunkBytes: number;
  readonly #chunks: S[] = [];
  /** Tensors made so far, by their place in the order of requests. */
  readonly #tensors: Tensor[][] = [];
  #depth = 0;
  #chunk = 0;
  #used = 0;
  #next = 0;

  constructor(host: ArenaHost<S>, chunkBytes: number) {
    this.#host = host;
    this.#chunkBytes = chunkBytes;
  }

  get active(): boolean {
    return this.#depth > 0;
  }

  /** Bytes of all chunks held. */
  get bytes(): number {
    return this.#chunks.reduce((n, c) => n + c.bytes, 0);
  }

  scope(body: () => void): void {
    const chunk = this.#chunk;
    const used = this.#used;
    const next = this.#next;
    this.#depth++;
    try {
      body();
    } finally {
      this.#depth--;
      this.#chunk = chunk;
      this.#used = used;
      this.#next = next;
    }
  }

  /** `[rows, width]` in f32; reuses the tensor object of an earlier pass. */
  rows(rows: number, width: number): Tensor {
    const at = this.#reserve(rows * width * 4) >> 2;
    const storage = this.#chunks[this.#chunk] as S;
    const seen = this.#seen();
    for (let i = 0; i < seen.length; i++) {
      const t = seen[i] as Tensor;
      const { shape } = t;
      const like = t.storage === storage && t.offset === at && t.dtype === 'f32';
      if (like && shape.length === 2 && shape[0] === rows && shape[1] === width) {
        this.#next++;
        return t;
      }
    }
    return this.#remember(this.#host.tensor(storage, [rows, width], 'f32', at));
  }

  take(shape: Shape, dtype: DType): Tensor {
    const width = DTYPE_BYTES[dtype];
    const at = this.#reserve(sizeOf(shape) * width) / width;
    const storage = this.#chunks[this.#chunk] as S;
    const seen = this.#seen();
    for (let i = 0; i < seen.length; i++) {
      const t = seen[i] as Tensor;
      if (t.storage === storage && t.offset === at && t.dtype === dtype && same(t.shape, shape)) {
        this.#next++;
        return t;
      }
    }
    return this.#remember(this.#host.tensor(storage, [...shape], dtype, at));
  }

  /** Returns all chunks; no scope may be open. */
  dispose(): void {
    for (const c of this.#chunks) this.#host.release(c);
    this.#chunks.length = 0;
    this.#tensors.length = 0;
    this.#chunk = this.#used = this.#next = 0;
  }

  #remember(t: Tensor): Tensor {
    const seen = this.#seen();
    if (seen.length === VARIANTS) seen.shift();
    seen.push(t);
    this.#next++;
    return t;
  }

  #seen(): Tensor[] {
    return (this.#tensors[this.#next] ??= []);
  }

  /** Byte position in the current chunk, which may have moved on to a later one. */
  #reserve(bytes: number): number {
    const rounded = Math.ceil(Math.max(bytes, 1) / ALIGN) * ALIGN;
    for (;;) {
      const chunk = this.#chunks[this.#chunk];
      if (chunk === undefined) {
        this.#chunks.push(this.#host.chunk(Math.max(this.#chunkBytes, rounded)));
      } else if (this.#used + rounded <= chunk.bytes) {
        const at = this.#used;
        this.#used += rounded;
        return at;
      } else {
        this.#chunk++;
        this.#used = 0;
      }
    }
  }
}

function same(a: Shape, b: Shape): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
