/** `tramontane/core`: the parts a model is made of. Paths are opened by the runtime this code finds itself in. */
import type { Checkpoint } from './core/io/checkpoint.ts';
import type { GgufCheckpoint } from './core/io/gguf.ts';
import { readGguf as readGgufWith } from './core/io/gguf.ts';
import type { OpenOptions, SourceInput } from './core/io/open.ts';
import { readSafetensors as readSafetensorsWith } from './core/io/safetensors.ts';
import type { UqffCheckpoint } from './core/io/uqff.ts';
import { readUqff as readUqffWith } from './core/io/uqffOpen.ts';
import type { TokenizerInput, TokenizerOptions } from './core/text/tokenizer.ts';
import { Tokenizer as TokenizerOfParts } from './core/text/tokenizer.ts';
import { detectPlatform } from './platform/detect.ts';

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
export type { TensorInfo } from './core/io/checkpoint.ts';
export { type HubSettings, hubSettings } from './core/io/hubSettings.ts';
export { type TensorData, writeSafetensors } from './core/io/safetensorsWrite.ts';
export type { ByteSource } from './core/io/source.ts';
export type { UqffFormat, UqffModule, UqffVersion } from './core/io/uqff.ts';
export * as ops from './core/ops.ts';
export type { Platform } from './core/platform.ts';
export { type Shape, Tensor } from './core/tensor.ts';
export { ChatTemplate } from './core/text/template.ts';
export type { Checkpoint, GgufCheckpoint, OpenOptions, SourceInput, TokenizerInput, UqffCheckpoint };
export { detectPlatform };

/** Opens a GGUF model by path, URL, `Blob` or bytes; split models by any part. Only headers are read. */
export async function readGguf(
  input: SourceInput | readonly SourceInput[],
  options: OpenOptions = {},
): Promise<GgufCheckpoint> {
  return readGgufWith(input, { platform: await detectPlatform(), ...options });
}

/** Opens a safetensors file by path, URL, `Blob` or bytes. Only the header is read. */
export async function readSafetensors(input: SourceInput, options: OpenOptions = {}): Promise<Checkpoint> {
  return readSafetensorsWith(input, { platform: await detectPlatform(), ...options });
}

/**
 * Opens a UQFF set by the path of any of its files, or by the bytes, `Blob`s or URLs of all of them. Headers and small numbers
 * are read, and every module is checked.
 */
export async function readUqff(
  input: SourceInput | readonly SourceInput[],
  options: OpenOptions = {},
): Promise<UqffCheckpoint> {
  return readUqffWith(input, { platform: await detectPlatform(), ...options });
}

/** Turns text into token ids and back. */
export class Tokenizer extends TokenizerOfParts {
  /** Reads a `tokenizer.json`: the parsed file, its text or bytes, a URL or a path. */
  static override async fromJson(input: TokenizerInput, options: TokenizerOptions = {}): Promise<TokenizerOfParts> {
    return TokenizerOfParts.fromJson(input, { platform: await detectPlatform(), ...options });
  }
}
