import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { bytesSource } from '../../src/core/io/memory.ts';
import { readSafetensors } from '../../src/core/io/safetensors.ts';
import { type TensorData, writeSafetensors } from '../../src/core/io/safetensorsWrite.ts';
import { openUqff, type UqffCheckpoint } from '../../src/core/io/uqff.ts';
import { type LoadOptions, loadModel } from '../../src/index.ts';
import { logitsOf } from '../isq/models.ts';

export const fixtures = new URL('../fixtures/uqff/', import.meta.url).pathname;
export const IDS = [3, 17, 5, 40, 41, 2, 9, 30];

/** Logits of a model, exact to 32-bit floats beyond its weights. */
export async function logitsAt(path: string, options: LoadOptions = {}): Promise<Float32Array> {
  const model = await loadModel(path, { device: 'reference', pagedAttn: { cacheType: 'f32' }, ...options });
  try {
    return await logitsOf(model, IDS);
  } finally {
    await model.dispose();
  }
}

export type Tensors = Map<string, TensorData>;

/** All tensors of a safetensors file. */
export async function tensorsOf(file: string | Uint8Array): Promise<Tensors> {
  const { tensors } = await readSafetensors(typeof file === 'string' ? readFileSync(file) : file);
  const out: Tensors = new Map();
  for (const t of tensors.values()) {
    const data = (await t.source.slice(t.offset, t.offset + t.bytes)).slice();
    out.set(t.name, { type: t.type.name, shape: t.shape, data });
  }
  return out;
}

export const u8 = (value: number): TensorData => ({ type: 'U8', shape: [], data: Uint8Array.of(value) });
export const u32 = (value: number): TensorData => ({ type: 'U32', shape: [], data: Uint32Array.of(value) });
export const sizes = (...values: number[]): TensorData => ({
  type: 'U32',
  shape: [values.length],
  data: Uint32Array.from(values),
});

/** Opens files of a set that lie in memory. */
export function openBytes(...files: readonly Uint8Array[]): Promise<UqffCheckpoint> {
  const names = files.map((_, i) => `q-${i}.uqff`);
  return openUqff(names, async (name) => bytesSource(files[names.indexOf(name)]!, name));
}

export const llama = (file: string): string => join(fixtures, 'llama', file);
export const written = (tensors: Tensors): Uint8Array => writeSafetensors(tensors);
