/** Checkpoints in Hugging Face layout with random weights, of any size: written by rows, never held. */
import fs from 'node:fs';
import path from 'node:path';
import { storageType } from '../src/core/dtype.ts';
import { sizeOf } from '../src/core/tensor.ts';
import type { Sizes } from './syntheticModel.ts';
import { syntheticLlama } from './syntheticSource.ts';

export interface FolderSizes extends Sizes {
  readonly vocab: number;
}

const CHUNK_BYTES = 4 << 20;

/** Writes `config.json` and BF16 `model.safetensors`. Returns the bytes of all tensors, and of the largest one. */
export async function writeFolder(
  folder: string,
  sizes: FolderSizes,
): Promise<{ readonly bytes: number; readonly largest: number }> {
  const { config, source } = syntheticLlama(sizes, storageType('BF16'));
  const tensors = [...source.names()].flatMap((name) => source.get(name) ?? []);
  let [bytes, largest] = [0, 0];
  const header: Record<string, unknown> = {};
  for (const { name, type, shape } of tensors) {
    const size = sizeOf(shape) * type.blockBytes;
    header[name] = { dtype: type.name, shape, data_offsets: [bytes, bytes + size] };
    bytes += size;
    largest = Math.max(largest, size);
  }
  fs.mkdirSync(folder, { recursive: true });
  fs.writeFileSync(path.join(folder, 'config.json'), JSON.stringify(config));
  const file = fs.openSync(path.join(folder, 'model.safetensors'), 'w');
  try {
    const text = Buffer.from(JSON.stringify(header));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(text.length));
    fs.writeSync(file, length);
    fs.writeSync(file, text);
    for (const { type, shape, readRows } of tensors) {
      const columns = shape[shape.length - 1] as number;
      const rows = sizeOf(shape) / columns;
      const step = Math.max(1, Math.floor(CHUNK_BYTES / (columns * type.blockBytes)));
      for (let row = 0; row < rows; row += step) {
        const some = Math.min(step, rows - row);
        const chunk = new Uint8Array(some * columns * type.blockBytes);
        await readRows(row, some, chunk);
        fs.writeSync(file, chunk);
      }
    }
  } finally {
    fs.closeSync(file);
  }
  return { bytes, largest };
}
