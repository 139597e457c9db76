/** Which files of a model folder hold its weights. */
import { ModelLoadError, UnsupportedError } from '../errors.ts';
import type { ModelFolder } from './folder.ts';
import { splitName, splitPart } from './gguf.ts';
import { baseName, dirName, joinPath } from './path.ts';
import { chosenSet, type UqffChoice, uqffSets } from './uqffFiles.ts';
import type { UqffReport } from './uqffReport.ts';

const INDEX = 'model.safetensors.index.json';
const SINGLE = 'model.safetensors';
export const RESIDUAL = 'residual.safetensors';
const SHARD_NAME = /^(.*)-(\d{5})-of-(\d{5})\.safetensors$/;
/** Names in a message. */
const MAX_NAMES_SHOWN = 12;

export type WeightFiles =
  | { readonly kind: 'gguf'; readonly names: readonly string[] }
  | { readonly kind: 'safetensors'; readonly names: readonly string[] }
  | { readonly kind: 'index'; readonly name: string }
  /** `residual` holds the tensors that are no quantized modules. */
  | { readonly kind: 'uqff'; readonly names: readonly string[]; readonly residual: string };

/** What a user asks for by name, and what the folder says of its UQFF files. */
export interface WeightChoice {
  readonly files?: readonly string[] | undefined;
  readonly uqff?: readonly UqffChoice[] | undefined;
  readonly report?: UqffReport | undefined;
}

/**
 * Chooses the weights of a folder: the files asked for, else the safetensors of the Hugging Face layout, else the one UQFF
 * set or GGUF model there is. Throws `ModelLoadError` when there are none or several, `UnsupportedError` for other formats.
 */
export function chooseWeights(folder: ModelFolder, choice: WeightChoice): WeightFiles {
  const { files: asked, uqff, report } = choice;
  if (uqff !== undefined) return uqffWeights(folder, uqff, report);
  if (asked !== undefined && asked.length > 0) return askedWeights(folder, asked, report);
  const top = folder.files.filter((name) => !name.includes('/'));
  if (top.includes(INDEX)) return { kind: 'index', name: INDEX };
  if (top.includes(SINGLE)) return { kind: 'safetensors', names: [SINGLE] };

  if (top.some((name) => name.endsWith('.uqff'))) return onlyUqff(folder, top, report);
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

function askedWeights(folder: ModelFolder, asked: readonly string[], report: UqffReport | undefined): WeightFiles {
  for (const name of asked) {
    if (folder.files.includes(name)) continue;
    const offered = folder.files.filter((file) => /\.(gguf|safetensors|uqff)$/.test(file));
    throw new ModelLoadError(`${folder.location}: has no file ${JSON.stringify(name)}; it has: ${list(offered)}`);
  }
  if (asked.every((name) => name.endsWith('.gguf'))) {
    return { kind: 'gguf', names: asked.length === 1 ? wholeSplit(folder, asked[0]!) : asked };
  }
  if (asked.every((name) => name.endsWith('.safetensors'))) return { kind: 'safetensors', names: asked };
  if (asked.every((name) => name.endsWith('.uqff'))) {
    return uqffWeights(
      folder,
      asked.map((name) => ({ name, stems: [] })),
      report,
    );
  }
  throw new UnsupportedError(`${folder.location}: expected .gguf, .safetensors or .uqff files, got ${list(asked)}`);
}

/** The set of the files named, of which the first is enough. */
function uqffWeights(folder: ModelFolder, choices: readonly UqffChoice[], report: UqffReport | undefined): WeightFiles {
  const sets = choices.map((choice) => chosenSet(choice, folder.files, report, folder.location));
  const names = [...new Set(sets.flat())];
  const residual = joinPath(dirName(names[0] ?? '').replace(/^\.$/, ''), RESIDUAL);
  if (folder.files.includes(residual)) return { kind: 'uqff', names, residual };
  throw new ModelLoadError(
    `${folder.location}: expected ${residual} beside ${names[0]}, found none; the folder is incomplete`,
  );
}

function onlyUqff(folder: ModelFolder, top: readonly string[], report: UqffReport | undefined): WeightFiles {
  const sets = uqffSets(top, report, folder.location);
  const firsts = sets.map((set) => set[0] as string);
  if (firsts.length === 1) return uqffWeights(folder, [{ name: firsts[0] as string, stems: [] }], report);
  throw new ModelLoadError(
    `${folder.location}: expected one set of UQFF files, got several; name one of: ${list(firsts)}`,
  );
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
  const other = top.filter((name) => /\.(bin|pt|pth|ckpt|h5|msgpack|onnx|npz)$/.test(name));
  if (other.length > 0) {
    return new UnsupportedError(
      `${folder.location}: expected weights as .safetensors or .gguf, got ${list(other)}; convert them to safetensors`,
      { feature: 'weight format' },
    );
  }
  return new ModelLoadError(
    `${folder.location}: expected weights (model.safetensors, ${INDEX}, a .gguf or .uqff file), found: ${list(top) || 'nothing'}`,
  );
}

function list(names: readonly string[]): string {
  const more = names.length - MAX_NAMES_SHOWN;
  return names.slice(0, MAX_NAMES_SHOWN).join(', ') + (more > 0 ? `, and ${more} more` : '');
}
