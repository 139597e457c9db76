import type { StorageType } from '../dtype.ts';
import type { ByteSource } from './source.ts';

/** One tensor of a checkpoint, not read yet. `shape` is row-major with the row length last: matrices are `[out, in]`. */
export interface TensorInfo {
  readonly name: string;
  readonly type: StorageType;
  readonly shape: readonly number[];
  /** Position of the first byte in `source`. */
  readonly offset: number;
  readonly bytes: number;
  readonly source: ByteSource;
}

/** What safetensors and GGUF readers give: names, types, shapes and where the bytes lie. Lengths are already checked. */
export interface Checkpoint {
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** GGUF key-value metadata, or the `__metadata__` strings of safetensors. */
  readonly metadata: ReadonlyMap<string, unknown>;
  close(): Promise<void>;
}
