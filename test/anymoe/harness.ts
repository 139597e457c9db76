/** Experts for stored models and what PyTorch makes of them: see `../fixtures/anymoe/README.md`. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { readSafetensors } from '../../src/core/io/safetensors.ts';
import { safetensorsSource } from '../../src/core/io/weightSource.ts';
import { readValues } from '../../src/core/weights.ts';
import type * as api from '../../src/index.ts';
import { codec } from '../models/harness.ts';

const root = new URL('../fixtures/anymoe/', import.meta.url);

interface Case {
  readonly model: string;
  readonly layers: readonly number[];
  readonly experts: number;
  readonly expertType: api.AnyMoeExpertType;
}

const lora = (...targetModules: string[]) => ({ lora: { rank: 3, alpha: 5, targetModules } });

export const CASES: Readonly<Record<string, Case>> = {
  llama_tuned: { model: 'llama', layers: [0, 2], experts: 2, expertType: 'fineTuned' },
  gemma2_tuned: { model: 'gemma2', layers: [], experts: 1, expertType: 'fineTuned' },
  phi3_tuned: { model: 'phi3', layers: [2], experts: 2, expertType: 'fineTuned' },
  starcoder2_tuned: { model: 'starcoder2', layers: [0, 1], experts: 2, expertType: 'fineTuned' },
  phi_lora: { model: 'phi', layers: [0, 2], experts: 2, expertType: lora('fc1', 'fc2') },
  llama_lora: { model: 'llama', layers: [0, 1, 2], experts: 1, expertType: lora('gate_proj', 'down_proj') },
  gguf_phi3: { model: 'gguf_phi3_f16', layers: [0, 2], experts: 1, expertType: 'fineTuned' },
};

export const tokenizerJson = fileURLToPath(new URL('tokenizer.json', root));
/** The prompt is the message. */
export const chatTemplate = '{{ messages[0].content }}';

export function casePath(name: string, file = ''): string {
  return fileURLToPath(new URL(`${name}/${file}`, root));
}

/** The options of a case with its stored gates. */
export function optionsOf(name: string, config: Partial<api.AnyMoeConfig> = {}): api.AnyMoeOptions {
  const { layers, experts, expertType } = CASES[name]!;
  return {
    config: { hiddenSize: 64, expertType, training: false, gateModelId: casePath(name, 'gates'), ...config },
    prefix: 'model.layers',
    mlp: 'mlp',
    modelIds: Array.from({ length: experts }, (_, i) => casePath(name, `expert_${i + 1}`)),
    layers,
  };
}

export async function tensorsOf(path: string) {
  const checkpoint = await readSafetensors(readFileSync(path));
  return {
    names: [...checkpoint.tensors.keys()],
    /** A tensor as floats. */
    async values(name: string): Promise<Float32Array> {
      const info = checkpoint.tensors.get(name)!;
      if (info.type.name !== 'I32') return readValues(safetensorsSource(checkpoint).get(name)!, codec);
      const bytes = await info.source.slice(info.offset, info.offset + info.bytes);
      return Float32Array.from(new Int32Array(bytes.slice().buffer));
    },
  };
}

export async function expectedOf(name: string, tensor: string): Promise<Float32Array> {
  return (await tensorsOf(casePath(name, 'expected.safetensors'))).values(tensor);
}
