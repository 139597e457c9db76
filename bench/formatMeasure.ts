/** Errors and speeds of one storage type. */
import type { Backend, RawWeight } from '../src/core/backend.ts';
import type { StorageType } from '../src/core/dtype.ts';
import { type StorageTypeName, storageType } from '../src/core/dtype.ts';
import { groupedRow, groupedType } from '../src/core/grouped.ts';
import { linear } from '../src/core/ops.ts';
import type { Tensor } from '../src/core/tensor.ts';
import { Weight } from '../src/core/weight.ts';
import { dequantize, quantFormat, quantize } from '../src/quant/index.ts';
import type { Entry, Speed } from './formatTable.ts';

/** Rows of a matrix, and how many of them differ: their bytes are repeated, which no kernel can notice. */
const ROWS = 1024;
const DISTINCT = 32;
/** Rows of activations that are multiplied together. */
const MANY = 256;
/** Random blocks are drawn until they decode to numbers no larger. */
const TAME = 100;
const MAX_DRAWS = 10_000;

/** A stored matrix. */
export interface StoredMatrix {
  readonly type: StorageType;
  readonly columns: number;
  /** Bytes of the distinct rows. */
  readonly bytes: Uint8Array;
  /** What they stand for. */
  readonly values: Float32Array;
}

/** Numbers of a normal distribution, the same for the same seed (Box–Muller). */
export function normals(length: number, seed: number): Float32Array<ArrayBuffer> {
  const uniform = uniforms(seed);
  return Float32Array.from(
    { length },
    () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()),
  );
}

/** In [0, 1): a linear generator whose upper bits are used. */
function uniforms(seed: number): () => number {
  let state = Math.imul(seed + 1, 2654435761) >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 8) / 2 ** 24;
  };
}

const weightsOf = (columns: number) => normals(DISTINCT * columns, 1);
const activationsOf = (rows: number, columns: number) => normals(rows * columns, 2);

/** What quantization does to normal numbers, and to their product with a row of normal numbers; of types that are written. */
export function storedErrors(
  { name, writable }: Entry,
  columns: number,
): { readonly weightError: number | undefined; readonly productError: number | undefined } {
  if (!writable) return { weightError: undefined, productError: undefined };
  const x = weightsOf(columns);
  const y = dequantize(name, quantize(name, x, columns), columns);
  const row = activationsOf(1, columns);
  return { weightError: relative(y, x), productError: relative(product(row, y), product(row, x)) };
}

/** Rows as a back-end gets them: written, or for types that are only read, random. */
export function matrixOf({ name, writable, grouping }: Entry, columns: number): StoredMatrix {
  const type = grouping ? groupedType(grouping, columns) : storageType(name as StorageTypeName);
  const bytes = writable && !grouping ? quantize(name, weightsOf(columns), columns) : randomRows(type, columns);
  const values = new Float32Array(DISTINCT * columns);
  quantFormat(type).unpack(bytes, 0, values, 0, values.length / type.blockSize);
  return { type, columns, bytes, values };
}

function randomRows(type: StorageType, columns: number): Uint8Array {
  const uniform = uniforms(3);
  if (type.name === 'F64') return new Uint8Array(Float64Array.from(weightsOf(columns)).buffer);
  const { unpack } = quantFormat(type);
  const blocks = (DISTINCT * columns) / type.blockSize;
  const out = new Uint8Array(blocks * type.blockBytes);
  const values = new Float32Array(type.blockSize);
  let draws = 0;
  for (let block = 0; block < blocks; ) {
    const bytes = out.subarray(block * type.blockBytes, (block + 1) * type.blockBytes);
    // Of integers wider than a byte, small ones.
    const drawn = type.blockSize === 1 ? 1 : bytes.length;
    for (let i = 0; i < drawn; i++) bytes[i] = 256 * uniform();
    if (type.grouping) tameGroups(type, columns, bytes, uniform);
    unpack(bytes, 0, values, 0, 1);
    if (++draws > MAX_DRAWS) throw new Error(`${type.name}: no block of random bytes is a number`);
    if (!values.every((v) => Math.abs(v) <= TAME)) continue;
    block++;
    draws = 0;
  }
  return out;
}

