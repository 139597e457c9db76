/** Builders: `LoadOptions` step by step, then a model. */
import { ConfigError } from './core/errors.ts';
import type { AdapterInput, LoraAdapterSpec, LoraRuntimeConfig } from './core/sdk/adapters.ts';
import type { AnyMoeConfig, AnyMoeOptions } from './core/sdk/anyMoe.ts';
import { LoadOptionsBuilder } from './core/sdk/builders.ts';
import type { Model } from './core/sdk/model.ts';
import type { LoadOptions, ModelSpec } from './core/sdk/options.ts';
import type { LegacyLoraOptions, Ordering, XLoraOptions } from './core/sdk/xlora.ts';
import { loadModel } from './load.ts';

/** Loads any model this version knows: a folder, a `.gguf` or `.uqff` file, a hub id, a URL, or the embedded model's name. */
export class ModelBuilder extends LoadOptionsBuilder {
  readonly #spec: ModelSpec;

  constructor(pathOrId: ModelSpec) {
    super();
    this.#spec = pathOrId;
  }

  /** Loads the model. Rejects with `ModelLoadError`, or `UnsupportedError` naming an option or architecture. */
  async build(): Promise<Model> {
    return loadModel(this.#spec, this.toOptions());
  }
}

/** Loads a text model. */
export class TextModelBuilder extends ModelBuilder {}

/** Loads a text model together with LoRA adapters; more can be loaded later. */
export class LoraModelBuilder {
  readonly #model: ModelBuilder;
  readonly #adapters: LoraAdapterSpec[] = [];
  #config: LoraRuntimeConfig | undefined;

  private constructor(model: ModelBuilder) {
    this.#model = model;
  }

  static fromTextModelBuilder(model: ModelBuilder): LoraModelBuilder {
    return new LoraModelBuilder(model);
  }

  withAdapter(alias: string, source: AdapterInput): this {
    this.#adapters.push({ alias, source });
    return this;
  }

  /** The adapter of one revision of a hub repository. */
  withAdapterRevision(alias: string, source: AdapterInput, revision: string): this {
    this.#adapters.push({ alias, source, revision });
    return this;
  }

  withAdapters(adapters: readonly LoraAdapterSpec[]): this {
    this.#adapters.push(...adapters);
    return this;
  }

  withRuntimeConfig(config: LoraRuntimeConfig): this {
    this.#config = config;
    return this;
  }

  /** Loads the model and its adapters. Rejects as `ModelBuilder.build`, or with `LoraAdapterError`. */
  async build(): Promise<Model> {
    return this.#model.withLora(this.#config).withLoraAdapters(this.#adapters).build();
  }
}

/** Loads a GGUF model out of a folder or hub repository: its files, or the first shard of a split one. */
export class GgufModelBuilder extends ModelBuilder {
  constructor(folderOrRepo: string, files: readonly string[]) {
    super(folderOrRepo);
    if (!Array.isArray(files) || files.length === 0) {
      throw new ConfigError(`files: expected the names of GGUF files, got ${JSON.stringify(files) ?? 'nothing'}`);
    }
    this.set({ files: [...files] } satisfies LoadOptions);
  }

  /** Takes tokenizer and chat template from another folder or repository. */
  withTokModelId(id: string): this {
    return this.set({ tokModelId: id });
  }
}

/** Loads a text model with an X-LoRA: adapters that a classifier mixes anew for every token. */
export class XLoraModelBuilder {
  readonly #model: ModelBuilder;
  #xlora: XLoraOptions;

  /** `ordering`: an ordering, or the path of its JSON file. */
  constructor(model: ModelBuilder, xloraModelId: AdapterInput, ordering?: Ordering | string) {
    this.#model = model;
    this.#xlora = { modelId: xloraModelId, ...(ordering === undefined ? {} : { ordering }) };
  }

  /** After so many tokens of an answer the mixture stays as it is, and tokens take one pass instead of two. */
  tgtNonGranularIndex(index: number): this {
    this.#xlora = { ...this.#xlora, tgtNonGranularIndex: index };
    return this;
  }

  /** Loads the model and its adapters. Rejects as `ModelBuilder.build`, or with `LoraAdapterError`. */
  async build(): Promise<Model> {
    return this.#model.withXLora(this.#xlora).build();
  }
}

/** The same for a GGUF model. */
export class GgufXLoraModelBuilder extends XLoraModelBuilder {}

/** Loads a GGUF model with adapters that are all added to it for good. */
export class GgufLoraModelBuilder {
  readonly #model: GgufModelBuilder;
  readonly #lora: LegacyLoraOptions;

  /** `ordering`: an ordering, or the path of its JSON file. */
  constructor(model: GgufModelBuilder, loraModelId: AdapterInput, ordering?: Ordering | string) {
    this.#model = model;
    this.#lora = { modelId: loraModelId, ...(ordering === undefined ? {} : { ordering }) };
  }

  /** Loads the model and its adapters. Rejects as `ModelBuilder.build`, or with `LoraAdapterError`. */
  async build(): Promise<Model> {
    return this.#model.withLegacyLora(this.#lora).build();
  }
}

/** Loads a text model out of UQFF files: names of files or types in a folder or hub repository; the first of a set is enough. */
export class UqffTextModelBuilder extends TextModelBuilder {
  constructor(modelId: string, uqffFiles: readonly string[]) {
    super(modelId);
    if (!Array.isArray(uqffFiles) || uqffFiles.length === 0) {
      throw new ConfigError(`uqffFiles: expected names of UQFF files, got ${JSON.stringify(uqffFiles) ?? 'nothing'}`);
    }
    this.withFromUqff(uqffFiles);
  }
}

/** What stands behind the base: see `AnyMoeOptions`. */
type AnyMoeParts = [
  config: AnyMoeConfig,
  dataset: string | undefined,
  prefix: string,
  mlp: string,
  modelIds: readonly AdapterInput[],
  layers: readonly number[],
];

/** Loads a model with MLPs of other checkpoints beside its own, and gates that choose between them. */
export class AnyMoeModelBuilder {
  readonly #model: ModelBuilder;
  readonly #options: AnyMoeOptions;

  private constructor(model: ModelBuilder, options: AnyMoeOptions) {
    this.#model = model;
    this.#options = options;
  }

  /**
   * `dataset`: the path of the file that the gates are trained on, where they are. What `base` says of the importance of its
   * weights is left out.
   */
  static fromTextBuilder(base: TextModelBuilder, ...parts: AnyMoeParts): AnyMoeModelBuilder {
    return AnyMoeModelBuilder.#of(base.without('imatrix', 'calibrationFile'), parts);
  }

  /** The same for a GGUF model. */
  static fromGgufBuilder(base: GgufModelBuilder, ...parts: AnyMoeParts): AnyMoeModelBuilder {
    return AnyMoeModelBuilder.#of(base, parts);
  }

  static #of(model: ModelBuilder, [config, datasetPath, prefix, mlp, modelIds, layers]: AnyMoeParts) {
    return new AnyMoeModelBuilder(model, { config, datasetPath, prefix, mlp, modelIds, layers });
  }

  /** Loads the model and its experts, and trains the gates or reads them. Rejects as `ModelBuilder.build`. */
  async build(): Promise<Model> {
    return this.#model.withAnyMoe(this.#options).build();
  }
}
