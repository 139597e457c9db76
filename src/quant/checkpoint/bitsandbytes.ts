import { FormatError, UnsupportedError } from '../../core/errors.ts';
import { isRecord } from '../../core/schema.ts';
import type { SourceTensor } from '../../core/weights.ts';
import { CODE_VALUES } from '../codes.ts';
import { addScaled } from './fp8.ts';
import { bytesOf, checkTensor, floatsOf, integer, type Replaced, rowsOf } from './parts.ts';

const STATE = '.quant_state.bitsandbytes__';
/** What the state says takes a few hundred bytes. */
const MAX_STATE_BYTES = 65_536;
/** Books are stored with every matrix, as binary32 numbers. */
const BOOK_TOLERANCE = 1e-6;
/** Narrower groups would take more room for scales than for codes. */
const MIN_GROUP = 8;

/**
 * bitsandbytes. NF4 and FP4: `book[q] · absmax`, codes two to a byte, the first in the high half, under one maximum for each
 * `blocksize` elements, counted across the ends of rows; maxima may be bytes into a second book under maxima of their own.
 * 8 bits: signed bytes times `SCB / 127` of their row.
 */
export async function readBitsandbytes(r: Replaced): Promise<void> {
  for (const name of [...r.source.names()]) {
    const at = name.indexOf(STATE);
    if (at >= 0) await addBook(r, name.slice(0, at), name.slice(at + STATE.length));
  }
  for (const module of r.modules('.SCB')) addBytes(r, module);
  r.hide(/\.weight_format$/);
}

function addBytes(r: Replaced, module: string): void {
  const weight = r.take(`${module}.weight`);
  const scale = r.take(`${module}.SCB`);
  checkTensor(weight, 'I8', weight.shape);
  const largest: SourceTensor = {
    ...scale,
    async readRows(first, rows, target) {
      await scale.readRows(first, rows, target);
      const values = new DataView(target.buffer, target.byteOffset, target.byteLength);
      for (let at = 0; at < target.length; at += 4) values.setFloat32(at, values.getFloat32(at, true) / 127, true);
    },
  };
  checkTensor(scale, 'F32', scale.shape);
  addScaled(r, weight, largest, { label: 'INT8', code: 'i8', block: [1, weight.shape.at(-1) ?? 1] });
}

async function addBook(r: Replaced, name: string, kind: string): Promise<void> {
  const stateName = `${name}${STATE}${kind}`;
  if (kind !== 'nf4' && kind !== 'fp4') {
    throw new UnsupportedError(`tensor "${stateName}": expected nf4 or fp4, got ${kind}`, { feature: kind });
  }
  const state = await stateOf(r.take(stateName));
  const weight = r.take(name);
  const maxima = r.take(`${name}.absmax`);
  const book = r.take(`${name}.quant_map`);
  const nested = r.optional(`${name}.nested_absmax`);
  const nestedBook = r.optional(`${name}.nested_quant_map`);
  const shape = state['shape'];
  const [out, columns] = Array.isArray(shape) && shape.length === 2 ? (shape as [unknown, unknown]) : [0, 0];
  const block = integer(state, 'blocksize', 64);
  if (!isCount(out) || !isCount(columns) || !isCount(block)) {
    throw new FormatError(
      `tensor "${stateName}": expected a shape of two numbers and a blocksize, got ${JSON.stringify(state)}`,
    );
  }
  const blocks = Math.ceil((out * columns) / block);
  if (weight.type.name !== 'U8' || rowsOf(weight) * (weight.shape.at(-1) ?? 1) !== Math.ceil((out * columns) / 2)) {
    throw new FormatError(
      `tensor "${name}": expected the bytes of [${out},${columns}] codes, got ${weight.type.name} [${weight.shape}]`,
    );
  }
  checkTensor(maxima, nested ? 'U8' : 'F32', [blocks]);
  await checkBook(book, kind);
  const group = commonDivisor(columns, block);
  if (columns % 2 !== 0 || (group < MIN_GROUP && group !== columns)) {
    throw new UnsupportedError(`tensor "${name}": expected rows of whole parts of ${block} elements, got ${columns}`, {
      feature: `${kind} rows of ${columns}`,
    });
  }
  r.add({
    name,
    order: weight.order,
    shape: [out, columns],
    grouping: { label: kind.toUpperCase(), code: kind, group, bias: false, indexed: false },
    async prepare() {
      const scales = nested && nestedBook ? await unnested(maxima, nested, nestedBook, state) : await floatsOf(maxima);
      return async (first, rows, row, done) => {
        // Codes may lie in the file as one row, or one to a row.
        const bytes = await slice(weight, (first * columns) / 2, (rows * columns) / 2);
        for (let o = first; o < first + rows; o++) {
          for (let g = 0; g < row.scales.length; g++) {
            row.scales[g] = scales[Math.floor((o * columns + g * group) / block)]!;
          }
          const at = ((o - first) * columns) / 2;
          for (let k = 0; k < columns; k += 2) {
            const pair = bytes[at + k / 2]!;
            row.codes[k] = pair >> 4;
            row.codes[k + 1] = pair & 15;
          }
          done();
        }
      };
    },
  });
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value > 0;
}

