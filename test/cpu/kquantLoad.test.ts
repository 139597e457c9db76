import { afterEach, describe, expect, it } from 'vitest';
import { type CpuOptions, createCpuBackend } from '../../src/backends/cpu/index.ts';
import type { Backend, RawSection } from '../../src/core/backend.ts';
import { rowBytes, type StorageTypeName, storageType } from '../../src/core/dtype.ts';
import { Weight } from '../../src/core/weight.ts';
import { dequantize } from '../../src/quant/index.ts';
import { storedRows } from './kquantSupport.ts';
import { random } from './support.ts';

const COLUMNS = 512;
const TYPES: readonly StorageTypeName[] = [
  ...(['Q2_K', 'Q3_K', 'Q4_K', 'Q5_K', 'Q6_K', 'Q8_K', 'IQ1_S', 'IQ1_M', 'IQ2_XXS', 'IQ2_XS', 'IQ2_S'] as const),
  ...(['IQ3_XXS', 'IQ3_S', 'IQ4_XS', 'IQ4_NL', 'TQ1_0', 'TQ2_0', 'MXFP4', 'NVFP4', 'Q1_0', 'Q8_1'] as const),
];

interface Part {
  readonly section: RawSection;
  readonly values: Float32Array;
}

function part(name: StorageTypeName, rows: number, seed: number): Part {
  const type = storageType(name);
  const bytes = storedRows(name, rows, COLUMNS, 'random', seed);
  const row = rowBytes(type, COLUMNS)!;
  return {
    section: {
      type,
      rows,
      readRows: async (first, n, target) => target.set(bytes.subarray(first * row, (first + n) * row)),
    },
    values: dequantize(name, bytes, COLUMNS),
  };
}

async function load(backend: Backend, parts: readonly Part[]) {
  const rows = parts.reduce((n, p) => n + p.section.rows, 0);
  const raw = { name: 'w', shape: [rows, COLUMNS] as const, sections: parts.map((p) => p.section) };
  const w = new Weight('w', raw.shape, await backend.loadWeight(raw));
  return { w, rows, values: Float32Array.from(parts.flatMap((p) => [...p.values])) };
}

const live: Backend[] = [];
afterEach(async () => {
  for (const backend of live.splice(0)) await backend.dispose();
});

describe.each<readonly [string, CpuOptions]>([
  ['two workers', { threads: 2 }],
  ['inline, SIMD128', { inline: true, simd: 'simd' }],
])('weights of every block format: %s', (_, options) => {
  it('are kept in that format, read back exactly and multiplied', async () => {
    const backend = await createCpuBackend(options);
    live.push(backend);
    const next = random(8);
    const merged: StorageTypeName[][] = [['Q4_K', 'Q6_K', 'IQ4_NL', 'IQ2_XS'], ...TYPES.map((name) => [name])];
    for (const names of merged) {
      const { w, rows, values } = await load(
        backend,
        names.map((name, i) => part(name, 11 + i, i + 1)),
      );
      expect(w.data.formats).toEqual(names);
      expect(w.data.bytes).toBeLessThan(values.length * 1.7);
      const ids = Int32Array.from([rows - 1, 0, 7, 8]);
      const out = backend.alloc([4, COLUMNS]);
      backend.ops.gatherRows(out, w, backend.upload(ids, [4]));
      const read = await backend.read(out);
      ids.forEach((id, i) => {
        const got = Array.from(read.slice(i * COLUMNS, (i + 1) * COLUMNS), (v) => v + 0);
        expect(got).toEqual(Array.from(values.slice(id * COLUMNS, (id + 1) * COLUMNS), (v) => v + 0));
      });
      const tokens = 6;
      const x = Float32Array.from({ length: tokens * COLUMNS }, () => next() - 0.5);
      const y = backend.alloc([tokens, rows]);
      backend.ops.linear(y, backend.upload(x, [tokens, COLUMNS]), w, {});
      const result = (await backend.read(y)) as Float32Array;
      let difference = 0;
      let norm = 0;
      for (let t = 0; t < tokens; t++) {
        for (let r = 0; r < rows; r++) {
          let sum = 0;
          for (let k = 0; k < COLUMNS; k++) sum += x[t * COLUMNS + k]! * values[r * COLUMNS + k]!;
          difference += (result[t * rows + r]! - sum) ** 2;
          norm += sum ** 2;
        }
      }
      expect(Math.sqrt(difference / norm), names.join()).toBeLessThan(0.02);
      for (const t of [out, y, w]) t.dispose();
    }
  });

  it('serve experts', async () => {
    const backend = await createCpuBackend(options);
    live.push(backend);
    const [features, expertCount, rows, perRow] = [16, 3, 9, 2];
    const next = random(3);
    for (const name of ['Q4_K', 'Q6_K', 'IQ3_S', 'MXFP4', 'NVFP4'] as const) {
      const { w, values } = await load(backend, [part(name, features * expertCount, 5)]);
      const x = Float32Array.from({ length: rows * COLUMNS }, () => next() - 0.5);
      const chosen = Int32Array.from({ length: rows * perRow }, (_, p) => (p * p + 1) % expertCount);
      const y = backend.alloc([rows * perRow, features]);
      const ids = backend.upload(chosen, [rows, perRow]);
      backend.ops.linearExperts?.(y, backend.upload(x, [rows, COLUMNS]), w, ids, expertCount);
      const result = (await backend.read(y)) as Float32Array;
      let difference = 0;
      let norm = 0;
      result.forEach((value, i) => {
        const pair = Math.floor(i / features);
        const row = (chosen[pair]! * features + (i % features)) * COLUMNS;
        const input = Math.floor(pair / perRow) * COLUMNS;
        let sum = 0;
        for (let k = 0; k < COLUMNS; k++) sum += x[input + k]! * values[row + k]!;
        difference += (value - sum) ** 2;
        norm += sum ** 2;
      });
      expect(Math.sqrt(difference / norm), name).toBeLessThan(0.02);
      for (const t of [y, w]) t.dispose();
    }
  });
});
