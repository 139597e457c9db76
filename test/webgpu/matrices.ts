/** Stored matrices for tests of the products, and what double precision makes of them. */
import { expect } from 'vitest';
import type { Backend, RawSection } from '../../src/core/backend.ts';
import { rowBytes, type StorageTypeName, storageType } from '../../src/core/dtype.ts';
import type { Tensor } from '../../src/core/tensor.ts';
import { Weight } from '../../src/core/weight.ts';
import { dequantize, quantize, quantTypes } from '../../src/quant/index.ts';
import { Random } from '../conformance/random.ts';
import { fixture } from '../quant/fixture.ts';

export interface Matrix {
  readonly type: StorageTypeName;
  readonly rows: number;
  readonly columns: number;
  readonly bytes: Uint8Array;
  readonly values: Float32Array;
}

const dequantFixture = fixture('ggml_dequant.safetensors');

/** Stored rows of a type: quantized random numbers, or for types that are only read, random bytes with tame scales. */
export function matrix(type: StorageTypeName, rows: number, columns: number, seed: number): Matrix {
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

export function sectionOf(m: Matrix): RawSection {
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

export async function loadMatrices(backend: Backend, parts: readonly Matrix[]): Promise<Weight> {
  const rows = parts.reduce((n, m) => n + m.rows, 0);
  const shape = [rows, (parts[0] as Matrix).columns] as const;
  const raw = { name: 'test.weight', shape, sections: parts.map(sectionOf) };
  return new Weight(raw.name, shape, await backend.loadWeight(raw));
}

/** `x Wᵀ` for rows of `x`, by row of the result. */
export function product(x: Float32Array, parts: readonly Matrix[], columns: number): Float32Array {
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
export async function resultOn(backend: Backend, run: () => Tensor): Promise<Float32Array> {
  let out: Tensor | undefined;
  backend.scope(() => {
    out = run();
  });
  return (await (out as Tensor).read()) as Float32Array;
}
