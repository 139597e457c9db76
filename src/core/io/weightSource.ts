/** Checkpoints as sources of named weights. */
import { rowBytes } from '../dtype.ts';
import { FormatError } from '../errors.ts';
import { sizeOf } from '../tensor.ts';
import type { SourceTensor, WeightSource } from '../weights.ts';
import type { Checkpoint, TensorInfo } from './checkpoint.ts';
import type { ByteSource } from './source.ts';

/** The tensors of a checkpoint under the names they have. */
export function safetensorsSource(checkpoint: Checkpoint): WeightSource {
  return sourceOf(sourceTensors(checkpoint));
}

export function sourceOf(tensors: ReadonlyMap<string, SourceTensor>): WeightSource {
  return { get: (name) => tensors.get(name), names: () => tensors.keys() };
}

/** All tensors of a checkpoint, readable by rows, numbered in the order in which they lie in its files. */
export function sourceTensors(checkpoint: Checkpoint): ReadonlyMap<string, SourceTensor> {
  const files = new Map<ByteSource, number>();
  for (const t of checkpoint.tensors.values()) if (!files.has(t.source)) files.set(t.source, files.size);
  const fileOf = (t: TensorInfo) => files.get(t.source) as number;
  const sorted = [...checkpoint.tensors.values()].sort((a, b) => fileOf(a) - fileOf(b) || a.offset - b.offset);
  return new Map(sorted.map((info, order) => [info.name, sourceTensor(info, order)]));
}

/** One tensor of a file, readable by rows of its last axis. */
export function sourceTensor(info: TensorInfo, order: number): SourceTensor {
  const { name, type, shape, source, offset } = info;
  const width = shape[shape.length - 1] ?? 1;
  const total = width ? sizeOf(shape) / width : 0;
  return {
    name,
    type,
    shape,
    order,
    async readRows(first, rows, target) {
      const stride = rowBytes(type, width);
      if (stride === undefined || !(first >= 0 && rows >= 0 && first + rows <= total)) {
        throw new FormatError(`tensor "${name}": expected whole rows within [${shape}], got ${first} + ${rows}`);
      }
      const bytes = rows * stride;
      await source.readInto(offset + first * stride, bytes === target.length ? target : target.subarray(0, bytes));
    },
  };
}
