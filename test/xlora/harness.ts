/** X-LoRAs of stored models and what PyTorch makes of them: see `../fixtures/xlora/README.md`. */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { readSafetensors } from '../../src/core/io/safetensors.ts';
import { safetensorsSource } from '../../src/core/io/weightSource.ts';
import { readValues } from '../../src/core/weights.ts';
import type * as api from '../../src/index.ts';
import { codec } from '../models/harness.ts';

const root = new URL('../fixtures/xlora/', import.meta.url);

/** The model that each X-LoRA is for. */
export const CASES: Readonly<Record<string, string>> = {
  llama_plain: 'llama',
  llama_deep: 'llama',
  gemma2_nosoftmax: 'gemma2',
  phi3_topk: 'phi3',
  mixtral_experts: 'mixtral',
  mixtral_shared: 'mixtral',
  starcoder2_one: 'starcoder2',
  phi_linear: 'phi',
  gguf_phi3: 'gguf_phi3_f16',
  gguf_llama: 'gguf_llama_f16',
};

export function casePath(name: string): string {
  return fileURLToPath(new URL(name, root));
}

export function orderingOf(name: string): api.Ordering {
  return JSON.parse(readFileSync(`${casePath(name)}/ordering.json`, 'utf8')) as api.Ordering;
}

/** The files of an X-LoRA by name, to be changed by a test. */
export function filesOf(name: string): Record<string, Uint8Array> {
  const files: Record<string, Uint8Array> = {};
  const visit = (below: string) => {
    for (const entry of readdirSync(`${casePath(name)}/${below}`)) {
      const path = `${below}${entry}`;
      if (statSync(`${casePath(name)}/${path}`).isDirectory()) visit(`${path}/`);
      else files[path] = new Uint8Array(readFileSync(`${casePath(name)}/${path}`));
    }
  };
  visit('');
  return files;
}

/** A tensor of what is expected, as floats. */
export async function expectedOf(name: string, tensor: string): Promise<Float32Array> {
  const checkpoint = await readSafetensors(readFileSync(`${casePath(name)}/expected.safetensors`));
  const info = checkpoint.tensors.get(tensor)!;
  if (info.type.name !== 'I32') return readValues(safetensorsSource(checkpoint).get(tensor)!, codec);
  const bytes = await info.source.slice(info.offset, info.offset + info.bytes);
  return Float32Array.from(new Int32Array(bytes.slice().buffer));
}
