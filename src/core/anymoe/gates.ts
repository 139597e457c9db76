/** Gates of AnyMoE layers: their file, and how they get onto the device. */
import type { Backend } from '../backend.ts';
import { FormatError, WeightError } from '../errors.ts';
import { writeSafetensors } from '../io/safetensorsWrite.ts';
import { deviceMatrix } from '../lora/build.ts';
import { type Codec, readValues, type SourceTensor } from '../weights.ts';
import type { Gate, MixedLayer } from './mixtures.ts';

/** Its name within the folder of gates. */
export const GATE_FILE = 'gate.safetensors';

/** `weight` `[experts, hidden]`. */
export interface GateValues {
  readonly weight: Float32Array;
  readonly bias: Float32Array;
}

export async function placeGate(
  backend: Backend,
  layer: MixedLayer,
  hidden: number,
  values: GateValues,
): Promise<void> {
  const name = `moe_gate.${layer.layer}`;
  const weight = await deviceMatrix(backend, name, values.weight, [layer.count, hidden]);
  layer.gate = { weight, options: { bias: backend.upload(values.bias, [layer.count]) } } satisfies Gate;
}

/** The bytes of a file of gates, by the numbers of their layers. */
export function writeGates(gates: ReadonlyMap<number, GateValues>, hidden: number): Uint8Array {
  const tensors = [...gates].flatMap(([layer, { weight, bias }]) => [
    [`moe_gate.${layer}.weight`, { type: 'F32', shape: [bias.length, hidden], data: weight }] as const,
    [`moe_gate.${layer}.bias`, { type: 'F32', shape: [bias.length], data: bias }] as const,
  ]);
  return writeSafetensors(tensors);
}

/** The gate of one layer out of a file. Throws `WeightError` when it is absent or of another model. */
export async function readGate(
  tensors: ReadonlyMap<string, SourceTensor>,
  layer: MixedLayer,
  hidden: number,
  codec: Codec,
): Promise<GateValues> {
  const find = (end: string, shape: readonly number[]): SourceTensor => {
    const name = `moe_gate.${layer.layer}.${end}`;
    const found = tensors.get(name);
    if (!found)
      throw new WeightError(`gates: expected a tensor "${name}", found none; were they trained for other layers?`);
    if (found.shape.length === shape.length && found.shape.every((n, i) => n === shape[i])) return found;
    throw new WeightError(`gates: "${name}": expected shape [${shape}], got [${found.shape}]`);
  };
  const [weight, bias] = [find('weight', [layer.count, hidden]), find('bias', [layer.count])];
  const values = { weight: await readValues(weight, codec), bias: await readValues(bias, codec) };
  if ([...values.weight, ...values.bias].every(Number.isFinite)) return values;
  throw new FormatError(`gates: layer ${layer.layer}: expected finite numbers`);
}
