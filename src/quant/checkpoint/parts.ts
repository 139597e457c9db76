/** What the readers of quantized checkpoints share. */
import type { StorageType } from '../../core/dtype.ts';
import { ConfigError, FormatError } from '../../core/errors.ts';
import { codeBits, type Grouping, groupedRow, groupedType, MAX_INDEXED_GROUPS } from '../../core/grouped.ts';
import { isRecord } from '../../core/schema.ts';
import { type Shape, sizeOf } from '../../core/tensor.ts';
import { readValues, type SourceTensor, storedRowBytes, type WeightSource } from '../../core/weights.ts';
import { dequantizeInto } from '../rows.ts';

/** A row as a reader fills it: scales and biases of its groups, and one code per column. */
export interface RowParts {
  readonly scales: Float32Array;
  readonly biases: Float32Array;
  readonly codes: Uint8Array;
}

/** Fills the parts of rows `[first, first + rows)`, one after the other, and calls `done` after each. */
export type ReadRows = (first: number, rows: number, row: RowParts, done: () => void) => Promise<void> | void;

/** A matrix that is put together from tensors of a checkpoint. */
export interface Assembled {
  readonly name: string;
  readonly order: number;
  /** The last axis is the row. */
  readonly shape: Shape;
  readonly grouping: Grouping;
  /** Group of each column of indexed rows. */
  readonly index?: Uint16Array | undefined;
  /** Reads what all rows need (scales, transposed codes); it is let go when the last row has been read. */
  prepare(): Promise<ReadRows>;
}

/** Collects what a reader replaces. */
export class Replaced {
  readonly source: WeightSource;
  readonly #tensors = new Map<string, SourceTensor>();
  readonly #hidden = new Set<string>();
  /** Equal types are one object, so that back-ends join neighbouring matrices. */
  readonly #types = new Map<string, StorageType>();

  constructor(source: WeightSource) {
    this.source = source;
  }

  /** A tensor that must be there; it does not count as a weight of its own any more. */
  take(name: string): SourceTensor {
    const t = this.source.get(name);
    if (!t) throw new FormatError(`checkpoint: expected a tensor "${name}", got none; the download is incomplete`);
    this.#hidden.add(name);
    return t;
  }

  /** The same for one that may be missing. */
  optional(name: string): SourceTensor | undefined {
    return this.source.get(name) && this.take(name);
  }

  /** Tensors that inference does not need. */
  hide(pattern: RegExp): void {
    for (const name of this.source.names()) if (pattern.test(name)) this.#hidden.add(name);
  }

  /** Names of modules that have a tensor with this suffix. */
  modules(suffix: string): string[] {
    return [...this.source.names()].filter((n) => n.endsWith(suffix)).map((n) => n.slice(0, -suffix.length));
  }

