/** Importance that was measured on live traffic, by module path: no header, only records. */
import { FormatError } from '../core/errors.ts';
import { type OpenOptions, openSource, type SourceInput } from '../core/io/open.ts';
import { checkImportance, wholeFile } from './imatrix.ts';
import { RecordReader } from './records.ts';

const MAX_ENTRIES = 2 ** 20;
const MAX_KEY_BYTES = 4096;
const MAX_FILE_BYTES = 2 ** 31;

/**
 * Reads a `.cimatrix` file from a path, URL, `Blob` or bytes: for each module path the mean square of every input column
 * times the number of calls; for routed experts the columns of one expert after those of another.
 * @throws FormatError when the file is damaged or of another kind.
 */
export async function readCimatrix(input: SourceInput, options: OpenOptions = {}): Promise<Map<string, Float32Array>> {
  const source = await openSource(input, options);
  try {
    const r = new RecordReader(await wholeFile(source, MAX_FILE_BYTES), source.name);
    const count = r.u64('number of entries', 0, MAX_ENTRIES);
    const entries = new Map<string, Float32Array>();
    for (let i = 0; i < count; i++) {
      const key = r.text(r.u64('key length', 1, MAX_KEY_BYTES));
      if (entries.has(key)) throw new FormatError(`${r.name}: ${key}: expected one entry, got several`);
      const values = r.floats(r.u64(`${key}: number of values`, 0, r.left / 4));
      checkImportance(values, `${r.name}: ${key}`);
      entries.set(key, values);
    }
    r.end();
    return entries;
  } finally {
    await source.close();
  }
}

/**
 * The bytes of a `.cimatrix` file, entries in the given order.
 * @throws FormatError for values that are no importances.
 */
export function writeCimatrix(
  entries: Iterable<readonly [string, Float32Array]> | Readonly<Record<string, Float32Array>>,
): Uint8Array<ArrayBuffer> {
  const list = Symbol.iterator in entries ? [...entries] : Object.entries(entries);
  const encoder = new TextEncoder();
  const keys = list.map(([key]) => encoder.encode(key));
  const bytes = list.reduce((n, [, values], i) => n + 16 + keys[i]!.length + 4 * values.length, 8);
  const out = new Uint8Array(bytes);
  const view = new DataView(out.buffer);
  let at = 0;
  const u64 = (value: number) => {
    view.setBigUint64(at, BigInt(value), true);
    at += 8;
  };
  u64(list.length);
  list.forEach(([key, values], i) => {
    checkImportance(values, key);
    u64(keys[i]!.length);
    out.set(keys[i]!, at);
    at += keys[i]!.length;
    u64(values.length);
    for (let k = 0; k < values.length; k++) view.setFloat32(at + 4 * k, values[k]!, true);
    at += 4 * values.length;
  });
  return out;
}