function commonDivisor(a: number, b: number): number {
  return b === 0 ? a : commonDivisor(b, a % b);
}

async function stateOf(t: SourceTensor): Promise<Readonly<Record<string, unknown>>> {
  if (t.type.name !== 'U8' || t.shape.length !== 1 || (t.shape[0] ?? 0) > MAX_STATE_BYTES) {
    throw new FormatError(
      `tensor "${t.name}": expected up to ${MAX_STATE_BYTES} bytes of JSON, got ${t.type.name} [${t.shape}]`,
    );
  }
  const text = new TextDecoder().decode(await bytesOf(t));
  try {
    const state: unknown = JSON.parse(text);
    if (isRecord(state)) return state;
  } catch {
    // Told below.
  }
  throw new FormatError(`tensor "${t.name}": expected a JSON object, got ${text.slice(0, 60)}`);
}

async function checkBook(t: SourceTensor, kind: 'nf4' | 'fp4'): Promise<void> {
  const known = CODE_VALUES[kind];
  checkTensor(t, 'F32', [known.length]);
  const book = await floatsOf(t);
  if (book.every((v, i) => Math.abs(v - known[i]!) <= BOOK_TOLERANCE)) return;
  throw new UnsupportedError(`tensor "${t.name}": expected the numbers of ${kind}, got others`, {
    feature: `${kind} books`,
  });
}

/** Maxima out of a book of 256 numbers, times maxima of their own, plus what was subtracted from all. */
async function unnested(
  codes: SourceTensor,
  maxima: SourceTensor,
  book: SourceTensor,
  state: Readonly<Record<string, unknown>>,
): Promise<Float32Array> {
  const block = integer(state, 'nested_blocksize', 256);
  const offset = state['nested_offset'] ?? 0;
  const bytes = await bytesOf(codes);
  checkTensor(book, 'F32', [256]);
  checkTensor(maxima, 'F32', [Math.ceil(bytes.length / block)]);
  if (typeof offset !== 'number') {
    throw new FormatError(`tensor "${codes.name}": nested_offset: expected a number, got ${JSON.stringify(offset)}`);
  }
  const [scale, value] = await Promise.all([floatsOf(maxima), floatsOf(book)]);
  return Float32Array.from(bytes, (code, i) => Math.fround(value[code]! * scale[Math.floor(i / block)]!) + offset);
}

/** Bytes of a U8 tensor, whatever its shape. */
async function slice(t: SourceTensor, start: number, count: number): Promise<Uint8Array> {
  const width = t.shape.at(-1) ?? 1;
  const first = Math.floor(start / width);
  const end = Math.ceil((start + count) / width);
  const bytes = await bytesOf(t, first, end - first);
  return bytes.subarray(start - first * width, start - first * width + count);
}
