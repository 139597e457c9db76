/** The header of a GGUF file: metadata, and where its tensors lie. */
import { GGML_TYPES } from '../dtype.ts';
import { FormatError, UnsupportedError } from '../errors.ts';
import type { TensorInfo } from './checkpoint.ts';
import { Cursor } from './ggufCursor.ts';
import { GgufMetadata } from './ggufMetadata.ts';
import type { RawValue } from './ggufValue.ts';
import { ValueReader } from './ggufValue.ts';
import { shownBytes } from './sniff.ts';
import type { ByteSource } from './source.ts';

/** Vocabularies make headers of up to 12 MB. */
const MAX_HEADER_BYTES = 2 ** 26;
/** Published files have fewer than 100 keys and 2000 tensors. */
const MAX_KEYS = 2 ** 16;
const MAX_TENSORS = 2 ** 17;
/** The bound of the format on keys is 65535; names of tensors have at most 64 bytes in the reference library. */
const MAX_KEY_BYTES = 65_535;
const MAX_NAME_BYTES = 1024;
const MAX_DIMS = 4;
const MAX_ALIGNMENT = 2 ** 20;
const DEFAULT_ALIGNMENT = 32;
/** The least that a key with value and a tensor entry take: what counts are checked against. */
const MIN_KEY_BYTES = 8 + 4 + 1;
const MIN_TENSOR_BYTES = 8 + 4 + 4 + 8;

export interface GgufHeader {
  readonly version: number;
  readonly metadata: GgufMetadata;
  readonly tensors: ReadonlyMap<string, TensorInfo>;
}

/**
 * Reads the header of one GGUF file (version 2 or 3, little-endian). Sizes and offsets of all tensors are checked
 * against the file. Throws `FormatError` for a file that breaks the format, `UnsupportedError` for other versions, byte
 * order or tensor types.
 */
export async function readGgufHeader(source: ByteSource): Promise<GgufHeader> {
  const file = source.name;
  const cursor = new Cursor(source, MAX_HEADER_BYTES);
  const version = await readVersion(cursor, source);
  await cursor.fill(16, 'header');
  const tensorCount = cursor.u64();
  const keyCount = cursor.u64();
  checkCount(file, 'metadata keys', keyCount, MAX_KEYS, cursor.left / MIN_KEY_BYTES);
  checkCount(file, 'tensors', tensorCount, MAX_TENSORS, cursor.left / MIN_TENSOR_BYTES);

  const values = new ValueReader(cursor, file);
  const raw = new Map<string, RawValue>();
  for (let i = 0; i < keyCount; i++) {
    const key = await values.string(`metadata key ${i}`, MAX_KEY_BYTES);
    if (raw.has(key)) throw new FormatError(`${file}: metadata key ${quoted(key)}: expected once, got it twice`);
    raw.set(key, await values.typed(quoted(key)));
  }

  const metadata = new GgufMetadata(raw);
  const entries: Entry[] = [];
  for (let i = 0; i < tensorCount; i++) entries.push(await readEntry(cursor, values, file, i));
  const alignment = alignmentOf(metadata, file);
  const dataStart = Math.ceil(cursor.position / alignment) * alignment;
  return { version, metadata, tensors: placeTensors(entries, source, dataStart, alignment) };
}

async function readVersion(cursor: Cursor, source: ByteSource): Promise<number> {
  if (source.size < 8) throw new FormatError(`${source.name}: expected a GGUF file, got ${source.size} bytes`);
  await cursor.fill(8, 'magic');
  const head = cursor.bytes.subarray(0, 32);
  if (cursor.u32() !== 0x46554747) {
    throw new FormatError(`${source.name}: expected a GGUF file, got ${shownBytes(head)}`);
  }
  const version = cursor.u32();
  if (version === 2 || version === 3) return version;
  if (version === 1) {
    throw new UnsupportedError(`${source.name}: expected GGUF version 2 or 3, got 1; convert the model again`);
  }
  if (version !== 0 && (version & 0xffff) === 0) {
    throw new UnsupportedError(
      `${source.name}: expected a little-endian GGUF file, got a big-endian one; convert the model for little-endian machines`,
    );
  }
  throw new UnsupportedError(`${source.name}: expected GGUF version 2 or 3, got ${version}`);
}

interface Entry {
  readonly name: string;
  /** Fastest dimension first, as stored. */
  readonly dims: readonly number[];
  readonly type: number;
  /** From the start of the data section. */
  readonly offset: number;
}

