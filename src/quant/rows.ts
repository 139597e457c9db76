import type { StorageType } from '../core/dtype.ts';
import { FormatError, ShapeError, UnsupportedError, WeightError } from '../core/errors.ts';
import type { QuantFormat, TensorFormat } from './format.ts';
import { quantFormat, quantTypes, tensorFormat } from './registry.ts';

export interface QuantizeOptions {
  /**
   * One weight ≥ 0 per column (mean square of the activations that meet it): errors in heavy columns cost more. Types
   * that cannot use it ignore it, see `usesImportance` in `quantTypes`.
   */
  readonly importance?: Float32Array;
}

function checkRow(what: string, format: QuantFormat, rowLength: number): void {
  const { blockSize, name } = format.type;
  if (Number.isSafeInteger(rowLength) && rowLength > 0 && rowLength % blockSize === 0) return;
  throw new ShapeError(
    `${what} ${name}: expected a row length that is a positive multiple of ${blockSize}, got ${rowLength}` +
      (blockSize > 1 ? '; choose a type with a smaller block, or pad the rows' : ''),
  );
}

/**
 * Decodes `elements` elements of a block format that start at `byteOffset` of `bytes` into `out` from `outOffset` on. Allocates nothing
 * for block formats, so it suits tiles.
 * @throws ShapeError when `elements` is not a whole number of blocks or either array is too short.
 */
export function dequantizeInto(
  type: string | StorageType,
  bytes: Uint8Array,
  byteOffset: number,
  out: Float32Array,
  outOffset: number,
  elements: number,
): void {
  const format = quantFormat(type);
  const { blockSize, blockBytes, name } = format.type;
  const blocks = elements / blockSize;
  if (!Number.isSafeInteger(blocks) || blocks < 0) {
    throw new ShapeError(`dequantize ${name}: expected a multiple of ${blockSize} elements, got ${elements}`);
  }
  if (!(Number.isInteger(byteOffset) && byteOffset >= 0 && byteOffset + blocks * blockBytes <= bytes.length)) {
    throw new ShapeError(
      `dequantize ${name}: expected ${blocks * blockBytes} bytes at offset ${byteOffset}, got an array of ${bytes.length}`,
    );
  }
  if (!(Number.isInteger(outOffset) && outOffset >= 0 && outOffset + elements <= out.length)) {
    throw new ShapeError(
      `dequantize ${name}: expected room for ${elements} elements at offset ${outOffset}, got an array of ${out.length}`,
    );
  }
  format.unpack(bytes, byteOffset, out, outOffset, blocks);
}

/**
 * Decodes whole rows of `rowLength` elements to float32.
 * @throws ShapeError when the row length does not divide into blocks, FormatError when `bytes` is not whole rows.
 */
export function dequantize(type: string, bytes: Uint8Array, rowLength: number): Float32Array<ArrayBuffer> {
  const whole = tensorFormat(type);
  if (whole) return dequantizeTensor(whole, bytes, rowLength);
  const format = quantFormat(type);
  checkRow('dequantize', format, rowLength);
  const { blockSize, blockBytes, name } = format.type;
  const rowBytes = (rowLength / blockSize) * blockBytes;
  if (bytes.length % rowBytes !== 0) {
    throw new FormatError(
      `dequantize ${name}: expected whole rows of ${rowBytes} bytes, got ${bytes.length}; the data is truncated or has another type`,
    );
  }
  const blocks = bytes.length / blockBytes;
  const out = new Float32Array(blocks * blockSize);
  format.unpack(bytes, 0, out, 0, blocks);
  return out;
}

/** The number of rows follows from the number of bytes. */
function dequantizeTensor(format: TensorFormat, bytes: Uint8Array, columns: number): Float32Array<ArrayBuffer> {
  checkColumns('dequantize', format, columns);
  let rows = Math.floor(bytes.length / (format.bytes(LARGE, columns) / LARGE)) + 1;
  while (rows > 0 && format.bytes(rows, columns) > bytes.length) rows--;
  checkElements('dequantize', format, rows * columns);
  if (format.bytes(rows, columns) !== bytes.length) {
    throw new FormatError(
      `dequantize ${format.name}: expected the bytes of whole rows of ${columns}, got ${bytes.length}; the data is truncated or has another type`,
    );
  }
  const out = new Float32Array(rows * columns);
  format.unpack(bytes, rows, columns, out);
  return out;
}

// So many rows that the share of scales in a row is that of any number of rows.
const LARGE = 2 ** 20;

function checkColumns(what: string, format: TensorFormat, columns: number): void {
  if (Number.isSafeInteger(columns) && columns > 0) return;
  throw new ShapeError(`${what} ${format.name}: expected a positive row length, got ${columns}`);
}

function checkElements(what: string, format: TensorFormat, elements: number): void {
  if (elements % format.multiple === 0) return;
  throw new ShapeError(
    `${what} ${format.name}: expected a multiple of ${format.multiple} elements, got ${elements}; choose another type, or pad the matrix`,
  );
}

