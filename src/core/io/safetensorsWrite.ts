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

/**
 * The bytes of a safetensors file. Tensors are laid out as the reference writer does it: widest type first, then by
 * name, the header padded to 8 bytes. Throws `FormatError` when data and shape disagree or a type is none of the format.
 */
export function writeSafetensors(
  tensors: Readonly<Record<string, TensorData>> | Iterable<readonly [string, TensorData]>,
  metadata?: Readonly<Record<string, string>>,
): Uint8Array {
  const entries = [...(Symbol.iterator in tensors ? tensors : Object.entries(tensors))];
  const rank = new Map<string, number>(SAFETENSORS_TYPES.map((name, i) => [name, i]));
  for (const [name, tensor] of entries) checkTensor(name, tensor, rank);
  entries.sort(([a, x], [b, y]) => rank.get(y.type)! - rank.get(x.type)! || (a < b ? -1 : a > b ? 1 : 0));

  const header = new Map<string, unknown>();
  if (metadata !== undefined && Object.keys(metadata).length > 0) header.set('__metadata__', metadata);
  let at = 0;
  for (const [name, { type, shape, data }] of entries) {
    if (header.has(name))
      throw new FormatError(`tensor ${JSON.stringify(name)}: expected each name once, got it twice`);
    header.set(name, { dtype: type, shape, data_offsets: [at, (at += data.byteLength)] });
  }
  const text = encodeObject(header);
  const length = Math.ceil(text.length / 8) * 8;
  const file = new Uint8Array(8 + length + at);
  new DataView(file.buffer).setBigUint64(0, BigInt(length), true);
  file.set(text, 8);
  file.fill(0x20, 8 + text.length, 8 + length);
  let to = 8 + length;
  for (const [, { data }] of entries) {
    file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), to);
    to += data.byteLength;
  }
  return file;
}

function checkTensor(name: string, { type, shape, data }: TensorData, rank: ReadonlyMap<string, number>): void {
  if (name === '__metadata__') throw new FormatError('tensor name: expected another one, "__metadata__" is reserved');
  if (!rank.has(type)) {
    throw new FormatError(
      `tensor ${JSON.stringify(name)}: expected a type of safetensors (${SAFETENSORS_TYPES.join(', ')}), got ${type}`,
    );
  }
  const { blockSize, blockBytes } = storageType(type);
  const bytes = (shape.reduce((product, n) => product * n, 1) / blockSize) * blockBytes;
  if (!shape.every((n) => Number.isSafeInteger(n) && n >= 0) || bytes !== data.byteLength) {
    throw new FormatError(
      `tensor ${JSON.stringify(name)}: expected ${bytes} bytes for ${type} [${shape.join(', ')}], got ${data.byteLength}`,
    );
  }
}

/** Written by hand: an object would move keys that look like numbers to the front and treat `__proto__` apart. */
function encodeObject(members: ReadonlyMap<string, unknown>): Uint8Array {
  const parts = [...members].map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`);
  return new TextEncoder().encode(`{${parts.join(',')}}`);
}
