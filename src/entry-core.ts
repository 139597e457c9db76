/** `tramontane/core`: the parts a model is made of. */
export { type BackendName, createBackend } from './backend.ts';
export type * from './core/backend.ts';
export {
  DTYPE_BYTES,
  type DType,
  STORAGE_TYPES,
  type StorageType,
  type StorageTypeName,
  type TypedArray,
} from './core/dtype.ts';
export { Sampler, type SamplerOptions, SamplerWorkspace } from './core/engine/sampler.ts';
export * from './core/errors.ts';
export { hostTensor } from './core/host.ts';
export type { Checkpoint, TensorInfo } from './core/io/checkpoint.ts';
export { type GgufCheckpoint, readGguf } from './core/io/gguf.ts';
export type { OpenOptions, SourceInput } from './core/io/open.ts';
export { readSafetensors } from './core/io/safetensors.ts';
export { type TensorData, writeSafetensors } from './core/io/safetensorsWrite.ts';
export type { ByteSource } from './core/io/source.ts';
export * as ops from './core/ops.ts';
export { type Shape, Tensor } from './core/tensor.ts';
export { ChatTemplate } from './core/text/template.ts';
export { Tokenizer, type TokenizerInput } from './core/text/tokenizer.ts';
