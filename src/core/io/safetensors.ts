/** Reads safetensors files: 8 bytes of header length, a JSON header, the tensor data. */
import type { StorageType, StorageTypeName } from '../dtype.ts';
import { storageType } from '../dtype.ts';
import { FormatError, UnsupportedError } from '../errors.ts';
import type { Checkpoint, TensorInfo } from './checkpoint.ts';
import { parseJson } from './json.ts';
import type { OpenOptions, SourceInput } from './open.ts';
import { openSource } from './open.ts';
import { shownBytes } from './sniff.ts';
import type { ByteSource } from './source.ts';
import { decodeUtf8Strict } from './text.ts';

/** The format's own limit. */
export const MAX_HEADER_BYTES = 100_000_000;
/** A tensor takes about ten values; large shards have a few thousand tensors. */
const MAX_HEADER_VALUES = 2 ** 20;
/** The most dimensions any model uses is 6. */
const MAX_DIMS = 16;
const METADATA_KEY = '__metadata__';

/** Types of the format, smallest alignment first: the order in which its writers sort tensors. */
export const SAFETENSORS_TYPES = [
  'BOOL',
  'F4',
  'F6_E2M3',
  'F6_E3M2',
  'U8',
  'I8',
  'F8_E5M2',
  'F8_E4M3',
  'F8_E8M0',
  'F8_E4M3FNUZ',
  'F8_E5M2FNUZ',
  'I16',
  'U16',
  'F16',
  'BF16',
  'I32',
  'U32',
  'F32',
  'C64',
  'F64',
  'I64',
  'U64',
] as const satisfies readonly StorageTypeName[];

/**
 * Opens a safetensors file. Only the header is read; every length and offset in it is checked against the file.
 * `close()` of the result closes the source, also one that was passed in.
 * Throws `FormatError` when the file breaks its format, `UnsupportedError` for an unknown type.
 */
export async function readSafetensors(input: SourceInput, options: OpenOptions = {}): Promise<Checkpoint> {
  const source = await openSource(input, options);
  try {
    const { header, dataStart } = await readHeader(source);
    const metadata = readMetadata(header[METADATA_KEY], source.name);
    const tensors = new Map<string, TensorInfo>();
    for (const [name, entry] of Object.entries(header)) {
      if (name !== METADATA_KEY) tensors.set(name, readEntry(name, entry, source, dataStart));
    }
    checkCoverage(tensors, source, dataStart);
    return { tensors, metadata, close: () => source.close() };
  } catch (error) {
    await source.close();
    throw error;
  }
}

async function readHeader(source: ByteSource): Promise<{ header: Record<string, unknown>; dataStart: number }> {
  const head = await source.slice(0, Math.min(source.size, 32));
  if (head.length < 8) {
    throw new FormatError(
      `${source.name}: expected a safetensors file, got ${shownBytes(head)} (${head.length} bytes)`,
    );
  }
  const length = new DataView(head.buffer, head.byteOffset, 8).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES) || head[8] !== 0x7b) {
    throw new FormatError(`${source.name}: expected a safetensors file, got ${shownBytes(head)}`);
  }
  const dataStart = 8 + Number(length);
  if (dataStart > source.size) {
    throw new FormatError(
      `${source.name}: expected a header of ${length} bytes, got ${source.size - 8}; the file is truncated`,
    );
  }
  const text = decodeUtf8Strict(await source.slice(8, dataStart), `${source.name}: header`);
  const header = parseJson(text, {
    name: `${source.name}: header`,
    duplicateKeys: 'error',
    maxValues: MAX_HEADER_VALUES,
  });
  return { header: header as Record<string, unknown>, dataStart };
}

function readMetadata(value: unknown, file: string): Map<string, unknown> {
  const metadata = new Map<string, unknown>();
  if (value === undefined) return metadata;
  if (!isObject(value)) throw new FormatError(`${file}: __metadata__: expected an object of strings`);
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string') {
      throw new FormatError(`${file}: __metadata__.${shorten(key)}: expected a string, got ${typeof text}`);
    }
    metadata.set(key, text);
  }
  return metadata;
}

function readEntry(name: string, entry: unknown, source: ByteSource, dataStart: number): TensorInfo {
  const where = `${source.name}: tensor ${shorten(name)}`;
  if (!isObject(entry)) throw new FormatError(`${where}: expected an object with dtype, shape and data_offsets`);
  const type = readType(entry['dtype'], where);
  const shape = readShape(entry['shape'], where);
  const [start, end] = readOffsets(entry['data_offsets'], where, source.size - dataStart);
  const elements = shape.reduce((product, n) => product * n, 1);
  const expected = (elements / type.blockSize) * type.blockBytes;
  if (!Number.isSafeInteger(elements) || expected !== end - start) {
    throw new FormatError(
      `${where}: expected ${expected} bytes for ${type.name} [${shape.join(', ')}], got ${end - start}`,
    );
  }
  return { name, type, shape, offset: dataStart + start, bytes: end - start, source };
}

function readType(value: unknown, where: string): StorageType {
  const name = SAFETENSORS_TYPES.find((t) => t === value);
  if (name !== undefined) return storageType(name);
  if (typeof value !== 'string') throw new FormatError(`${where}: dtype: expected a string, got ${typeof value}`);
  throw new UnsupportedError(`${where}: dtype: expected one of ${SAFETENSORS_TYPES.join(', ')}, got ${shorten(value)}`);
}

function readShape(value: unknown, where: string): readonly number[] {
  if (!Array.isArray(value) || value.length > MAX_DIMS) {
    throw new FormatError(`${where}: shape: expected a list of at most ${MAX_DIMS} sizes`);
  }
  for (const n of value) {
    if (!Number.isSafeInteger(n) || n < 0) throw new FormatError(`${where}: shape: expected whole numbers, got ${n}`);
  }
  return value as number[];
}

function readOffsets(value: unknown, where: string, dataBytes: number): readonly [number, number] {
  const [start, end] = Array.isArray(value) && value.length === 2 ? (value as unknown[]) : [];
  if (!Number.isSafeInteger(start) || !Number.isSafeInteger(end)) {
    throw new FormatError(`${where}: data_offsets: expected two whole numbers`);
  }
  const [a, b] = [start as number, end as number];
  if (a < 0 || b < a || b > dataBytes) {
    throw new FormatError(
      `${where}: data_offsets: expected a range within the ${dataBytes} bytes of data, got ${a} to ${b}; ` +
        'the file may be truncated',
    );
  }
  return [a, b];
}

/** Tensors must fill the data section without gap or overlap. */
function checkCoverage(tensors: ReadonlyMap<string, TensorInfo>, source: ByteSource, dataStart: number): void {
  const sorted = [...tensors.values()].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  let at = dataStart;
  for (const t of sorted) {
    if (t.offset !== at) {
      const what = t.offset < at ? 'overlaps the one before it' : `leaves a gap of ${t.offset - at} bytes before it`;
      throw new FormatError(`${source.name}: tensor ${shorten(t.name)}: ${what}`);
    }
    at += t.bytes;
  }
  if (at !== source.size) {
    throw new FormatError(
      `${source.name}: expected ${at} bytes as the header says, got ${source.size}; the file holds bytes of no tensor`,
    );
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A name from the file, cut so that a message stays readable. */
function shorten(text: string): string {
  return JSON.stringify(text.length > 200 ? `${text.slice(0, 200)}…` : text);
}
