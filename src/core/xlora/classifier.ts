/** X-LoRA's classifier (Buehler & Buehler 2024, arXiv 2402.07148): from features to what each adapter counts for. */
import type { Backend, LinearOptions } from '../backend.ts';
import { fill, LOWEST } from '../composed/basics.ts';
import { FormatError } from '../errors.ts';
import { deviceMatrix } from '../lora/build.ts';
import {
  addInto,
  binary,
  cast,
  expand,
  linear,
  mulInto,
  scale,
  scaleInto,
  slice,
  softmax,
  topk,
  unaryInto,
} from '../ops.ts';
import { configError } from '../schema.ts';
import { sizeOf, type Tensor } from '../tensor.ts';
import type { Weight } from '../weight.ts';
import type { Codec, SourceTensor } from '../weights.ts';
import { readValues } from '../weights.ts';
import type { XLoraConfig } from './config.ts';

const INNER = /^inner\.(\d+)\.weight$/;

interface ClassifierLayer {
  readonly weight: Weight;
  readonly options: LinearOptions;
}

export interface ClassifierParts {
  readonly backend: Backend;
  readonly codec: Codec;
  readonly tensors: ReadonlyMap<string, SourceTensor>;
  readonly config: XLoraConfig;
  readonly adapters: number;
  /** Of the model. */
  readonly hidden: number;
}

export class Classifier {
  /** Scalings of one row: for each module that has its own, one of each adapter. */
  readonly width: number;
  /** Modules that have scalings of their own; 1 where all share them. */
  readonly modules: number;
  readonly #layers: readonly ClassifierLayer[];
  readonly #config: XLoraConfig;
  readonly #adapters: number;
  /** `0, 1, …`, to find the best adapters by. */
  readonly #places: Tensor;

  private constructor(layers: readonly ClassifierLayer[], { backend, config, adapters }: ClassifierParts) {
    this.#layers = layers;
    this.#config = config;
    this.#adapters = adapters;
    this.width = layers.at(-1)!.weight.shape[0];
    this.modules = this.width / adapters;
    this.#places = backend.upload(
      Float32Array.from({ length: adapters }, (_, i) => i),
      [1, adapters],
    );
  }

  /** Throws `ConfigError` or `FormatError` where configuration, file and model do not agree. */
  static async load(parts: ClassifierParts): Promise<Classifier> {
    const { config, adapters, hidden } = parts;
    if (config.hiddenSize !== hidden) {
      throw configError('xlora_config.json: hidden_size', `${hidden} as in the model`, config.hiddenSize);
    }
    if (config.topK !== undefined && config.topK > adapters) {
      throw configError('xlora_config.json: top_k_lora', `at most the ${adapters} adapters`, config.topK);
    }
    const names = namesOf(parts);
    checkShapes(names, parts);
    const layers: ClassifierLayer[] = [];
    try {
      for (const name of names) layers.push(await loadLayer(name, parts));
      return new Classifier(layers, parts);
    } catch (error) {
      for (const layer of layers) disposeLayer(layer);
      throw error;
    }
  }

  /** `[rows, width]` from hidden states `[rows, hidden]`; call inside `backend.scope`. */
  run(hidden: Tensor): Tensor {
    const { relu, softmax: normal, temperature, topK, softmaxTopK } = this.#config;
    const last = this.#layers.length - 1;
    let x = hidden;
    for (let i = 0; i <= last; i++) {
      const { weight, options } = this.#layers[i]!;
      x = linear(x, weight, options);
      if (relu && i < last) unaryInto('relu', x);
    }
    const rows = x.shape[0]!;
    x = x.reshape([rows * this.modules, this.#adapters]);
    if (normal) x = softmax(x, 1 / temperature);
    if (topK !== undefined && topK < this.#adapters) mulInto(x, this.#best(x, topK));
    if (softmaxTopK) x = softmaxOfChosen(x);
    return x.reshape([rows, this.width]);
  }

  dispose(): void {
    for (const layer of this.#layers) disposeLayer(layer);
    this.#places.dispose();
  }

  /** 1 where one of the `k` largest of a row stands, else 0. */
  #best(x: Tensor, k: number): Tensor {
    const picked = cast(topk(x, k).indices, 'f32');
    const places = expand(this.#places, x.shape);
    const mask = binary('equal', places, slice(picked, 1, 0, 1));
    for (let i = 1; i < k; i++) addInto(mask, binary('equal', places, slice(picked, 1, i, i + 1)));
    return mask;
  }
}

/** A softmax over the entries of each row that are not zero; the others stay zero. */
function softmaxOfChosen(x: Tensor): Tensor {
  const zeros = binary('equal', x, fill(x.backend, [1], 0));
  const chosen = scale(zeros, -1, 1);
  return mulInto(softmax(x, 1, scaleInto(zeros, LOWEST)), chosen);
}

/** The matrices in order. Activations between them may have taken numbers, too. */
function namesOf({ tensors, config }: ClassifierParts): string[] {
  const numbers = [...tensors.keys()].flatMap((name) => INNER.exec(name)?.[1] ?? []);
  const names = numbers.sort((a, b) => Number(a) - Number(b)).map((n) => `inner.${n}`);
  if (names.length !== config.depth - 1) {
    throw configError(
      'xlora_config.json: xlora_depth',
      `${names.length + 1} as the classifier has matrices`,
      config.depth,
    );
  }
  names.push('last');
  const known = new Set(names.flatMap((n) => (config.bias ? [`${n}.weight`, `${n}.bias`] : [`${n}.weight`])));
  const odd = [...tensors.keys()].find((name) => !known.has(name));
  if (odd !== undefined)
    throw new FormatError(`xlora classifier: expected ${[...known].join(', ')}, got ${JSON.stringify(odd)}`);
  for (const name of known) {
    if (!tensors.has(name)) throw new FormatError(`xlora classifier: expected a tensor ${name}, got none`);
  }
  return names;
}

function checkShapes(names: readonly string[], { tensors, config, adapters, hidden }: ClassifierParts): void {
  let width = hidden;
  for (const [i, name] of names.entries()) {
    const { shape } = tensors.get(`${name}.weight`)!;
    const [out = 0, ins] = shape;
    const inner = i < names.length - 1;
    const fits = inner
      ? config.size === undefined || out === config.size
      : config.layerwise
        ? out % adapters === 0
        : out === adapters;
    if (shape.length !== 2 || ins !== width || out < 1 || !fits) {
      const rows = inner ? (config.size ?? 'n') : config.layerwise ? `n × ${adapters}` : adapters;
      throw new FormatError(`xlora classifier: ${name}.weight: expected shape [${rows},${width}], got [${shape}]`);
    }
    const bias = tensors.get(`${name}.bias`);
    if (bias && sizeOf(bias.shape) !== out) {
      throw new FormatError(`xlora classifier: ${name}.bias: expected shape [${out}], got [${bias.shape}]`);
    }
    width = out;
  }
}

async function loadLayer(name: string, { backend, codec, tensors }: ClassifierParts): Promise<ClassifierLayer> {
  const source = tensors.get(`${name}.weight`)!;
  const [out, width] = source.shape as readonly [number, number];
  const weight = await deviceMatrix(backend, `xlora classifier: ${name}`, await readValues(source, codec), [
    out,
    width,
  ]);
  const bias = tensors.get(`${name}.bias`);
  return { weight, options: { bias: bias && backend.upload(await readValues(bias, codec), [out]) } };
}

function disposeLayer({ weight, options }: ClassifierLayer): void {
  weight.dispose();
  options.bias?.dispose();
}
