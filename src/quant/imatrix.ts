/** Importance matrices of llama.cpp: for each matrix of a model, the mean square of the activations that met each column. */
import { FormatError } from '../core/errors.ts';
import type { Checkpoint } from '../core/io/checkpoint.ts';
import { readGguf } from '../core/io/gguf.ts';
import { type OpenOptions, openSource, type SourceInput } from '../core/io/open.ts';
import type { ByteSource } from '../core/io/source.ts';
import { sourceTensors } from '../core/io/weightSource.ts';
import { readValues } from '../core/weights.ts';
import { RecordReader } from './records.ts';
import { dequantizeInto } from './rows.ts';

export interface ImatrixEntry {
  /** Importance of every column; for experts, the columns of one after those of another. What `quantize` takes. */
  readonly values: Float32Array;
  /** Matrices that `values` covers: more than one for stacked experts, where the file says so. */
  readonly experts: number;
  /** Rows of activations (GGUF form, by expert) or batches (older form) that were measured. */
  readonly counts: readonly number[];
}

export interface Imatrix {
  /** By tensor name of the GGUF model: `blk.0.attn_q.weight`. */
  readonly entries: ReadonlyMap<string, ImatrixEntry>;
  readonly datasets: readonly string[];
  /** Chunks of text that were evaluated. */
  readonly chunks: number | undefined;
}

const MAGIC = 'GGUF';
/** Names of tensors have at most 64 bytes in GGUF files; names of data sets are paths. */
const MAX_NAME_BYTES = 4096;
/** Matrices of the largest published models, experts apart, a hundred times over. */
const MAX_ENTRIES = 2 ** 20;
/** One file of the older form is held whole: about four times that of the largest published models. */
const MAX_FILE_BYTES = 2 ** 31;

/**
 * Reads an importance matrix in the GGUF form or the older binary one (`.dat`, `.imatrix`), from a path, URL, `Blob` or bytes.
 * Experts that no token reached count all their columns alike.
 * @throws FormatError when the file is none, damaged, or holds values that are no importances.
 */
export async function readImatrix(input: SourceInput, options: OpenOptions = {}): Promise<Imatrix> {
  const source = await openSource(input, options);
  try {
    const start = await source.slice(0, Math.min(MAGIC.length, source.size));
    if (String.fromCharCode(...start) === MAGIC) return await fromGguf(await readGguf(source), source.name);
    return fromRecords(new RecordReader(await wholeFile(source, MAX_FILE_BYTES), source.name));
  } finally {
    await source.close();
  }
}

/** All bytes of a source that is not larger than `limit`. */
export async function wholeFile(source: ByteSource, limit: number): Promise<Uint8Array> {
  if (source.size <= limit) return source.slice(0, source.size);
  throw new FormatError(`${source.name}: expected at most ${limit} bytes, got ${source.size}`);
}

function fromRecords(r: RecordReader): Imatrix {
  const count = r.i32('number of entries', 1, MAX_ENTRIES);
  const entries = new Map<string, ImatrixEntry>();
  for (let i = 0; i < count; i++) {
    const name = r.text(r.i32('name length', 1, MAX_NAME_BYTES));
    const calls = r.i32(`${name}: calls`, 0, 2 ** 31 - 1);
    const values = r.floats(r.i32(`${name}: number of values`, 1, r.left / 4));
    for (let k = 0; k < values.length; k++) values[k] = values[k]! / Math.max(1, calls);
    put(entries, name, { values, experts: 1, counts: [calls] }, r.name);
  }
  // Files of the first versions end here.
  if (r.left === 0) return { entries, datasets: [], chunks: undefined };
  const chunks = r.i32('last chunk', 0, 2 ** 31 - 1);
  const dataset = r.left === 0 ? '' : r.text(r.i32('length of the data set name', 0, MAX_NAME_BYTES));
  r.end();
  return { entries, datasets: dataset ? [dataset] : [], chunks };
}

const SUMS = '.in_sum2';
const COUNTS = '.counts';

async function fromGguf(file: Checkpoint, name: string): Promise<Imatrix> {
  const type = file.metadata.get('general.type');
  if (type !== 'imatrix') {
    const got = type === undefined ? 'a model without that key' : JSON.stringify(type).slice(0, 40);
    throw new FormatError(`${name}: general.type: expected "imatrix", got ${got}`);
  }
  const tensors = sourceTensors(file);
  const entries = new Map<string, ImatrixEntry>();
  for (const [key, sums] of tensors) {
    if (!key.endsWith(SUMS)) continue;
    const matrix = key.slice(0, -SUMS.length);
    const counts = tensors.get(matrix + COUNTS);
    const [experts = 0] = counts?.shape ?? [];
    const columns = sums.shape.at(-1) ?? 0;
    const wanted = sums.shape.reduce((n, d) => n * d, 1) / columns;
    if (!counts || columns === 0 || (counts.shape.reduce((n, d) => n * d, 1) !== wanted && experts !== wanted)) {
      throw new FormatError(
        `${name}: ${matrix}: expected a count for each of ${wanted} rows, got [${counts?.shape ?? ''}]`,
      );
    }
    const [values, rows] = await Promise.all([sums, counts].map((t) => readValues(t, { dequantizeInto })));
    for (let e = 0; e < wanted; e++) {
      const seen = rows![e]!;
      for (let k = e * columns; k < (e + 1) * columns; k++) values![k] = seen > 0 ? values![k]! / seen : 1;
    }
    put(entries, matrix, { values: values!, experts: wanted, counts: [...rows!] }, name);
  }
  const datasets = file.metadata.get('imatrix.datasets');
  const chunks = file.metadata.get('imatrix.chunk_count');
  return {
    entries,
    datasets: Array.isArray(datasets) ? datasets.map(String) : [],
    chunks: typeof chunks === 'number' ? chunks : undefined,
  };
}

function put(entries: Map<string, ImatrixEntry>, name: string, entry: ImatrixEntry, file: string): void {
  if (entries.has(name)) throw new FormatError(`${file}: ${name}: expected one entry, got several`);
  checkImportance(entry.values, `${file}: ${name}`);
  entries.set(name, entry);
}

/** Importances are means of squares. */
export function checkImportance(values: Float32Array, where: string): void {
  for (let k = 0; k < values.length; k++) {
    const value = values[k]!;
    if (value >= 0 && value < Number.POSITIVE_INFINITY) continue;
    throw new FormatError(`${where}: expected finite values ≥ 0, got ${value} in column ${k}; measure it again`);
  }
}
