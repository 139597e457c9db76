/** Files, architecture and weights of one model on a back-end: what a model and the one that drafts for it have alike. */
import type { Backend } from './core/backend.ts';
import { ModelLoadError } from './core/errors.ts';
import { ggufModel } from './core/io/ggufModel.ts';
import type { ModelFiles } from './core/io/resolve.ts';
import { safetensorsSource } from './core/io/weightSource.ts';
import type { Decoder } from './core/model.ts';
import type { Platform } from './core/platform.ts';
import type { LoadOptions, ModelSpec } from './core/sdk/options.ts';
import type { Releases } from './core/sdk/releases.ts';
import type { Weight } from './core/weight.ts';
import { type WeightSource, Weights } from './core/weights.ts';
import { findModel } from './findModel.ts';
import { buildDecoder } from './models/arch.ts';
import { archOf } from './models/registry.ts';
import { quantizedSource } from './quant/checkpoint/index.ts';
import { dequantizeInto } from './quant/index.ts';

/** Where a decoder is put. The back-end may still be starting while files are found and headers read. */
export interface Home {
  readonly platform: Platform;
  readonly backend: Promise<Backend>;
  readonly releases: Releases;
}

export interface OpenedDecoder {
  readonly files: ModelFiles;
  /** The parsed `config.json`, or what a GGUF header says of it. */
  readonly config: unknown;
  readonly arch: Awaited<ReturnType<typeof archOf>>;
  readonly decoder: Decoder;
  /** Those that `load` has read. */
  weights(): Iterable<Weight>;
  /** Reads the weights; until then the decoder cannot run. */
  load(options: Pick<LoadOptions, 'signal' | 'onProgress'>): Promise<void>;
  closeFiles(): Promise<void>;
}

/** Opens a model of any kind; only headers are read. Files and weights are given back by `releases`. */
export async function openDecoder(spec: ModelSpec, options: LoadOptions, home: Home): Promise<OpenedDecoder> {
  const { platform, releases } = home;
  const files = await findModel(spec, options, platform);
  const closeFiles = releases.add(() => files.close());
  const { config, source } = files.kind === 'gguf' ? await ggufModel(files.checkpoint) : await safetensorsModel(files);
  const arch = await archOf(config);
  const backend = await home.backend;
  const weights = Weights.open({ backend, source, codec: { dequantizeInto }, dtype: options.dtype ?? 'auto' });
  releases.add(() => weights.dispose());
  const decoder = buildDecoder(arch, weights, arch.config(config));
  return {
    files,
    config,
    arch,
    decoder,
    weights: () => weights.weights.values(),
    load: ({ signal, onProgress }) =>
      weights.load({
        ...(signal ? { signal } : {}),
        onProgress: ({ done, total, item }) => onProgress?.({ stage: 'load', done, total, unit: 'bytes', item }),
      }),
    closeFiles,
  };
}

/** Packed tensors of quantized checkpoints are read as the matrices they stand for. */
async function safetensorsModel(files: ModelFiles): Promise<{ config: unknown; source: WeightSource }> {
  const config = await configOf(files);
  return { config, source: await quantizedSource(safetensorsSource(files.checkpoint), config) };
}

async function configOf(files: ModelFiles): Promise<unknown> {
  const config = await files.config();
  if (config !== undefined) return config;
  throw new ModelLoadError(
    `${files.location}: expected a config.json beside the weights, found none; add the model's own`,
  );
}
