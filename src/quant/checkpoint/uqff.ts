/** UQFF modules as ordinary matrices, in the formats that quantization at load makes. */
import { type StorageTypeName, storageType } from '../../core/dtype.ts';
import type { Checkpoint, TensorInfo } from '../../core/io/checkpoint.ts';
import { mxfp4Rows } from '../../core/io/mxfp4.ts';
import { ggufTypeOf, type UqffCheckpoint, type UqffFormat, type UqffModule } from '../../core/io/uqff.ts';
import { safetensorsSource, sourceTensor } from '../../core/io/weightSource.ts';
import { sizeOf } from '../../core/tensor.ts';
import type { SourceTensor, WeightSource } from '../../core/weights.ts';
import { AFQ_HEADER } from '../afq.ts';
import { addScaled } from './fp8.ts';
import { addTable } from './hqq.ts';
import { bytesOf, Replaced, rowFloats } from './parts.ts';

/** A model out of its quantized modules and the tensors beside them. A module takes the place of a tensor of its name. */
export function uqffSource(checkpoint: UqffCheckpoint, residual: Checkpoint): WeightSource {
  const tensors = new Map(residual.tensors);
  const modules = [...checkpoint.modules.values()];
  const parts = new Set(modules.flatMap((m) => [...m.tensors.values()].map((t) => t.name)));
  for (const [name, info] of checkpoint.tensors) {
    if (!parts.has(name) && !name.startsWith('uqff.version.')) tensors.set(name, info);
  }
  const replaced = new Replaced(safetensorsSource({ ...residual, tensors }));
  modules.forEach((module, order) => {
    READERS[module.format](replaced, module, tensorsOf(module, order));
  });
  return replaced.result();
}

/** The tensors of a module, readable by rows. */
type Parts = (key?: string, shape?: readonly number[]) => SourceTensor;

function tensorsOf(m: UqffModule, order: number): Parts {
  return (key = '', shape) => {
    const info = m.tensors.get(key) as TensorInfo;
    return sourceTensor(shape ? { ...info, shape } : info, order);
  };
}

/** Blocks that lie in the file as they do in memory. */
function putBlocks(r: Replaced, m: UqffModule, part: Parts, type = storageType('F8Q8')): void {
  const { name, order } = part();
  const info = m.tensors.get('') as TensorInfo;
  r.put(sourceTensor({ ...info, name, type, shape: m.shape }, order));
}

const READERS: Readonly<Record<UqffFormat, (r: Replaced, m: UqffModule, part: Parts) => void>> = {
  gguf: (r, m, part) => putBlocks(r, m, part, ggufTypeOf(m)),
  unquant: (r, _m, part) => r.put(part()),
  f8q8: (r, m, part) => putBlocks(r, m, part),
  afq: (r, m, part) => r.put(afqRows(m, part)),
  mxfp4(r, m, part) {
    const columns = m.shape.at(-1) as number;
    const blocks = part('', [...m.shape.slice(0, -1), columns / 32, 16]);
    const rows = mxfp4Rows(blocks, part('scales'), [sizeOf(m.shape) / columns, columns]);
    r.put({ ...rows, shape: m.shape });
  },
  fp8(r, m, part) {
    const block = m.shape.slice(-2);
    addScaled(r, part(), part('dequant_w_scale'), { label: 'F8E4M3', code: 'e4m3', block });
  },
  hqq(r, m, part) {
    const [bits, group, axis] = ['bits', 'group_size', 'axis'].map((key) => m.numbers.get(key)) as [
      number,
      number,
      number,
    ];
    const columns = m.shape.at(-1) as number;
    const elements = sizeOf(m.shape);
    const table = axis === 1 ? { rows: elements / group, width: group } : { rows: group, width: elements / group };
    const packed = part('', [sizeOf((m.tensors.get('') as TensorInfo).shape)]);
    const parts = { ...table, bits, axis, columns, packed, scale: part('scales'), zero: part('zeros') };
    // Computed with as it is where quantization at load makes it.
    addTable(r, packed.name, [elements / columns, columns], group, parts, bits === 4 ? { activationBits: 8 } : {});
  },
};

/** Code words, scales and biases become blocks of all three. */
function afqRows(m: UqffModule, part: Parts): SourceTensor {
  const [bits, group] = ['bits', 'group_size'].map((key) => m.numbers.get(key)) as [number, number];
  const type = storageType(`AFQ${bits}${group === 64 ? '' : `_G${group}`}` as StorageTypeName);
  const words = part();
  const [scales, biases] = [part('scales'), part('biases')];
  const codes = (group * bits) / 8;
  const perRow = (m.shape.at(-1) as number) / group;
  return {
    ...{ name: words.name, order: words.order, type, shape: m.shape },
    async readRows(first, rows, target) {
      const bytes = await bytesOf(words, first, rows);
      const scale = await rowFloats(scales, first, rows);
      const bias = await rowFloats(biases, first, rows);
      const view = new DataView(target.buffer, target.byteOffset, target.byteLength);
      for (let b = 0; b < rows * perRow; b++) {
        const at = b * type.blockBytes;
        view.setFloat32(at, scale[b]!, true);
        view.setFloat32(at + 4, bias[b]!, true);
        target.set(bytes.subarray(b * codes, (b + 1) * codes), at + AFQ_HEADER);
      }
    },
  };
}