async function readEntry(cursor: Cursor, values: ValueReader, file: string, index: number): Promise<Entry> {
  const name = await values.string(`name of tensor ${index}`, MAX_NAME_BYTES);
  const what = `tensor ${quoted(name)}`;
  await cursor.fill(4, what);
  const dimCount = cursor.u32();
  if (dimCount > MAX_DIMS) {
    throw new FormatError(`${file}: ${what}: expected at most ${MAX_DIMS} dimensions, got ${dimCount}`);
  }
  await cursor.fill(8 * dimCount + 12, what);
  const dims = Array.from({ length: dimCount }, () => cursor.u64());
  const type = cursor.u32();
  return { name, dims, type, offset: cursor.u64() };
}

function placeTensors(
  entries: readonly Entry[],
  source: ByteSource,
  dataStart: number,
  alignment: number,
): ReadonlyMap<string, TensorInfo> {
  const tensors = new Map<string, TensorInfo>();
  for (const entry of entries) {
    if (tensors.has(entry.name)) {
      throw new FormatError(`${source.name}: tensor ${quoted(entry.name)}: expected once, got it twice`);
    }
    tensors.set(entry.name, placeTensor(entry, source, dataStart, alignment));
  }
  let previous: TensorInfo | undefined;
  for (const t of [...tensors.values()].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes)) {
    if (previous !== undefined && t.offset < previous.offset + previous.bytes) {
      throw new FormatError(`${source.name}: tensor ${quoted(t.name)}: overlaps tensor ${quoted(previous.name)}`);
    }
    previous = t;
  }
  return tensors;
}

function placeTensor(entry: Entry, source: ByteSource, dataStart: number, alignment: number): TensorInfo {
  const where = `${source.name}: tensor ${quoted(entry.name)}`;
  const type = GGML_TYPES.get(entry.type);
  if (type === undefined) {
    throw new UnsupportedError(`${where}: expected a known type number, got ${entry.type}`, {
      feature: `ggml type ${entry.type}`,
    });
  }
  const elements = entry.dims.reduce((product, n) => product * n, 1);
  if (!Number.isSafeInteger(elements) || !entry.dims.every(Number.isSafeInteger)) {
    throw new FormatError(`${where}: expected fewer than 2^53 elements, got ${entry.dims.join(' × ')}`);
  }
  const row = entry.dims[0] ?? 1;
  if (row % type.blockSize !== 0) {
    throw new FormatError(
      `${where}: expected rows of whole ${type.name} blocks (${type.blockSize} elements), got rows of ${row}`,
    );
  }
  const bytes = (elements / type.blockSize) * type.blockBytes;
  const room = source.size - dataStart;
  if (!(entry.offset + bytes <= room) || !Number.isSafeInteger(entry.offset)) {
    throw new FormatError(
      `${where}: expected ${bytes} bytes at ${entry.offset} of the data, got ${Math.max(0, room)} bytes of data; ` +
        'the file is truncated or damaged',
    );
  }
  if (entry.offset % alignment !== 0) {
    throw new FormatError(`${where}: expected an offset that is a multiple of ${alignment}, got ${entry.offset}`);
  }
  return { name: entry.name, type, shape: [...entry.dims].reverse(), offset: dataStart + entry.offset, bytes, source };
}

function alignmentOf(metadata: GgufMetadata, file: string): number {
  const value = metadata.get('general.alignment') ?? DEFAULT_ALIGNMENT;
  if (typeof value === 'number' && value >= 1 && value <= MAX_ALIGNMENT && Number.isInteger(Math.log2(value))) {
    return value;
  }
  throw new FormatError(
    `${file}: general.alignment: expected a power of two up to ${MAX_ALIGNMENT}, got ${String(value).slice(0, 40)}`,
  );
}

function checkCount(file: string, what: string, count: number, limit: number, possible: number): void {
  if (count > limit) throw new FormatError(`${file}: expected at most ${limit} ${what}, got ${count}`);
  if (count > possible) {
    throw new FormatError(
      `${file}: expected room for ${count} ${what}, got a file of few bytes; it is truncated or damaged`,
    );
  }
}

/** A name from the file, cut so that a message stays readable. */
function quoted(text: string): string {
  return JSON.stringify(text.length > 200 ? `${text.slice(0, 200)}…` : text);
}
