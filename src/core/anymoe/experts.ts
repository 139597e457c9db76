/** Where the tensors of an expert come from: another checkpoint, or LoRA matrices that are added to the model's own. */
import { storageType } from '../dtype.ts';
import { WeightError } from '../errors.ts';
import type { Codec, SourceTensor, WeightSource } from '../weights.ts';
import { expandRows, readValues } from '../weights.ts';

export interface ExpertSource {
  /** What stands at `path + name` in the place of the model's own tensor. Throws `WeightError`. */
  tensorOf(path: string, name: string, own: SourceTensor): SourceTensor;
}

/** The MLPs of a fine-tuned checkpoint, under the names that the model's own have. */
export function fineTuned(source: WeightSource, where: string): ExpertSource {
  return {
    tensorOf(path, name) {
      const found = source.get(path + name);
      if (found) return found;
      throw new WeightError(`${where}: expected a tensor "${path}${name}" of an expert, found none`);
    },
  };
}

export interface LoraExpertSettings {
  readonly rank: number;
  readonly alpha: number;
  readonly targetModules: readonly string[];
}

/** The model's own MLP with `alpha / rank · B A` added to the modules that the settings name. */
export function withLora(source: WeightSource, where: string, lora: LoraExpertSettings, codec: Codec): ExpertSource {
  return {
    tensorOf(path, name, own) {
      const module = name.replace(/\.weight$/, '');
      if (module === name || !lora.targetModules.includes(module)) return own;
      const find = (role: string, shape: readonly number[]): SourceTensor => {
        const full = `${path}${module}.lora_${role}.weight`;
        const found = source.get(full) ?? source.get(`base_model.model.${full}`);
        if (found?.shape.length === 2 && found.shape.every((n, i) => n === shape[i])) return found;
        const got = found ? `[${found.shape}]` : 'none';
        throw new WeightError(`${where}: "${full}": expected a matrix [${shape}], got ${got}`);
      };
      const [out, width] = own.shape as readonly [number, number];
      const [a, b] = [find('A', [lora.rank, width]), find('B', [out, lora.rank])];
      return merged(own, a, b, lora.alpha / lora.rank, codec);
    },
  };
}

/** `own + scale · b a`, as f32. */
function merged(own: SourceTensor, a: SourceTensor, b: SourceTensor, scale: number, codec: Codec): SourceTensor {
  const [rank, width] = a.shape as readonly [number, number];
  const ownRows = expandRows(own, codec);
  let matrices: Promise<readonly [Float32Array, Float32Array]> | undefined;
  return {
    ...own,
    type: storageType('F32'),
    async readRows(first, n, target) {
      matrices ??= Promise.all([readValues(a, codec), readValues(b, codec)]);
      const [down, up] = await matrices;
      const values = new Float32Array(n * width);
      const bytes = new Uint8Array(values.buffer);
      await ownRows(first, n, bytes);
      for (let r = 0; r < n; r++) {
        for (let i = 0; i < width; i++) {
          let sum = 0;
          for (let j = 0; j < rank; j++) sum += up[(first + r) * rank + j]! * down[j * width + i]!;
          values[r * width + i] = values[r * width + i]! + scale * sum;
        }
      }
      target.set(bytes);
    },
  };
}
