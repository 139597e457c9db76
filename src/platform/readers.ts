/** The file readers of core with the platform of the current runtime, so that paths work. */
import type { Checkpoint } from '../core/io/checkpoint.ts';
import type { GgufCheckpoint } from '../core/io/gguf.ts';
import { readGguf as readGgufWith } from '../core/io/gguf.ts';
import type { OpenOptions, SourceInput } from '../core/io/open.ts';
import { readSafetensors as readSafetensorsWith } from '../core/io/safetensors.ts';
import { readSafetensorsIndex as readIndexWith } from '../core/io/shards.ts';
import { detectPlatform } from './detect.ts';

/** Opens a safetensors file: a path, URL, `Blob`, bytes or source. Only its header is read. */
export async function readSafetensors(input: SourceInput, options: OpenOptions = {}): Promise<Checkpoint> {
  return readSafetensorsWith(input, { platform: await detectPlatform(), ...options });
}

/** Opens the checkpoint that a `model.safetensors.index.json` (path or URL) describes. */
export async function readSafetensorsIndex(location: string, options: OpenOptions = {}): Promise<Checkpoint> {
  return readIndexWith(location, { platform: await detectPlatform(), ...options });
}

/** Opens a GGUF model: a path, URL, `Blob`, bytes or source, or the parts of a split model. Only headers are read. */
export async function readGguf(
  input: SourceInput | readonly SourceInput[],
  options: OpenOptions = {},
): Promise<GgufCheckpoint> {
  return readGgufWith(input, { platform: await detectPlatform(), ...options });
}