/** Small scales, biases and group numbers that exist, and no code that is no number. */
function tameGroups(type: StorageType, columns: number, bytes: Uint8Array, uniform: () => number): void {
  const { grouping } = type;
  if (!grouping) return;
  const layout = groupedRow(grouping, columns);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let g = 0; g < layout.groups; g++) {
    view.setFloat32(4 * g, 0.01 + 0.01 * uniform(), true);
    if (grouping.bias) view.setFloat32(layout.biases + 4 * g, -0.1 * uniform(), true);
  }
  if (grouping.indexed) {
    // The columns of a matrix belong to the same groups in every row.
    for (let c = 0; c < columns; c++) view.setUint16(layout.index + 2 * c, (c * 7) % layout.groups, true);
  }
  if (grouping.code !== 'e4m3') return;
  for (let i = layout.codes; i < bytes.length; i++) if ((bytes[i]! & 127) === 127) bytes[i] = 0;
}

export interface SpeedOptions {
  readonly rounds: number;
  /** Bytes of distinct matrices together, so that they come from memory. */
  readonly streamBytes: number;
}

/** Loads copies of a matrix and multiplies with them. Throws what the back-end throws for types it does not run. */
export async function measureSpeed(backend: Backend, m: StoredMatrix, options: SpeedOptions): Promise<Speed> {
  const weights: Weight[] = [];
  const x = backend.persistent([MANY, m.columns], 'f32');
  try {
    const first = await load(backend, m, 'weight 0');
    weights.push(first);
    const { bytes } = first.data;
    const copies = Math.max(1, Math.ceil(options.streamBytes / bytes));
    for (let i = 1; i < copies; i++) weights.push(await load(backend, m, `weight ${i}`));
    backend.write(x, activationsOf(MANY, m.columns));
    const one = x.rows(0, 1);
    const values = await run(backend, one, [first]);
    const expected = product(activationsOf(1, m.columns), m.values);
    const productError = relative(values.subarray(0, DISTINCT), expected);
    const decode = await median(options.rounds, () => run(backend, one, weights));
    const prefill = await median(options.rounds, () => run(backend, x, [first]));
    return {
      heldBits: (8 * bytes) / (ROWS * m.columns),
      gbps: (bytes * copies) / decode / 1e9,
      gflops: (2 * ROWS * m.columns * MANY) / prefill / 1e9,
      productError,
    };
  } finally {
    for (const weight of weights) weight.dispose();
    backend.free(x);
  }
}

async function load(backend: Backend, m: StoredMatrix, name: string): Promise<Weight> {
  const shape = [ROWS, m.columns] as const;
  const row = m.bytes.length / DISTINCT;
  const raw: RawWeight = {
    name,
    shape,
    sections: [
      {
        type: m.type,
        rows: ROWS,
        readRows: async (first, count, target) => {
          for (let r = 0; r < count; r++) {
            const from = ((first + r) % DISTINCT) * row;
            target.set(m.bytes.subarray(from, from + row), r * row);
          }
        },
      },
    ],
  };
  return new Weight(name, shape, await backend.loadWeight(raw));
}

/** Multiplies with every weight and waits for the last product. */
async function run(backend: Backend, x: Tensor, weights: readonly Weight[]): Promise<Float32Array> {
  let out: Tensor | undefined;
  backend.scope(() => {
    for (const weight of weights) out = linear(x, weight);
  });
  return (await (out as Tensor).read()) as Float32Array;
}

/** Median seconds, after one run that is not counted. */
async function median(rounds: number, once: () => Promise<unknown>): Promise<number> {
  await once();
  const seconds: number[] = [];
  for (let i = 0; i < rounds; i++) {
    const start = performance.now();
    await once();
    seconds.push((performance.now() - start) / 1000);
  }
  return seconds.sort((a, b) => a - b)[rounds >> 1] as number;
}

/** One row times the rows of a matrix, in double precision. */
function product(x: Float32Array, w: Float32Array): Float64Array {
  const out = new Float64Array(w.length / x.length);
  for (let o = 0; o < out.length; o++) {
    let sum = 0;
    for (let c = 0; c < x.length; c++) sum += x[c]! * w[o * x.length + c]!;
    out[o] = sum;
  }
  return out;
}

/** Root of the mean square of the difference, over that of `b`. */
function relative(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [error, size] = [0, 0];
  for (let i = 0; i < b.length; i++) {
    error += (a[i]! - b[i]!) ** 2;
    size += b[i]! ** 2;
  }
  return Math.sqrt(error / size);
}
