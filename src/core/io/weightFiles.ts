/** Which files of a model folder hold its weights. */
import { ModelLoadError, UnsupportedError } from '../errors.ts';
import type { ModelFolder } from './folder.ts';
import { splitName, splitPart } from './gguf.ts';
import { baseName } from './path.ts';

const INDEX = 'model.safetensors.index.json';
const SINGLE = 'model.safetensors';
const SHARD_NAME = /^(.*)-(\d{5})-of-(\d{5})\.safetensors$/;
/** Names in a message. */
const MAX_NAMES_SHOWN = 12;

export type WeightFiles =
  | { readonly kind: 'gguf'; readonly names: readonly string[] }
  | { readonly kind: 'safetensors'; readonly names: readonly string[] }
  | { readonly kind: 'index'; readonly name: string };

/**
 * Chooses the weights of a folder: the files asked for, else the safetensors of the Hugging Face layout, else the one GGUF
 * model there is. Throws `ModelLoadError` when there are none or several, `UnsupportedError` for other formats.
 */
export function chooseWeights(folder: ModelFolder, asked: readonly string[] | undefined): WeightFiles {
  if (asked !== undefined && asked.length > 0) return askedWeights(folder, asked);
  const top = folder.files.filter((name) => !name.includes('/'));
  if (top.includes(INDEX)) return { kind: 'index', name: INDEX };
  if (top.includes(SINGLE)) return { kind: 'safetensors', names: [SINGLE] };

  const gguf = ggufModels(folder.files);
  const tensors = top.filter((name) => name.endsWith('.safetensors'));
  // A second copy in the layout of the original authors.
  const named = tensors.filter((name) => !name.startsWith('consolidated'));
  const safetensors = named.length > 0 ? named : tensors;
  if (safetensors.length > 0 && (gguf.length === 0 || top.includes('config.json'))) {
    return { kind: 'safetensors', names: shardSet(folder, safetensors) };
  }
  if (gguf.length === 1) return { kind: 'gguf', names: wholeSplit(folder, gguf[0]!) };
  if (gguf.length > 1) {
    throw new ModelLoadError(`${folder.location}: expected one GGUF model, got several; name one of: ${list(gguf)}`);
  }
  throw noWeights(folder, top);
}

function askedWeights(folder: ModelFolder, asked: readonly string[]): WeightFiles {
  for (const name of asked) {
    if (folder.files.includes(name)) continue;
    const offered = folder.files.filter((file) => /\.(gguf|safetensors)$/.test(file));
    throw new ModelLoadError(`${folder.location}: has no file ${JSON.stringify(name)}; it has: ${list(offered)}`);
  }
  if (asked.every((name) => name.endsWith('.gguf'))) {
    return { kind: 'gguf', names: asked.length === 1 ? wholeSplit(folder, asked[0]!) : asked };
  }
  if (asked.every((name) => name.endsWith('.safetensors'))) return { kind: 'safetensors', names: asked };
  throw new UnsupportedError(`${folder.location}: expected .gguf or .safetensors files, got ${list(asked)}`);
}

/** One name for each model: first parts stand for split ones; projectors and importance matrices are no models. */
function ggufModels(files: readonly string[]): string[] {
  return files.filter((file) => {
    const name = baseName(file).toLowerCase();
    if (!name.endsWith('.gguf') || name.startsWith('mmproj') || name.includes('imatrix')) return false;
    return (splitName(file)?.part ?? 1) === 1;
  });
}

function wholeSplit(folder: ModelFolder, name: string): readonly string[] {
  const split = splitName(name);
  if (split === undefined) return [name];
  const known = new Set(folder.files);
  const names: string[] = [];
  for (let part = 1; part <= split.count; part++) {
    const file = splitPart(split, part);
    if (!known.has(file)) {
      throw new ModelLoadError(`${folder.location}: expected ${split.count} parts of the model, ${file} is missing`);
    }
    names.push(file);
  }
  return names;
}

function shardSet(folder: ModelFolder, names: readonly string[]): readonly string[] {
  if (names.length === 1 && !SHARD_NAME.test(names[0]!)) return names;
  const shards = names.map((name) => SHARD_NAME.exec(name));
  const [, prefix, , count] = shards[0] ?? [];
  const same = count !== undefined && shards.every((shard) => shard?.[1] === prefix && shard?.[3] === count);
  if (!same) {
    throw new ModelLoadError(`${folder.location}: expected one set of weights, got several files: ${list(names)}`);
  }
  if (names.length !== Number(count)) {
    throw new ModelLoadError(
      `${folder.location}: expected ${Number(count)} shards, got ${names.length}: ${list(names)}`,
    );
  }
  return names;
}

function noWeights(folder: ModelFolder, top: readonly string[]): Error {
  const other = top.filter((name) => /\.(bin|pt|pth|ckpt|h5|msgpack|onnx|uqff|npz)$/.test(name));
  if (other.length > 0) {
    return new UnsupportedError(
      `${folder.location}: expected weights as .safetensors or .gguf, got ${list(other)}; convert them to safetensors`,
      { feature: 'weight format' },
    );
  }
  return new ModelLoadError(
    `${folder.location}: expected weights (model.safetensors, ${INDEX} or a .gguf file), found: ${list(top) || 'nothing'}`,
  );
}

function list(names: readonly string[]): string {
  const more = names.length - MAX_NAMES_SHOWN;
  return names.slice(0, MAX_NAMES_SHOWN).join(', ') + (more > 0 ? `, and ${more} more` : '');
}
