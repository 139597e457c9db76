import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { createCpuBackend } from '../../src/backends/cpu/index.ts';
import { ReferenceBackend } from '../../src/backends/reference/index.ts';
import type { Backend } from '../../src/core/backend.ts';
import type { TypedArray } from '../../src/core/dtype.ts';
import { UnsupportedError } from '../../src/core/errors.ts';
import type { Tensor } from '../../src/core/tensor.ts';
import { candidates } from './backends.ts';
import type { Case } from './case.ts';
import { attentionCases } from './cases.attention.ts';
import { elementwiseCases } from './cases.elementwise.ts';
import { layoutCases } from './cases.layout.ts';
import { linearCases } from './cases.linear.ts';
import { normalizeCases } from './cases.normalize.ts';
import { recurrentCases } from './cases.recurrent.ts';
import { reduceCases } from './cases.reduce.ts';
import { spatialCases } from './cases.spatial.ts';
import { statisticsCases } from './cases.statistics.ts';
import { nmse } from './compare.ts';
import { Environment, loadWeight } from './environment.ts';

const cases = [
  ...elementwiseCases,
  ...layoutCases,
  ...reduceCases,
  ...linearCases,
  ...normalizeCases,
  ...attentionCases,
  ...recurrentCases,
  ...spatialCases,
  ...statisticsCases,
];

interface Result {
  readonly shape: readonly number[];
  readonly dtype: string;
  readonly values: TypedArray;
}

async function runCase(backend: Backend, c: Case, p: unknown, seed: number): Promise<Result[]> {
  const weights = await Promise.all(c.weights(p).map((spec, i) => loadWeight(backend, spec, seed + i)));
  const e = new Environment(backend, seed, weights);
  let outputs: readonly Tensor[] = [];
  backend.scope(() => {
    outputs = c.run(e, p);
  });
  const results: Result[] = [];
  for (const t of outputs) results.push({ shape: t.shape, dtype: t.dtype, values: await t.read() });
  expect(await e.damage()).toEqual([]);
  e.dispose();
  for (const w of weights) w.dispose();
  return results;
}

for (const candidate of candidates) {
  const made = await candidate.create();
  if (typeof made === 'string') {
    console.warn(`conformance: back-end "${candidate.name}" skipped: ${made}`);
    describe.skip(`${candidate.name}: ${made}`, () => {
      it('runs every op like the reference', () => {});
    });
    continue;
  }
  describe(candidate.name, () => {
    const reference = new ReferenceBackend();
    afterAll(() => Promise.all([made.dispose(), reference.dispose()]));
    for (const c of cases) {
      if (candidate.refuses?.(c.detail)) {
        it(`refuses ${c.op} ${c.detail}`, async () => {
          const [p] = fc.sample(c.params, { numRuns: 1, seed: 20 });
          await expect(runCase(made, c, p, 1)).rejects.toThrow(UnsupportedError);
        });
        continue;
      }
      it(`${c.op} ${c.detail}`.trim(), async () => {
        const bound = candidate.nmse?.(c.op, c.detail) ?? c.nmse;
        const property = fc.asyncProperty(c.params, fc.nat(), async (p, seed) => {
          const want = await runCase(reference, c, p, seed);
          const got = await runCase(made, c, p, seed);
          expect(got.length).toBe(want.length);
          got.forEach((g, i) => {
            const w = want[i] as Result;
            expect(g.shape).toEqual(w.shape);
            expect(g.dtype).toBe(w.dtype);
            expect(nmse(g.values, w.values)).toBeLessThanOrEqual(bound);
          });
        });
        await fc.assert(property, { numRuns: candidate.runs, seed: 20 });
      });
    }
    it('returns all memory', () => {
      expect([made.memory().persistent, reference.memory().persistent]).toEqual([0, 0]);
    });
  });
}

/** Without relaxed instructions every kernel gives the bits of its TypeScript twin. Matrices are stored differently there. */
describe('cpu kernels and their twins', async () => {
  const kernels = await createCpuBackend({ simd: 'simd', threads: 2 });
  const twins = await createCpuBackend({ simd: 'off' });
  afterAll(() => Promise.all([kernels.dispose(), twins.dispose()]));
  // Long contexts are cut into pieces by the number of threads, so their sums differ in the last bits.
  const same = (c: Case) => c.weights(fc.sample(c.params, 1)[0]).length === 0 && !c.detail.startsWith('long');
  for (const c of cases.filter(same)) {
    it(`${c.op} ${c.detail}`.trim(), async () => {
      const property = fc.asyncProperty(c.params, fc.nat(), async (p, seed) => {
        const want = await runCase(twins, c, p, seed);
        const got = await runCase(kernels, c, p, seed);
        got.forEach((g, i) => {
          expect(g.values).toEqual(want[i]?.values);
        });
      });
      await fc.assert(property, { numRuns: 10, seed: 21 });
    });
  }
});
