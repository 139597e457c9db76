/** Adapters made by PEFT for stored models, and the logits of the models with the adapters merged in. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { readSafetensors } from '../../src/core/io/safetensors.ts';
import { safetensorsSource } from '../../src/core/io/weightSource.ts';
import { readValues } from '../../src/core/weights.ts';
import type * as api from '../../src/index.ts';
import { codec } from '../models/harness.ts';
import { openWebGpu } from '../webgpu/support.ts';

const fixtures = new URL('../fixtures/', import.meta.url);

export function modelPath(name: string): string {
  return fileURLToPath(new URL(`models/${name}${name.startsWith('gguf') ? '/model.gguf' : ''}`, fixtures));
}

export function adapterPath(model: string, adapter: string): string {
  return fileURLToPath(new URL(`lora/${model}/${adapter}`, fixtures));
}

/** The files of an adapter, to be changed by a test. */
export function adapterFiles(model: string, adapter: string): Record<string, Uint8Array> {
  const read = (name: string) => new Uint8Array(readFileSync(`${adapterPath(model, adapter)}/${name}`));
  return {
    'adapter_config.json': read('adapter_config.json'),
    'adapter_model.safetensors': read('adapter_model.safetensors'),
  };
}

/** The same adapter with some entries of its configuration changed. */
export function withConfig(files: Record<string, Uint8Array>, changes: object): Record<string, Uint8Array> {
  const config = JSON.parse(new TextDecoder().decode(files['adapter_config.json'])) as object;
  return { ...files, 'adapter_config.json': new TextEncoder().encode(JSON.stringify({ ...config, ...changes })) };
}

export interface Expected {
  readonly ids: Int32Array;
  /** `[ids.length, vocab]`; of the model alone under `none`. */
  logits(adapter: string): Promise<Float32Array>;
}

export async function expectedOf(model: string): Promise<Expected> {
  const checkpoint = await readSafetensors(readFileSync(new URL(`lora/${model}/expected.safetensors`, fixtures)));
  const source = safetensorsSource(checkpoint);
  const info = checkpoint.tensors.get('ids')!;
  const bytes = await info.source.slice(info.offset, info.offset + info.bytes);
  return {
    ids: new Int32Array(bytes.slice().buffer),
    logits: (adapter) => readValues(source.get(`logits.${adapter}`)!, codec),
  };
}

export async function rawLogits(
  model: api.Model,
  ids: ArrayLike<number>,
  adapter?: api.AdapterSelection,
): Promise<Float32Array> {
  const raw = await model.sendRawTokens(ids, adapter === undefined ? {} : { adapter });
  const rows = await Promise.all(raw.logitsChunks.map((t) => t.toFloat32Array()));
  return Float32Array.from(rows.flatMap((r) => [...r]));
}

/** Largest difference, relative to the largest logit. */
export function distance(a: Float32Array, b: Float32Array): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let far = 0;
  let size = 0;
  for (let i = 0; i < a.length; i++) {
    far = Math.max(far, Math.abs(a[i]! - b[i]!));
    size = Math.max(size, Math.abs(b[i]!));
  }
  return far / size;
}

/** Devices that run adapters here; says which one does not, and why. */
export async function devicesHere(what: string): Promise<readonly ('reference' | 'cpu' | 'webgpu')[]> {
  const gpu = await openWebGpu();
  if (typeof gpu === 'string') {
    console.warn(`${what} on webgpu: skipped: ${gpu}`);
    return ['reference', 'cpu'];
  }
  await gpu.dispose();
  return ['reference', 'cpu', 'webgpu'];
}
