const SLOT_BYTES = 16;

/**
 * Vector constants that kernels load from memory. Equal constants share a slot. The owner of a memory writes `write()`
 * into it before the first kernel runs.
 */
export class ConstantPool {
  readonly #base: number;
  readonly #slots: number;
  readonly #index = new Map<string, number>();
  readonly #bytes: Uint8Array;

  /** `base` is the address of the pool in every memory, `bytes` its size. */
  constructor(base: number, bytes: number) {
    this.#base = base;
    this.#slots = Math.floor(bytes / SLOT_BYTES);
    this.#bytes = new Uint8Array(this.#slots * SLOT_BYTES);
  }

  i8x16(value: number): number {
    return this.bytes(new Int8Array(SLOT_BYTES).fill(value));
  }
  i16x8(value: number): number {
    return this.bytes(new Uint8Array(new Int16Array(SLOT_BYTES / 2).fill(value).buffer));
  }
  i32x4(value: number): number {
    return this.bytes(new Uint8Array(new Int32Array(SLOT_BYTES / 4).fill(value).buffer));
  }
  f32x4(value: number): number {
    return this.bytes(new Uint8Array(new Float32Array(SLOT_BYTES / 4).fill(value).buffer));
  }

  /** The address of a slot holding these 16 bytes. */
  bytes(values: ArrayLike<number>): number {
    const key = Array.from(values, (v) => v & 0xff).join();
    let slot = this.#index.get(key);
    if (slot === undefined) {
      slot = this.#index.size;
      if (slot === this.#slots) throw new RangeError(`constant pool: more than ${this.#slots} vector constants`);
      this.#index.set(key, slot);
      this.#bytes.set(Uint8Array.from(values), slot * SLOT_BYTES);
    }
    return this.#base + slot * SLOT_BYTES;
  }

  /** Writes every constant into a memory. */
  write(memory: ArrayBufferLike): void {
    new Uint8Array(memory, this.#base, this.#bytes.length).set(this.#bytes);
  }
}
