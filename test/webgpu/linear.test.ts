/** Matrix products over every stored format, against double precision over the dequantized numbers. */
import { afterAll, describe, expect, it } from 'vitest';
import type { WebGpuBackend } from '../../src/backends/webgpu/index.ts';
import type { RawSection } from '../../src/core/backend.ts';
import { rowBytes, STORAGE_TYPES, type StorageTypeName, storageType } from '../../src/core/dtype.ts';
import * as ops from '../../src/core/ops.ts';
import type { Tensor } from '../../src/core/tensor.ts';
import { Weight } from '../../src/core/weight.ts';
import { dequantize, quantize, quantTypes } from '../../src/quant/index.ts';
import { nmse } from '../conformance/compare.ts';
import { Random } from '../conformance/random.ts';
import { fixture } from '../quant/fixture.ts';
import { openWebGpu } from './support.ts';

const opened = await openWebGpu();
if (typeof opened === 'string') console.warn(`WebGPU matrix products skipped: ${opened}`);
const gpu = opened as WebGpuBackend;
const suite = typeof opened === 'string' ? describe.skip : describe;

const EXACT = 1e-11;

interface Matrix {
  readonly type: StorageTypeName;
  readonly rows: number;
  readonly columns: number;
  readonly bytes: Uint8Array;
  readonly values: Float32Array;
}

const dequantFixture = fixture('ggml_dequant.safetensors');

/** Stored rows of a type: quantized random numbers, or for types that are only read, random bytes with tame scales. */
function matrix(type: StorageTypeName, rows: number, columns: number, seed: number): Matrix {
  const values = new Random(seed).normals(rows * columns, 1 / Math.sqrt(columns));
  const { writable } = quantTypes.find((t) => t.name === type) ?? { writable: false };
  const bytes = writable ? quantize(type, values, columns) : repeated(type, rows, columns);
  return { type, rows, columns, bytes, values: dequantize(type, bytes, columns) };
}

/** Blocks of a file written elsewhere, over and over. */
function repeated(type: StorageTypeName, rows: number, columns: number): Uint8Array {
  const length = rows * (rowBytes(storageType(type), columns) as number);
  const { blockBytes } = storageType(type);
  const blocks = dequantFixture.bytes(`${type}.raw`);
  const whole = blocks.length - (blocks.length % blockBytes);
  return Uint8Array.from({ length }, (_, i) => blocks[i % whole] as number);
}

function sectionOf(m: Matrix): RawSection {
  const stored = rowBytes(storageType(m.type), m.columns) as number;
  return {
    type: storageType(m.type),
    rows: m.rows,
    readRows: async (first, count, target) => {
      expect(target.length).toBe(count * stored);
      target.set(m.bytes.subarray(first * stored, (first + count) * stored));
    },
  };
}

async function load(parts: readonly Matrix[], backend = gpu): Promise<Weight> {
  const rows = parts.reduce((n, m) => n + m.rows, 0);
  const shape = [rows, (parts[0] as Matrix).columns] as const;
  const raw = { name: 'test.weight', shape, sections: parts.map(sectionOf) };
  return new Weight(raw.name, shape, await backend.loadWeight(raw));
}

/** `x Wᵀ` for rows of `x`, by row of the result. */
function product(x: Float32Array, parts: readonly Matrix[], columns: number): Float32Array {
  const features = parts.reduce((n, m) => n + m.rows, 0);
  const rows = x.length / columns;
  const out = new Float32Array(rows * features);
  let first = 0;
  for (const m of parts) {
    for (let r = 0; r < rows; r++) {
      for (let o = 0; o < m.rows; o++) {
        let sum = 0;
        for (let c = 0; c < columns; c++) sum += (x[r * columns + c] as number) * (m.values[o * columns + c] as number);
        out[r * features + first + o] = sum;
      }
    }
    first += m.rows;
  }
  return out;
}

/** Runs ops in a scope and reads one result. */
async function result(run: () => Tensor): Promise<Float32Array> {
  let out: Tensor | undefined;
  gpu.scope(() => {
    out = run();
  });
  return (await (out as Tensor).read()) as Float32Array;
}

/** Every type of GGUF files that holds weights, and a few of other files. */
const types = [...STORAGE_TYPES.values()]
  .filter((t) => t.blockSize > 1 && t.ggml !== undefined)
  .map((t) => t.name)
  .concat(['F32', 'F16', 'BF16', 'F64', 'F8_E4M3', 'I8']);

suite('linear over stored formats', () => {
  afterAll(async () => {
    expect(gpu.memory().persistent).toBe(0);
    await gpu.dispose();
  });

  for (const type of types) {
    it(type, async () => {
      const { blockSize } = storageType(type);
      const columns = blockSize === 1 ? 67 : 3 * Math.max(blockSize, 32);
      const m = matrix(type, 70, columns, 1);
      const w = await load([m]);
      for (const rows of [1, 2, 5, 8, 9, 33, 65]) {
        const x = new Random(rows).normals(rows * columns);
        const from = gpu.upload(x, [rows, columns]);
        const got = await result(() => ops.linear(from, w));
        expect(nmse(got, product(x, [m], columns)), `${rows} rows`).toBeLessThan(EXACT);
        from.dispose();
      }
      w.dispose();
    });
  }
});
