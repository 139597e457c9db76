/** Errors of what is written, against the errors that the reference implementation leaves on data of the same kind. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { normals } from '../../bench/formatMeasure.ts';
import { dequantize, quantize, quantTypes } from '../../src/quant/index.ts';

/** Root mean square errors on 256 × 1024 normal numbers: without importance, with it, and weighted by it. */
const errors = JSON.parse(
  readFileSync(new URL('../fixtures/quant/ggml_rmse.json', import.meta.url), 'utf8'),
) as Readonly<Record<string, { readonly rmse: number; readonly importance?: number; readonly weighted?: number }>>;
const written = Object.keys(errors).filter((name) => quantTypes.some((t) => t.name === name && t.writable));

const [ROWS, COLUMNS] = [96, 1024];
const ALLOWED = 1.1;
const x = normals(ROWS * COLUMNS, 7);
// Gamma with shape 1/2: the square of a normal number.
const importance = normals(COLUMNS, 8).map((v) => v * v + 1e-3);

function rms(bytes: Uint8Array, name: string, data: Float32Array, columns: number, weights?: Float32Array): number {
  const y = dequantize(name, bytes, columns);
  let [sum, total] = [0, 0];
  for (let i = 0; i < data.length; i++) {
    const weight = weights?.[i % columns] ?? 1;
    sum += weight * (y[i]! - data[i]!) ** 2;
    total += weight;
  }
  return Math.sqrt(sum / total);
}

describe('errors of quantization', () => {
  it('are known for every kind of block', () => {
    expect(written).toEqual(expect.arrayContaining(['Q4_0', 'Q2_K', 'Q6_K', 'IQ4_NL', 'IQ4_XS', 'MXFP4', 'NVFP4']));
    expect(written.length).toBeGreaterThan(14);
  });

  it.each(written)('%s: no larger than those of the reference implementation', (name) => {
    const { rmse, importance: withImportance, weighted } = errors[name]!;
    const plain = rms(quantize(name, x, COLUMNS), name, x, COLUMNS);
    expect(plain).toBeLessThanOrEqual(rmse * ALLOWED);
    // A bound that anything passes would be none.
    expect(plain).toBeGreaterThan(rmse / ALLOWED);
    if (withImportance === undefined || weighted === undefined) return;
    const bytes = quantize(name, x, COLUMNS, { importance });
    expect(rms(bytes, name, x, COLUMNS)).toBeLessThanOrEqual(withImportance * ALLOWED);
    expect(rms(bytes, name, x, COLUMNS, importance)).toBeLessThanOrEqual(weighted * ALLOWED);
  });
});
