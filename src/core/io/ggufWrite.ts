/** Writes GGUF files (version 3, little-endian). */
import type { RawSection } from '../backend.ts';
import { rowBytes, type StorageType } from '../dtype.ts';
import { FormatError, UnsupportedError } from '../errors.ts';
import { sizeOf } from '../tensor.ts';
import { eachChunk } from './rowChunks.ts';
import type { ByteSource } from './source.ts';

const VERSION = 3;
const ALIGNMENT = 32;
const HEADER_BYTES = 24;
/** Bytes of rows that are held at a time. */
const CHUNK_BYTES = 4 << 20;

/** A tensor to write, read by rows. */
export interface GgufTensor extends RawSection {
  readonly name: string;
  /** Row-major. */
  readonly shape: readonly number[];
}

/** A metadata value with its type in front, as the file holds it. */
export type GgufBytes = Uint8Array;

const encoder = new TextEncoder();

/** Metadata values of the types that files use. */
export const ggufValue = {
  u32: (value: number): GgufBytes => scalar(4, 4, (v) => v.setUint32(4, value, true)),
  f32: (value: number): GgufBytes => scalar(6, 4, (v) => v.setFloat32(4, value, true)),
  bool: (value: boolean): GgufBytes => scalar(7, 1, (v) => v.setUint8(4, value ? 1 : 0)),
  string(value: string): GgufBytes {
    const text = encoder.encode(value);
    const out = scalar(8, 8 + text.length, (v) => v.setBigUint64(4, BigInt(text.length), true));
    out.set(text, 12);
    return out;
  },
  strings(values: readonly string[]): GgufBytes {
    const texts = values.map((value) => encoder.encode(value));
    const bytes = texts.reduce((n, t) => n + 8 + t.length, 12);
    const out = list(8, values.length, bytes);
    const view = new DataView(out.buffer);
    let at = 16;
    for (const text of texts) {
      view.setBigUint64(at, BigInt(text.length), true);
      out.set(text, at + 8);
      at += 8 + text.length;
    }
    return out;
  },
  bools(values: readonly boolean[]): GgufBytes {
    const out = list(7, values.length, 12 + values.length);
    values.forEach((value, i) => {
      out[16 + i] = value ? 1 : 0;
    });
    return out;
  },
  i32s(values: ArrayLike<number>): GgufBytes {
    const out = list(5, values.length, 12 + 4 * values.length);
    const view = new DataView(out.buffer);
    for (let i = 0; i < values.length; i++) view.setInt32(16 + 4 * i, values[i]!, true);
    return out;
  },
  f32s(values: ArrayLike<number>): GgufBytes {
    const out = list(6, values.length, 12 + 4 * values.length);
    const view = new DataView(out.buffer);
    for (let i = 0; i < values.length; i++) view.setFloat32(16 + 4 * i, values[i]!, true);
    return out;
  },
};

function scalar(type: number, bytes: number, fill: (view: DataView) => void): Uint8Array {
  const out = new Uint8Array(4 + bytes);
  const view = new DataView(out.buffer);
  view.setUint32(0, type, true);
  fill(view);
  return out;
}

function list(type: number, count: number, bytes: number): Uint8Array {
  return scalar(9, bytes, (view) => {
    view.setUint32(4, type, true);
    view.setBigUint64(8, BigInt(count), true);
  });
}

/** Where bytes go; positions ascend, without gaps. */
export type WriteAt = (position: number, bytes: Uint8Array) => Promise<void>;

/**
 * Writes a file: the header, then the tensors in the given order, a few rows at a time. Returns its size.
 * @throws UnsupportedError for a type that such files cannot hold, FormatError for rows that are not whole blocks.
 */
