/** Builds small files of the formats under test, valid or broken on purpose. */

/** Grows as it is written to; little-endian. */
export class Bytes {
  #parts: Uint8Array[] = [];
  size = 0;

  raw(bytes: Uint8Array): this {
    this.#parts.push(bytes);
    this.size += bytes.length;
    return this;
  }
  u32(value: number): this {
    return this.#number(4, (v) => v.setUint32(0, value, true));
  }
  u64(value: number | bigint): this {
    return this.#number(8, (v) => v.setBigUint64(0, BigInt(value), true));
  }
  string(text: string): this {
    const bytes = new TextEncoder().encode(text);
    return this.u64(bytes.length).raw(bytes);
  }
  pad(multiple: number): this {
    const over = this.size % multiple;
    return over === 0 ? this : this.raw(new Uint8Array(multiple - over));
  }
  #number(bytes: number, set: (view: DataView) => void): this {
    const part = new Uint8Array(bytes);
    set(new DataView(part.buffer));
    return this.raw(part);
  }
  done(): Uint8Array<ArrayBuffer> {
    const all = new Uint8Array(this.size);
    let at = 0;
    for (const part of this.#parts) {
      all.set(part, at);
      at += part.length;
    }
    return all;
  }
}

export interface Value {
  readonly type: number;
  write(out: Bytes): void;
}

const scalar = (type: number, bytes: number, set: (v: DataView) => void): Value => ({
  type,
  write: (out) => {
    const part = new Uint8Array(bytes);
    set(new DataView(part.buffer));
    out.raw(part);
  },
});

export const u8 = (n: number): Value => scalar(0, 1, (v) => v.setUint8(0, n));
export const i8 = (n: number): Value => scalar(1, 1, (v) => v.setInt8(0, n));
export const u16 = (n: number): Value => scalar(2, 2, (v) => v.setUint16(0, n, true));
export const i16 = (n: number): Value => scalar(3, 2, (v) => v.setInt16(0, n, true));
export const u32 = (n: number): Value => scalar(4, 4, (v) => v.setUint32(0, n, true));
export const i32 = (n: number): Value => scalar(5, 4, (v) => v.setInt32(0, n, true));
export const f32 = (n: number): Value => scalar(6, 4, (v) => v.setFloat32(0, n, true));
export const bool = (n: number): Value => scalar(7, 1, (v) => v.setUint8(0, n));
export const u64 = (n: bigint): Value => scalar(10, 8, (v) => v.setBigUint64(0, n, true));
export const i64 = (n: bigint): Value => scalar(11, 8, (v) => v.setBigInt64(0, n, true));
export const f64 = (n: number): Value => scalar(12, 8, (v) => v.setFloat64(0, n, true));
export const text = (s: string): Value => ({ type: 8, write: (out) => void out.string(s) });
/** `count` may lie. */
export const array = (type: number, items: readonly Value[], count: number | bigint = items.length): Value => ({
  type: 9,
  write: (out) => {
    out.u32(type).u64(count);
    for (const item of items) item.write(out);
  },
});

export interface GgufTensor {
  readonly name: string;
  /** Fastest dimension first. */
  readonly dims: readonly (number | bigint)[];
  readonly type?: number;
  readonly data?: Uint8Array;
  /** Instead of where the data is put. */
  readonly offset?: number | bigint;
}

export interface GgufParts {
  readonly magic?: string;
  readonly version?: number;
  readonly metadata?: readonly (readonly [string, Value])[];
  readonly tensors?: readonly GgufTensor[];
  readonly alignment?: number;
  readonly tensorCount?: number | bigint;
  readonly keyCount?: number | bigint;
}

/** A GGUF file. Tensor data is laid out in order, each aligned. */
export function ggufFile(parts: GgufParts): Uint8Array<ArrayBuffer> {
  const { metadata = [], tensors = [], alignment = 32 } = parts;
  const out = new Bytes().raw(new TextEncoder().encode(parts.magic ?? 'GGUF')).u32(parts.version ?? 3);
  out.u64(parts.tensorCount ?? tensors.length).u64(parts.keyCount ?? metadata.length);
  for (const [key, value] of metadata) {
    out.string(key).u32(value.type);
    value.write(out);
  }
  let at = 0;
  const places: number[] = [];
  for (const tensor of tensors) {
    places.push(at);
    at += Math.ceil((tensor.data?.length ?? 0) / alignment) * alignment;
  }
  tensors.forEach((tensor, i) => {
    out.string(tensor.name).u32(tensor.dims.length);
    for (const dim of tensor.dims) out.u64(dim);
    out.u32(tensor.type ?? 0).u64(tensor.offset ?? places[i]!);
  });
  for (const tensor of tensors) out.pad(alignment).raw(tensor.data ?? new Uint8Array(0));
  return out.done();
}

/** A safetensors file with any header. */
export function safetensorsFile(
  header: unknown,
  dataBytes: number,
  headerLength?: number | bigint,
): Uint8Array<ArrayBuffer> {
  const json = new TextEncoder().encode(typeof header === 'string' ? header : JSON.stringify(header));
  return new Bytes()
    .u64(headerLength ?? json.length)
    .raw(json)
    .raw(Uint8Array.from({ length: dataBytes }, (_, i) => i))
    .done();
}

/** Bytes of a fixture. */
export const fixture = (name: string): string => new URL(`../fixtures/io/${name}`, import.meta.url).pathname;
