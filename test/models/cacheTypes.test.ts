/**
 * Key/value caches of 8 bits in whole models. What the rounding does to the logits is not guessed: the exact model is run
 * with keys and values that are off by random parts of half a step of that rounding.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createCpuBackend } from '../../src/backends/cpu/index.ts';
import type { ReferenceKvCache } from '../../src/backends/reference/attention.ts';
import { ReferenceBackend } from '../../src/backends/reference/index.ts';
import type { Backend } from '../../src/core/backend.ts';
import { Random } from '../conformance/random.ts';
import { openWebGpu } from '../webgpu/support.ts';
import { fixtures, LoadedModel, openModel, readPrompts } from './harness.ts';

/** Full attention, windows with a cap, latents, sinks. */
const FAMILIES = ['llama', 'gemma3_pattern', 'deepseek_v2_q', 'gpt_oss'];
/** Runs with random errors; the largest of their effects is some standard deviations above the usual one. */
const DRAWS = 6;
/** Entries that share a step, and steps from zero to the largest of them. */
const GROUP = 32;
const STEPS = 127;
const PIECES = [Number.POSITIVE_INFINITY, 7, 1];

/** The reference in single precision, whose cached entries are moved by up to half a step. */
function shaken(seed: number): Backend {
  const backend = new ReferenceBackend();
  const random = new Random(seed);
  const { qkvStore } = backend.ops;
  backend.ops.qkvStore = (q, qkv, cosSin, cache, batch, options) => {
    qkvStore!(q, qkv, cosSin, cache, batch, options);
    const { keys, values, spec } = cache as ReferenceKvCache;
    const shake = (data: Float32Array, dim: number) => {
      for (let r = 0; r < batch.rows; r++) {
        for (let h = 0; h < spec.kvHeads; h++) {
          const at = (batch.host.slots[r]! * spec.kvHeads + h) * dim;
          for (let from = at; from < at + dim; from += GROUP) {
            const group = data.subarray(from, Math.min(from + GROUP, at + dim));
            const step = group.reduce((most, v) => Math.max(most, Math.abs(v)), 0) / STEPS;
            for (let i = 0; i < group.length; i++) group[i]! += step * (random.next() - 0.5);
          }
        }
      }
    };
    shake(keys, spec.keyDim);
    if (values !== keys) shake(values, spec.valueDim);
  };
  return backend;
}

const distance = (a: Float32Array, b: Float32Array) => Math.hypot(...a.map((v, i) => v - b[i]!)) / Math.sqrt(a.length);

const candidates: readonly { readonly name: string; readonly create: () => Promise<Backend | string> }[] = [
  { name: 'reference', create: async () => new ReferenceBackend() },
  { name: 'cpu', create: () => createCpuBackend({ threads: 2 }) },
  { name: 'cpu without SIMD', create: () => createCpuBackend({ simd: 'off' }) },
  { name: 'webgpu', create: openWebGpu },
];

const made = await Promise.all(candidates.map(async ({ name, create }) => ({ name, backend: await create() })));

describe.each(FAMILIES)('%s with a cache of 8 bits', (family) => {
  const folder = new URL(`${family}/`, fixtures);
  let tokens: number[];
  let exact: Float32Array;
  let rounded: Float32Array;
  let effect: number;

  const logits = async (backend: Backend, cache: 'f32' | 'q8_0', size = Number.POSITIVE_INFINITY) => {
    const model = await LoadedModel.load(backend, 32, await openModel(folder), 'f32', cache);
    const out = await model.prefill(tokens, size);
    model.dispose();
    return out;
  };

  beforeAll(async () => {
    const [prompt] = await readPrompts(folder);
    tokens = [...prompt!.ids, ...prompt!.greedy];
    const reference = new ReferenceBackend();
    exact = await logits(reference, 'f32');
    rounded = await logits(reference, 'q8_0');
    effect = 0;
    for (let seed = 1; seed <= DRAWS; seed++) {
      effect = Math.max(effect, distance(await logits(shaken(seed), 'f32'), exact));
    }
  });
  afterAll(async () => {
    if (family !== FAMILIES.at(-1)) return;
    for (const { backend } of made) if (typeof backend !== 'string') await backend.dispose();
  });

  for (const { name, backend } of made) {
    if (typeof backend === 'string') {
      console.warn(`caches of 8 bits on ${name}: skipped: ${backend}`);
      it.skip(`${name}: ${backend}`, () => {});
      continue;
    }
    it(`${name}: logits move as far as such errors move them, and as those of the reference do`, async () => {
      for (const size of PIECES) {
        const got = await logits(backend, 'q8_0', size);
        const moved = distance(got, exact);
        expect(moved).toBeLessThan(1.5 * effect);
        expect(moved).toBeGreaterThan(0.5 * effect);
        // Scales of full or of half precision, and entries that lie between two steps.
        expect(distance(got, rounded)).toBeLessThan(0.5 * effect);
      }
    });
  }
});