  add(a: Assembled): void {
    this.put(assembled(a, (columns) => this.#type(a.grouping, columns)));
  }

  put(t: SourceTensor): void {
    this.#tensors.set(t.name, t);
    this.#hidden.delete(t.name);
  }

  /** The checkpoint as models read it. */
  result(): WeightSource {
    const tensors = this.#tensors;
    const hidden = this.#hidden;
    const { source } = this;
    return {
      get: (name) => tensors.get(name) ?? (hidden.has(name) ? undefined : source.get(name)),
      *names() {
        yield* tensors.keys();
        for (const name of source.names()) if (!hidden.has(name) && !tensors.has(name)) yield name;
      },
    };
  }

  #type(g: Grouping, columns: number): StorageType {
    const key = `${g.label} ${g.code} ${g.group} ${g.bias} ${g.indexed} ${columns}`;
    let type = this.#types.get(key);
    if (!type) {
      type = groupedType(g, columns);
      this.#types.set(key, type);
    }
    return type;
  }
}

function assembled(a: Assembled, typeOf: (columns: number) => StorageType): SourceTensor {
  const columns = a.shape.at(-1) ?? 0;
  const total = columns ? sizeOf(a.shape) / columns : 0;
  const layout = groupedRow(a.grouping, columns);
  if (a.grouping.indexed && a.grouping.group > MAX_INDEXED_GROUPS) {
    throw new FormatError(`${a.name}: expected at most ${MAX_INDEXED_GROUPS} groups, got ${a.grouping.group}`);
  }
  let reading: Promise<ReadRows> | undefined;
  return {
    ...{ name: a.name, order: a.order, shape: a.shape, type: typeOf(columns) },
    async readRows(first, rows, target) {
      if (!(first >= 0 && rows >= 0 && first + rows <= total)) {
        throw new FormatError(`${a.name}: expected rows below ${total}, got ${first} to ${first + rows}`);
      }
      reading ??= a.prepare();
      const read = await reading;
      const parts: RowParts = {
        scales: new Float32Array(layout.groups),
        biases: new Float32Array(a.grouping.bias ? layout.groups : 0),
        codes: new Uint8Array(columns),
      };
      const view = new DataView(target.buffer, target.byteOffset, target.byteLength);
      let row = first;
      await read(first, rows, parts, () => {
        checkScales(a.name, row, parts);
        putRow(a, columns, parts, target, view, (row - first) * layout.bytes);
        row++;
      });
      if (first + rows === total) reading = undefined;
    },
  };
}

function putRow(a: Assembled, columns: number, p: RowParts, target: Uint8Array, view: DataView, at: number): void {
  const layout = groupedRow(a.grouping, columns);
  for (let i = 0; i < p.scales.length; i++) view.setFloat32(at + 4 * i, p.scales[i]!, true);
  for (let i = 0; i < p.biases.length; i++) view.setFloat32(at + layout.biases + 4 * i, p.biases[i]!, true);
  if (a.index) for (let k = 0; k < columns; k++) view.setUint16(at + layout.index + 2 * k, a.index[k]!, true);
  const codes = at + layout.codes;
  if (codeBits(a.grouping.code) === 8) target.set(p.codes, codes);
  else for (let k = 0; k < columns; k += 2) target[codes + (k >> 1)] = p.codes[k]! | (p.codes[k + 1]! << 4);
}

function checkScales(name: string, row: number, p: RowParts): void {
  for (const values of [p.scales, p.biases]) {
    for (let i = 0; i < values.length; i++) {
      if (Number.isFinite(values[i]!)) continue;
      throw new FormatError(
        `${name}: expected finite scales, got ${values[i]} in row ${row}; the file is damaged: get it again`,
      );
    }
  }
}

/**
 * Unsigned codes of `bits` bits under groups of `group` columns, with biases. Two codes share a byte where neither the row
 * nor a group ends between them.
 */
export function affine(label: string, bits: number, columns: number, group: number, index?: Uint16Array): Grouping {
  const halves = bits <= 4 && columns % 2 === 0 && (index !== undefined || group >= columns || group % 2 === 0);
  return { label, code: halves ? 'u4' : 'u8', group, bias: true, indexed: index !== undefined };
}

/** All values of a tensor as floats. */
export function floatsOf(t: SourceTensor): Promise<Float32Array> {
  return readValues(t, { dequantizeInto });
}

/** Rows of a tensor of floats. */
export async function rowFloats(t: SourceTensor, first: number, rows: number): Promise<Float32Array> {
  const values = new Float32Array(rows * (t.shape.at(-1) ?? 1));
  dequantizeInto(t.type, await bytesOf(t, first, rows), 0, values, 0, values.length);
  return values;
}

/** Rows of a tensor as they are stored. */
export async function bytesOf(t: SourceTensor, first = 0, rows = rowsOf(t)): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(rows * storedRowBytes(t));
  await t.readRows(first, rows, bytes);
  return bytes;
}

/** All words of a tensor of 32-bit integers. */
export async function wordsOf(t: SourceTensor): Promise<Int32Array> {
  return new Int32Array((await bytesOf(t)).buffer);
}

export function rowsOf(t: SourceTensor): number {
  const width = t.shape.at(-1) ?? 1;
  return width ? sizeOf(t.shape) / width : 0;
}

export function checkTensor(t: SourceTensor, type: string, shape: Shape): void {
  if (t.type.name === type && t.shape.length === shape.length && t.shape.every((n, i) => n === shape[i])) return;
  throw new FormatError(
    `tensor "${t.name}": expected ${type} [${shape}], got ${t.type.name} [${t.shape}]; the quantization settings and the weights disagree`,
  );
}

/** A whole number of the settings. */
export function integer(settings: Readonly<Record<string, unknown>>, key: string, fallback: number): number {
  const value = settings[key] ?? fallback;
  if (typeof value === 'number' && Number.isSafeInteger(value)) return value;
  throw new ConfigError(`quantization_config.${key}: expected a whole number, got ${JSON.stringify(value)}`);
}

export function record(value: unknown): Readonly<Record<string, unknown>> {
  return isRecord(value) ? value : {};
}
