/** Builders: `LoadOptions` step by step, then a model. */
import { ConfigError } from './core/errors.ts';
import { LoadOptionsBuilder } from './core/sdk/builders.ts';
import type { Model } from './core/sdk/model.ts';
import type { LoadOptions, ModelSpec } from './core/sdk/options.ts';
import { loadModel } from './load.ts';

/** Loads any model this version knows: a folder, a `.gguf` file, a hub id, a URL, or the embedded model's name. */
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
