/** Writes safetensors files. */
import type { StorageTypeName } from '../dtype.ts';
import { storageType } from '../dtype.ts';
import { FormatError } from '../errors.ts';
import { SAFETENSORS_TYPES } from './safetensors.ts';

/** A tensor to write. `data` holds exactly the bytes of `shape` in `type`, little-endian, row-major. */
export interface TensorData {
  readonly type: StorageTypeName;
  readonly shape: readonly number[];
  readonly data: ArrayBufferView;
}

/** A tensor whose data comes later. */
export type TensorShape = Omit<TensorData, 'data'>;

/** Where everything lies in a safetensors file. */
export interface SafetensorsLayout {
  /** Length and header: the bytes in front of the data. */
  readonly head: Uint8Array;
  /** Position in the file and number of bytes of every tensor, in the order of the file. */
  readonly places: ReadonlyMap<string, { readonly at: number; readonly bytes: number }>;
  readonly size: number;
}

/**
 * Lays out a safetensors file as the reference writer does it: widest type first, then by name, the header padded to 8
 * bytes. Throws `FormatError` when a name comes twice or a type is none of the format.
 */
export function layoutSafetensors(
  tensors: Iterable<readonly [string, TensorShape]>,
  metadata?: Readonly<Record<string, string>>,
): SafetensorsLayout {
  const entries = [...tensors];
  const rank = new Map<string, number>(SAFETENSORS_TYPES.map((name, i) => [name, i]));
  const bytes = new Map(entries.map(([name, tensor]) => [name, bytesOf(name, tensor, rank)]));
  entries.sort(([a, x], [b, y]) => rank.get(y.type)! - rank.get(x.type)! || (a < b ? -1 : a > b ? 1 : 0));

  const header = new Map<string, unknown>();
  if (metadata !== undefined && Object.keys(metadata).length > 0) header.set('__metadata__', metadata);
  let at = 0;
  for (const [name, { type, shape }] of entries) {
    if (header.has(name))
      throw new FormatError(`tensor ${JSON.stringify(name)}: expected each name once, got it twice`);
    header.set(name, { dtype: type, shape, data_offsets: [at, (at += bytes.get(name)!)] });
  }
  const text = encodeObject(header);
  const length = Math.ceil(text.length / 8) * 8;
  const head = new Uint8Array(8 + length).fill(0x20, 8 + text.length);
  new DataView(head.buffer).setBigUint64(0, BigInt(length), true);
  head.set(text, 8);
  const places = new Map<string, { at: number; bytes: number }>();
  let to = head.length;
  for (const [name] of entries) {
    places.set(name, { at: to, bytes: bytes.get(name)! });
    to += bytes.get(name)!;
  }
  return { head, places, size: to };
}

/** The bytes of a safetensors file. Throws `FormatError` as `layoutSafetensors`, and when data and shape disagree. */
export function writeSafetensors(
  tensors: Readonly<Record<string, TensorData>> | Iterable<readonly [string, TensorData]>,
  metadata?: Readonly<Record<string, string>>,
): Uint8Array {
  const entries = [...(Symbol.iterator in tensors ? tensors : Object.entries(tensors))];
  const { head, places, size } = layoutSafetensors(entries, metadata);
  const file = new Uint8Array(size);
  file.set(head);
  for (const [name, { type, shape, data }] of entries) {
    const { at, bytes } = places.get(name)!;
    if (data.byteLength !== bytes) {
      throw new FormatError(
        `tensor ${JSON.stringify(name)}: expected ${bytes} bytes for ${type} [${shape.join(', ')}], got ${data.byteLength}`,
      );
    }
    file.set(new Uint8Array(data.buffer, data.byteOffset, bytes), at);
  }
  return file;
}

function bytesOf(name: string, { type, shape }: TensorShape, rank: ReadonlyMap<string, number>): number {
  if (name === '__metadata__') throw new FormatError('tensor name: expected another one, "__metadata__" is reserved');
  if (!rank.has(type)) {
    throw new FormatError(
      `tensor ${JSON.stringify(name)}: expected a type of safetensors (${SAFETENSORS_TYPES.join(', ')}), got ${type}`,
    );
  }
  const { blockSize, blockBytes } = storageType(type);
  const bytes = (shape.reduce((product, n) => product * n, 1) / blockSize) * blockBytes;
  if (!shape.every((n) => Number.isSafeInteger(n) && n >= 0) || !Number.isSafeInteger(bytes)) {
    throw new FormatError(`tensor ${JSON.stringify(name)}: expected whole ${type} values, got [${shape.join(', ')}]`);
  }
  return bytes;
}

/** Written by hand: an object would move keys that look like numbers to the front and treat `__proto__` apart. */
function encodeObject(members: ReadonlyMap<string, unknown>): Uint8Array {
  const parts = [...members].map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`);
  return new TextEncoder().encode(`{${parts.join(',')}}`);
}
