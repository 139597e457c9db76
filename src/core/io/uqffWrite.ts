/** Writes safetensors files whose tensors are made one after another, and UQFF sets of them. */
import type { StorageTypeName } from '../dtype.ts';
import { storageType } from '../dtype.ts';
import type { FileWriter, Platform } from '../platform.ts';
import { type Shape, sizeOf } from '../tensor.ts';
import { layoutSafetensors, type SafetensorsLayout } from './safetensorsWrite.ts';
import { UQFF_VERSION, VERSION_PARTS, versionKey } from './uqff.ts';

export interface StreamedTensor {
  readonly name: string;
  readonly type: StorageTypeName;
  readonly shape: Shape;
}

/** Bytes of a tensor from `offset` of its data on. */
export type PutBytes = (name: string, offset: number, bytes: Uint8Array) => Promise<void>;

/** Tensors that are made together: `stream` gives all bytes of all of them, in any order. */
export interface TensorStream {
  readonly tensors: readonly StreamedTensor[];
  stream(put: PutBytes): Promise<void>;
}

/** A new file of one set begins before it would hold more. */
export const MAX_SHARD_BYTES = 10 * 2 ** 30;

export const METADATA: Readonly<Record<string, string>> = {
  'uqff.producer': 'tramontane',
  'uqff.version': VERSION_PARTS.map((part) => UQFF_VERSION[part]).join('.'),
};

export function tensorBytes({ type, shape }: StreamedTensor): number {
  const { blockSize, blockBytes } = storageType(type);
  return (sizeOf(shape) / blockSize) * blockBytes;
}

/** A tensor whose bytes are at hand. */
export function heldTensor(tensor: StreamedTensor, bytes: Uint8Array): TensorStream {
  return { tensors: [tensor], stream: (put) => put(tensor.name, 0, bytes) };
}

/** Numbers in little-endian order. */
export function numbers(type: 'U8' | 'U32', values: readonly number[]): Uint8Array {
  const out = new Uint8Array(values.length * (type === 'U8' ? 1 : 4));
  const view = new DataView(out.buffer);
  values.forEach((value, i) => {
    if (type === 'U8') out[i] = value;
    else view.setUint32(4 * i, value, true);
  });
  return out;
}

/** Writes one safetensors file; `done` is told of every run of bytes. */
export async function writeStreams(
  platform: Platform,
  path: string,
  streams: readonly TensorStream[],
  done: (bytes: number, name: string) => void,
): Promise<void> {
  await writeFiles(platform, [{ path, tensors: streams.flatMap((s) => s.tensors) }], streams, done);
}

/** Files of a set: versions in front, then the modules in the order of their names, cut before `maxBytes` are exceeded. */
export function uqffShards(
  modules: readonly TensorStream[],
  maxBytes: number,
): { readonly versions: readonly TensorStream[]; readonly shards: readonly (readonly StreamedTensor[])[] } {
  const versions = VERSION_PARTS.map((part) =>
    heldTensor({ name: versionKey(part), type: 'U32', shape: [] }, numbers('U32', [UQFF_VERSION[part]])),
  );
  const shards: StreamedTensor[][] = [[]];
  let bytes = 0;
  for (const tensor of [...versions, ...modules].flatMap((s) => s.tensors)) {
    const size = tensorBytes(tensor);
    if (bytes >= maxBytes || (bytes > 0 && bytes + size > maxBytes)) {
      shards.push([]);
      bytes = 0;
    }
    shards[shards.length - 1]!.push(tensor);
    bytes += size;
  }
  return { versions, shards };
}

export interface PlannedFile {
  readonly path: string;
  readonly tensors: readonly StreamedTensor[];
}

/** Writes several safetensors files at once; tensors of one stream may lie in different ones. */
export async function writeFiles(
  platform: Platform,
  files: readonly PlannedFile[],
  streams: readonly TensorStream[],
  done: (bytes: number, name: string) => void,
): Promise<void> {
  const places = new Map<string, { writer: FileWriter; at: number }>();
  const writers: FileWriter[] = [];
  try {
    for (const { path, tensors } of files) {
      const layout: SafetensorsLayout = layoutSafetensors(
        tensors.map((t) => [t.name, t] as const),
        METADATA,
      );
      const writer = await platform.openWriter(path);
      writers.push(writer);
      await writer.truncate(0);
      await writer.write(0, layout.head);
      for (const [name, { at }] of layout.places) places.set(name, { writer, at });
    }
    for (const stream of streams) {
      await stream.stream(async (name, offset, bytes) => {
        const { writer, at } = places.get(name)!;
        await writer.write(at + offset, bytes);
        done(bytes.length, name);
      });
    }
  } finally {
    for (const writer of writers) await writer.close();
  }
}
