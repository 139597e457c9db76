/** Opens GGUF files, also split ones, as checkpoints. */
import { FormatError, ModelLoadError } from '../errors.ts';
import type { Checkpoint, TensorInfo } from './checkpoint.ts';
import type { GgufHeader } from './ggufHeader.ts';
import { readGgufHeader } from './ggufHeader.ts';
import type { GgufMetadata } from './ggufMetadata.ts';
import type { OpenOptions, SourceInput } from './open.ts';
import { isHttpUrl, openSource } from './open.ts';
import type { ByteSource } from './source.ts';

/** Split files carry their number in five digits; the largest published models have fewer than 100. */
const MAX_SPLITS = 4096;
const SPLIT_NAME = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/s;

/** A GGUF checkpoint: tensors under their names in the file, shapes row-major. */
export interface GgufCheckpoint extends Checkpoint {
  readonly metadata: GgufMetadata;
}

/** The place of a file in a split model. */
export interface SplitName {
  readonly prefix: string;
  /** From 1. */
  readonly part: number;
  readonly count: number;
}

/** Reads `model-00002-of-00005.gguf`; `undefined` for a file that is none of several. */
export function splitName(name: string): SplitName | undefined {
  const match = SPLIT_NAME.exec(name);
  if (!match) return undefined;
  const [part, count] = [Number(match[2]), Number(match[3])];
  return part >= 1 && part <= count ? { prefix: match[1]!, part, count } : undefined;
}

/** The name of another part of the same model. */
export function splitPart({ prefix, count }: SplitName, part: number): string {
  const five = (n: number): string => String(n).padStart(5, '0');
  return `${prefix}-${five(part)}-of-${five(count)}.gguf`;
}

/**
 * Opens a GGUF model: a path, URL, `Blob`, bytes or source; for a split model any of its parts by path or URL (the others
 * lie beside it), or all parts in a list. Only headers are read. `close()` of the result closes all sources.
 * Throws `FormatError`, `UnsupportedError` (version, byte order, tensor type) or `ModelLoadError` (a missing part).
 */
export async function readGguf(
  input: SourceInput | readonly SourceInput[],
  options: OpenOptions = {},
): Promise<GgufCheckpoint> {
  const opened: ByteSource[] = [];
  const open = async (part: SourceInput): Promise<ByteSource> => {
    const source = await openSource(part, options);
    opened.push(source);
    return source;
  };
  const close = async (): Promise<void> => {
    for (const source of opened) await source.close();
  };
  try {
    const inputs = Array.isArray(input) ? (input as readonly SourceInput[]) : partsOf(input as SourceInput);
    const first = await openPart(open, inputs, 0);
    const count = splitCount(first, opened[0]!.name);
    if (count !== inputs.length) {
      throw new FormatError(
        `${opened[0]!.name}: expected ${count} ${count === 1 ? 'file' : 'parts'} as split.count says, got ` +
          `${inputs.length}; keep the names the parts were published with, or pass all parts as a list`,
      );
    }
    const headers = [first];
    for (let i = 1; i < count; i++) headers.push(await openPart(open, inputs, i));
    return { tensors: joinTensors(headers, opened), metadata: first.metadata, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** All parts of the model that a path or URL names; other inputs stand for themselves. */
function partsOf(input: SourceInput): readonly SourceInput[] {
  if (typeof input !== 'string' && !(input instanceof URL)) return [input];
  const text = String(input);
  const query = isHttpUrl(text) ? (/[?#].*$/s.exec(text)?.[0] ?? '') : '';
  const split = splitName(text.slice(0, text.length - query.length));
  if (split === undefined) return [input];
  const count = Math.min(split.count, MAX_SPLITS + 1);
  return Array.from({ length: count }, (_, i) => splitPart(split, i + 1) + query);
}

async function openPart(
  open: (part: SourceInput) => Promise<ByteSource>,
  inputs: readonly SourceInput[],
  index: number,
): Promise<GgufHeader> {
  if (inputs.length > MAX_SPLITS) throw new FormatError(`expected at most ${MAX_SPLITS} parts, got more`);
  const input = inputs[index];
  if (input === undefined) throw new FormatError('expected a GGUF file, got an empty list');
  let source: ByteSource;
  try {
    source = await open(input);
  } catch (error) {
    if (inputs.length === 1 || !(error instanceof ModelLoadError)) throw error;
    throw new ModelLoadError(`part ${index + 1} of ${inputs.length}: ${error.message}; the model is incomplete`, {
      cause: error,
    });
  }
  const header = await readGgufHeader(source);
  const place = header.metadata.get('split.no') ?? 0;
  if (place !== index) {
    throw new FormatError(`${source.name}: split.no: expected ${index}, got ${String(place).slice(0, 40)}`);
  }
  return header;
}

function splitCount(header: GgufHeader, file: string): number {
  const count = header.metadata.get('split.count') ?? 1;
  // Zero is what writers leave in files that were merged again.
  if (count === 0) return 1;
  if (typeof count === 'number' && Number.isInteger(count) && count >= 1 && count <= MAX_SPLITS) return count;
  throw new FormatError(
    `${file}: split.count: expected a number up to ${MAX_SPLITS}, got ${String(count).slice(0, 40)}`,
  );
}

function joinTensors(headers: readonly GgufHeader[], sources: readonly ByteSource[]): ReadonlyMap<string, TensorInfo> {
  const first = headers[0]!;
  if (headers.length === 1) return first.tensors;
  const tensors = new Map<string, TensorInfo>();
  headers.forEach((header, i) => {
    for (const [name, tensor] of header.tensors) {
      const other = tensors.get(name);
      if (other !== undefined) {
        throw new FormatError(
          `tensor ${JSON.stringify(name)}: expected in one part, found in ${other.source.name} and ${sources[i]!.name}`,
        );
      }
      tensors.set(name, tensor);
    }
  });
  const expected = first.metadata.get('split.tensors.count');
  if (expected !== undefined && expected !== tensors.size) {
    throw new FormatError(
      `${sources[0]!.name}: split.tensors.count: expected ${String(expected).slice(0, 40)} tensors, got ${tensors.size}`,
    );
  }
  return tensors;
}
