/** Adapters over bases that are quantized: at load, or in their files. The result is that of the rounded base plus `B A`. */
import { describe, expect, it } from 'vitest';
import { writeSafetensors } from '../../src/core/io/safetensorsWrite.ts';
import * as api from '../../src/index.ts';
import { Random } from '../conformance/random.ts';
import { logitsOf, type Matrices, matricesOf, relativeError, rounded, SMALL, writeModel } from '../isq/models.ts';
import { adapterPath, devicesHere, modelPath, rawLogits } from './harness.ts';

const RANK = 3;
const ALPHA = 5;
const PROMPT = [3, 17, 5, 80, 41, 2, 9, 66];
const MODULES: Readonly<Record<string, readonly string[]>> = {
  all: ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'],
  some: ['q_proj', 'v_proj', 'down_proj'],
};
/** Of products with the base: exact up to floats, or with rows rounded to 8 bits where the weights have blocks. */
const TOLERANCE = { reference: 1e-5, cpu: 0.03, webgpu: 1e-4 } as const;
const EXACT = { dtype: 'f32', device: 'reference' } as const;

/** What adapters are made for in the file of 4-bit blocks. */
const Q4_K_M = Object.entries({
  'self_attn.q_proj': [256, 256],
  'self_attn.k_proj': [128, 256],
  'mlp.gate_proj': [512, 256],
  'mlp.down_proj': [256, 512],
}).map(([name, shape]) => [`model.layers.0.${name}.weight`, { shape }] as const);

interface Adapter {
  readonly files: Record<string, Uint8Array>;
  /** What it adds to the matrices of a model. */
  readonly applyTo: (matrices: Matrices) => Matrices;
}

type Shapes = Iterable<readonly [name: string, matrix: { readonly shape: readonly number[] }]>;

/** Of random matrices that move the logits by a good part of their size. */
function adapterOf(name: string, base: Shapes): Adapter {
  const random = new Random(name.length);
  const modules = MODULES[name]!;
  const tensors: [string, { type: 'F32'; shape: readonly number[]; data: Float32Array }][] = [];
  const changes = new Map<string, Float32Array>();
  for (const [key, { shape }] of base) {
    if (!modules.some((m) => key.endsWith(`${m}.weight`))) continue;
    const [rows, columns] = shape as [number, number];
    const a = random.normals(RANK * columns, columns ** -0.5);
    const b = random.normals(rows * RANK, 0.2);
    const at = `base_model.model.${key.replace(/\.weight$/, '')}`;
    tensors.push([`${at}.lora_A.weight`, { type: 'F32', shape: [RANK, columns], data: a }]);
    tensors.push([`${at}.lora_B.weight`, { type: 'F32', shape: [rows, RANK], data: b }]);
    const change = new Float32Array(rows * columns);
    for (let i = 0; i < change.length; i++) {
      let sum = 0;
      for (let r = 0; r < RANK; r++) {
        sum += b[Math.floor(i / columns) * RANK + r]! * a[r * columns + (i % columns)]!;
      }
      change[i] = (ALPHA / RANK) * sum;
    }
    changes.set(key, change);
  }
  const config = { peft_type: 'LORA', r: RANK, lora_alpha: ALPHA, target_modules: modules };
  return {
    files: {
      'adapter_config.json': new TextEncoder().encode(JSON.stringify(config)),
      'adapter_model.safetensors': writeSafetensors(tensors),
    },
    applyTo: (matrices) =>
      new Map(
        [...matrices].map(([key, { shape, data }]) => {
          const change = changes.get(key);
          return [key, { shape, data: change ? data.map((v, i) => v + change[i]!) : data }];
        }),
      ),
  };
}

async function exactLogits(matrices: Matrices): Promise<Float32Array> {
  await using model = await api.loadModel(writeModel(SMALL, matrices), EXACT);
  return await logitsOf(model, PROMPT);
}

const devices = await devicesHere('adapters over quantized bases');

describe.each(devices)('%s', { timeout: 240_000 }, (device) => {
  const matrices = matricesOf(SMALL);
  const folder = writeModel(SMALL, matrices);
  const settings = { device, lora: true, strict: true, pagedAttn: { cacheType: 'f32' } } as const;

  it.each(['Q4K', 'Q8_0', 'AFQ4', 'HQQ4'])('over a base quantized to %s at load', async (isq) => {
    await using model = await api.loadModel(folder, { ...settings, isq });
    const stored = new Map(model.quantReport().layers.map((l) => [l.module, l.stored]));
    expect(stored.get('model.layers.0.mlp.down_proj')).toBe(isq);
    const base: Matrices = new Map();
    for (const [name, { shape, data }] of matrices) {
      const type = stored.get(name.replace(/\.weight$/, ''));
      base.set(name, { shape, data: type ? rounded(type, data, shape.at(-1)!) : data });
    }
    const plain = await exactLogits(base);
    const moved = relativeError(await rawLogits(model, PROMPT), plain);
    expect(moved).toBeLessThan(TOLERANCE[device]);
    for (const name of Object.keys(MODULES)) {
      const adapter = adapterOf(name, matrices);
      await model.loadLoraAdapter(name, adapter.files);
      const want = await exactLogits(adapter.applyTo(base));
      expect(relativeError(want, plain)).toBeGreaterThan(0.2);
      // Products with the adapter itself are exact up to floats.
      expect(relativeError(await rawLogits(model, PROMPT, name), want)).toBeLessThan(1.5 * moved + 1e-6);
    }
    expect(relativeError(await rawLogits(model, PROMPT), plain)).toBe(moved);
    // Rows of both adapters and of none in one step.
    const ask = (adapter?: string) =>
      model.complete(PROMPT, {
        sampling: { temperature: 0, maxLen: 6, ignoreEos: true },
        ...(adapter === undefined ? {} : { adapter }),
      });
    const names = ['all', undefined, 'some'];
    const tokens = (r: api.CompletionResponse) => [...r.choices[0]!.tokenIds];
    const together = (await Promise.all(names.map(ask))).map(tokens);
    for (const [i, name] of names.entries()) expect(tokens(await ask(name))).toEqual(together[i]);
  });

  // Rows of queries and keys lie in another order there.
  it.each([
    ['gguf_llama_q8_0', {}],
    ['gguf_llama_q4_k_m', {}],
    ['gguf_llama_f16', { isq: 'Q8_0' }],
  ])('over %s with %j', async (name, options) => {
    const adapter = name.endsWith('q4_k_m') ? adapterOf('all', Q4_K_M).files : adapterPath('gguf_llama_f16', 'plain');
    await using model = await api.loadModel(modelPath(name), { ...settings, ...options });
    await model.loadLoraAdapter('plain', adapter);
    await using exact = await api.loadModel(modelPath(name), { ...EXACT, lora: true });
    await exact.loadLoraAdapter('plain', adapter);
    const [plain, want] = [await rawLogits(exact, PROMPT), await rawLogits(exact, PROMPT, 'plain')];
    expect(relativeError(want, plain)).toBeGreaterThan(0.2);
    // The exact model has its stored weights: what is rounded at load moves its logits with and without adapters.
    const moved = relativeError(await rawLogits(model, PROMPT), plain);
    const bound = 'isq' in options ? 3 * moved : TOLERANCE[device];
    expect(bound).toBeLessThan(0.1);
    expect(moved).toBeLessThanOrEqual(bound);
    expect(relativeError(await rawLogits(model, PROMPT, 'plain'), want)).toBeLessThan(bound);
  });
});
