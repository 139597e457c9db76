/** What quantization at load costs in logits, against weights that are as wrong as those of the reference implementation. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { loadModel } from '../../src/index.ts';
import { quantFormat } from '../../src/quant/registry.ts';
import { Random } from '../conformance/random.ts';
import { logitsOf, type Matrices, matricesOf, relativeError, SMALL, writeModel } from './models.ts';

/** Of normal numbers, by storage type. */
const errors = JSON.parse(
  readFileSync(new URL('../fixtures/quant/ggml_rmse.json', import.meta.url), 'utf8'),
) as Readonly<Record<string, { readonly rmse: number }>>;
const ALLOWED = 1.1;
const SEEDS = [1, 2, 3, 4];
const TYPES = ['Q4_0', 'Q4_1', 'Q5_0', 'Q5_1', 'Q8_0', 'Q2K', 'Q3K', 'Q4K', 'Q5K', 'Q6K', 'MXFP4'] as const;

/** The model with normal weights. */
function normalMatrices(): Matrices {
  const random = new Random(5);
  return new Map(
    [...matricesOf(SMALL)].map(([name, { shape, data }]) => {
      const normal = random.normals(data.length, 1 / Math.sqrt(shape.at(-1)!));
      return [name, { shape, data: shape.length === 1 ? data : Float32Array.from(normal) }];
    }),
  );
}

/** Adds noise to each quantized matrix, as large as the error that its type has. */
function noisy(matrices: Matrices, stored: ReadonlyMap<string, string>, seed: number): Matrices {
  const random = new Random(seed);
  const out: Matrices = new Map(matrices);
  for (const [name, { shape, data }] of matrices) {
    const type = stored.get(name.replace(/\.weight$/, ''));
    if (type === undefined) continue;
    const size = Math.sqrt(data.reduce((sum, v) => sum + v * v, 0) / data.length);
    const { rmse } = errors[quantFormat(type).type.name]!;
    const noise = random.normals(data.length, rmse * size);
    out.set(name, { shape, data: data.map((v, i) => v + noise[i]!) });
  }
  return out;
}

async function logitsFrom(folder: string, isq?: string) {
  const model = await loadModel(folder, { device: 'reference', pagedAttn: { cacheType: 'f32' }, isq });
  const logits = await logitsOf(model);
  const layers = isq ? model.quantReport().layers : [];
  await model.dispose();
  return { logits, stored: new Map(layers.map((l) => [l.module, l.stored])) };
}

describe('logits of a model that is quantized at load', () => {
  const matrices = normalMatrices();
  const folder = writeModel(SMALL, matrices);

  it.each(TYPES)('%s: as far from those in f32 as errors of that size make them', async (isq) => {
    const exact = (await logitsFrom(folder)).logits;
    const { logits, stored } = await logitsFrom(folder, isq);
    expect(stored.size).toBeGreaterThan(7);
    let expected = 0;
    for (const seed of SEEDS) {
      const other = (await logitsFrom(writeModel(SMALL, noisy(matrices, stored, seed)))).logits;
      expected += relativeError(other, exact) / SEEDS.length;
    }
    const error = relativeError(logits, exact);
    expect(error).toBeLessThanOrEqual(expected * ALLOWED);
    expect(error).toBeGreaterThan(expected / 2);
  });
});