export async function writeGguf(
  write: WriteAt,
  metadata: ReadonlyMap<string, GgufBytes>,
  tensors: readonly GgufTensor[],
  onTensor?: (name: string, bytes: number) => void,
): Promise<number> {
  const parts: Uint8Array[] = [head(metadata.size, tensors.length)];
  const text = (value: string) => parts.push(ggufValue.string(value).subarray(4));
  for (const [key, value] of metadata) {
    text(key);
    parts.push(value);
  }
  let offset = 0;
  for (const t of tensors) {
    text(t.name);
    parts.push(tensorEntry(t, offset));
    offset += aligned(bytesOf(t));
  }
  const header = joined(parts);
  await write(0, header);
  let at = aligned(header.length);
  if (at > header.length) await write(header.length, new Uint8Array(at - header.length));
  for (const t of tensors) {
    const bytes = bytesOf(t);
    await writeRows(write, at, t);
    const end = aligned(bytes);
    if (end > bytes) await write(at + bytes, new Uint8Array(end - bytes));
    at += end;
    onTensor?.(t.name, bytes);
  }
  return at;
}

function writeRows(write: WriteAt, at: number, t: GgufTensor): Promise<void> {
  const stride = strideOf(t);
  return eachChunk(t, stride, CHUNK_BYTES, (first, _n, bytes) => write(at + first * stride, bytes));
}

function strideOf(t: GgufTensor): number {
  const columns = t.shape[t.shape.length - 1] ?? 1;
  const stride = rowBytes(t.type, columns);
  if (stride === undefined || t.rows * columns !== sizeOf(t.shape)) {
    throw new FormatError(`tensor "${t.name}": expected whole ${t.type.name} blocks, got rows of ${columns}`);
  }
  return stride;
}

const bytesOf = (t: GgufTensor): number => t.rows * strideOf(t);
const aligned = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

function head(keys: number, tensors: number): Uint8Array {
  const out = new Uint8Array(HEADER_BYTES);
  const view = new DataView(out.buffer);
  view.setUint32(0, 0x46554747, true);
  view.setUint32(4, VERSION, true);
  view.setBigUint64(8, BigInt(tensors), true);
  view.setBigUint64(16, BigInt(keys), true);
  return out;
}

function tensorEntry(t: GgufTensor, offset: number): Uint8Array {
  const out = new Uint8Array(4 + 8 * t.shape.length + 12);
  const view = new DataView(out.buffer);
  view.setUint32(0, t.shape.length, true);
  [...t.shape].reverse().forEach((n, i) => {
    view.setBigUint64(4 + 8 * i, BigInt(n), true);
  });
  view.setUint32(4 + 8 * t.shape.length, ggmlNumber(t.name, t.type), true);
  view.setBigUint64(8 + 8 * t.shape.length, BigInt(offset), true);
  return out;
}

function ggmlNumber(name: string, { ggml, name: type }: StorageType): number {
  if (ggml !== undefined) return ggml;
  throw new UnsupportedError(`tensor "${name}": expected a type of GGUF files, got ${type}; choose another`, {
    feature: `${type} in GGUF files`,
  });
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

const SCALAR_BYTES = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8] as const;

/**
 * The metadata of a file as its bytes, for copies that keep every type. The header must have been read before, which has
 * checked it; `end` is where its tensors begin.
 */
export async function ggufMetadataBytes(source: ByteSource, end: number): Promise<Map<string, GgufBytes>> {
  const bytes = await source.slice(0, end);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const u64 = (at: number) => Number(view.getBigUint64(at, true));
  const endOfValue = (type: number, at: number): number => {
    if (type === 8) return at + 8 + u64(at);
    if (type !== 9) return at + SCALAR_BYTES[type]!;
    const items = view.getUint32(at, true);
    const count = u64(at + 4);
    if (items !== 8 && items !== 9) return at + 12 + count * SCALAR_BYTES[items]!;
    let to = at + 12;
    for (let i = 0; i < count; i++) to = endOfValue(items, to);
    return to;
  };
  const out = new Map<string, GgufBytes>();
  let at = HEADER_BYTES;
  for (let i = u64(16); i > 0; i--) {
    const length = u64(at);
    const key = new TextDecoder().decode(bytes.subarray(at + 8, at + 8 + length));
    const value = at + 8 + length;
    at = endOfValue(view.getUint32(value, true), value + 4);
    out.set(key, bytes.slice(value, at));
  }
  return out;
}