function quantizeTensor(format: TensorFormat, data: Float32Array, columns: number): Uint8Array<ArrayBuffer> {
  checkColumns('quantize to', format, columns);
  if (data.length % columns !== 0) throw notWholeRows(format.name, data.length, columns);
  checkElements('quantize to', format, data.length);
  for (let start = 0; start < data.length; start += columns) {
    checkValues(format.name, data.subarray(start, start + columns), start / columns, format.largest);
  }
  const out = new Uint8Array(format.bytes(data.length / columns, columns));
  if (data.length) format.pack(data, columns, out);
  return out;
}

function notWholeRows(name: string, elements: number, columns: number): ShapeError {
  return new ShapeError(`quantize to ${name}: expected whole rows of ${columns} elements, got ${elements} elements`);
}

/**
 * Encodes rows of `rowLength` floats with the layout of the format: for types of GGUF files, theirs.
 * @throws ShapeError for lengths that do not fit, WeightError for values that the type cannot hold (not finite, or too
 * large for its scales), UnsupportedError for types that can only be read.
 */
export function quantize(
  type: string,
  data: Float32Array,
  rowLength: number,
  options: QuantizeOptions = {},
): Uint8Array<ArrayBuffer> {
  const whole = tensorFormat(type);
  if (whole) return quantizeTensor(whole, data, rowLength);
  const format = quantFormat(type);
  const { blockSize, blockBytes, name } = format.type;
  if (!format.pack) {
    const writable = quantTypes.filter((t) => t.writable).map((t) => t.name);
    throw new UnsupportedError(`quantize to ${name}: expected a type that can be written (${writable.join(', ')})`, {
      feature: `quantize ${name}`,
    });
  }
  checkRow('quantize to', format, rowLength);
  if (data.length % rowLength !== 0) throw notWholeRows(name, data.length, rowLength);
  const largest = format.largest ?? (format.halves ? MAX_MAGNITUDE : Number.MAX_VALUE);
  const importance = format.usesImportance ? usableImportance(name, rowLength, options.importance) : undefined;
  const rows = data.length / rowLength;
  const rowBytes = (rowLength / blockSize) * blockBytes;
  const bytes = new Uint8Array(rows * rowBytes);
  for (let row = 0; row < rows; row++) {
    const x = data.subarray(row * rowLength, (row + 1) * rowLength);
    const out = bytes.subarray(row * rowBytes, (row + 1) * rowBytes);
    if (!format.nonFinite) checkValues(name, x, row, largest);
    format.pack(x, out, importance);
    checkScales(format, out, row);
  }
  return bytes;
}

// Far beyond what a binary16 scale times a code can reach (3e8), and small enough for the sums of the searches.
const MAX_MAGNITUDE = 1e9;

function checkValues(name: string, x: Float32Array, row: number, largest: number): void {
  for (let column = 0; column < x.length; column++) {
    if (Math.abs(x[column]!) <= largest) continue;
    const limit = largest < Number.MAX_VALUE ? ` up to ${largest}` : '';
    throw new WeightError(
      `quantize to ${name}: expected finite values${limit}, got ${x[column]} in row ${row}, column ${column}; keep this tensor in a float type`,
    );
  }
}

/** A scale beyond the range of binary16 was stored as infinity: the block would decode to infinities and NaN. */
function checkScales(format: QuantFormat, out: Uint8Array, row: number): void {
  const { name, blockSize, blockBytes } = format.type;
  for (const field of format.halves ?? []) {
    for (let at = field; at < out.length; at += blockBytes) {
      if ((out[at + 1]! & 0x7c) !== 0x7c) continue;
      const column = ((at - field) / blockBytes) * blockSize;
      throw new WeightError(
        `quantize to ${name}: expected values whose scale fits 16 bits, got larger ones in row ${row}, columns ${column} to ${column + blockSize - 1}; keep this tensor in a float type`,
      );
    }
  }
}

// Scales are fitted per run of at least 16 columns: without any weight in one, its fit would be 0 / 0.
const RUN = 16;
// Within these bounds no sum of the searches leaves the range of float32.
const MIN_IMPORTANCE = 1e-20;
const MAX_IMPORTANCE = 1e15;

/**
 * Checks an importance vector. Runs of columns that no activation reached count as the least important column that one
 * did reach; a vector of zeros counts as none.
 */
function usableImportance(name: string, rowLength: number, given?: Float32Array): Float32Array | undefined {
  if (!given) return undefined;
  if (given.length !== rowLength) {
    throw new ShapeError(`quantize to ${name}: expected ${rowLength} importance values, got ${given.length}`);
  }
  let least = Number.POSITIVE_INFINITY;
  for (let column = 0; column < rowLength; column++) {
    const value = given[column]!;
    if (!(value >= 0 && value <= MAX_IMPORTANCE)) {
      throw new WeightError(
        `quantize to ${name}: expected importance values from 0 to ${MAX_IMPORTANCE}, got ${value} in column ${column}`,
      );
    }
    if (value >= MIN_IMPORTANCE && value < least) least = value;
  }
  if (least === Number.POSITIVE_INFINITY) return undefined;
  let filled: Float32Array | undefined;
  for (let start = 0; start < rowLength; start += RUN) {
    if (given.subarray(start, start + RUN).some((value) => value >= MIN_IMPORTANCE)) continue;
    filled ??= given.slice();
    filled.fill(least, start, start + RUN);
  }
  return filled ?? given;
}
