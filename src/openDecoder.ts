/** Files, architecture and weights of one model on a back-end: what a model and the one that drafts for it have alike. */
import type { Backend } from './core/backend.ts';
import { ConfigError, ModelLoadError, UnsupportedError } from './core/errors.ts';
import { ggufModel } from './core/io/ggufModel.ts';
import type { ModelFiles } from './core/io/resolve.ts';
import { safetensorsSource } from './core/io/weightSource.ts';
import type { MlpMixtures } from './core/mixture.ts';
import type { Decoder } from './core/model.ts';
import type { Platform } from './core/platform.ts';
import type { LoadOptions, ModelSpec } from './core/sdk/options.ts';
import type { Releases } from './core/sdk/releases.ts';
import type { Weight } from './core/weight.ts';
import { type WeightSource, Weights } from './core/weights.ts';
import { findModel } from './findModel.ts';
import { InPlace } from './isq.ts';
import { buildDecoder } from './models/arch.ts';
import { archOf } from './models/registry.ts';
import { quantizedSource } from './quant/checkpoint/index.ts';
import { uqffSource } from './quant/checkpoint/uqff.ts';
import { dequantizeInto } from './quant/index.ts';

/** Where a decoder is put. The back-end may still be starting while files are found and headers read. */
export interface Home {
  readonly platform: Platform;
  readonly backend: Promise<Backend>;
  readonly releases: Releases;
  readonly warn: (message: string) => void;
}

export interface OpenedDecoder {
  readonly files: ModelFiles;
  /** The parsed `config.json`, or what a GGUF header says of it. */
  readonly config: unknown;
  readonly arch: Awaited<ReturnType<typeof archOf>>;
  readonly decoder: Decoder;
  /** Where they come from, and by name. */
  readonly checkpoint: Weights;
  /** Those that `load` has read. */
  weights(): Iterable<Weight>;
  /** Of a model whose weights are quantized while they are read. */
  readonly quantization: InPlace | undefined;
  /** Reads the weights; until then the decoder cannot run. */
  load(options: Pick<LoadOptions, 'signal' | 'onProgress'>): Promise<void>;
  /** Closes files that nothing will be read from again. */
  closeFiles(): Promise<void>;
}

/**
 * Opens a model of any kind, some MLPs of which `mixtures` may replace; only headers are read. Files and weights are given
 * back by `releases`.
 */
export async function openDecoder(
  spec: ModelSpec,
  options: LoadOptions,
  home: Home,
  mixtures?: MlpMixtures,
): Promise<OpenedDecoder> {
  const { platform, releases } = home;
  const files = await findModel(spec, options, platform);
  const closeFiles = releases.add(() => files.close());
  if (files.kind === 'uqff' && options.imatrix !== undefined) {
    throw new ConfigError('option imatrix: expected a model that is not quantized yet, got UQFF files; leave it out');
  }
  const { config, source } = await sourceOfModel(files);
  const arch = await archOf(config);
  const backend = await home.backend;
  const quantization = await InPlace.of(options, config, backend.info.name, home);
  const dtype = options.dtype ?? 'auto';
  const codec = { dequantizeInto };
  const weights = Weights.open({ backend, source, codec, dtype, recoder: quantization?.recoder, mixtures });
  releases.add(() => weights.dispose());
  const predictor = options.mtp !== undefined && options.mtp.model === undefined;
  const decoder = buildDecoder(arch, weights, arch.config(config), {
    predictor,
    draftHead: options.mtp?.draftLmHeadIsq !== undefined,
  });
  if (predictor && !decoder.predictor) {
    throw new UnsupportedError(
      `mtp: expected a checkpoint with a head for multi-token prediction, got ${files.name} without one that this version runs; drop the option, or take mtp.model, draftModel or speculation.lookup`,
      { feature: 'mtp' },
    );
  }
  quantization?.attach(weights);
  return {
    files,
    config,
    arch,
    decoder,
    checkpoint: weights,
    weights: () => weights.weights.values(),
    quantization,
    async load({ signal, onProgress }) {
      await weights.load({
        ...(signal ? { signal } : {}),
        onProgress: ({ done, total, item }) => onProgress?.({ stage: 'load', done, total, unit: 'bytes', item }),
      });
      await quantization?.loaded();
    },
    // Weights that are quantized again later are read again.
    closeFiles: async () => (quantization ? undefined : closeFiles()),
  };
}

/** The configuration of a model, and its weights under Hugging Face names; packed tensors as the matrices they stand for. */
export async function sourceOfModel(files: ModelFiles): Promise<{ config: unknown; source: WeightSource }> {
  if (files.kind === 'gguf') return ggufModel(files.checkpoint);
  const config = await configOf(files);
  if (files.kind === 'uqff') return { config, source: uqffSource(files.checkpoint, files.residual) };
  return { config, source: await quantizedSource(safetensorsSource(files.checkpoint), config) };
}

async function configOf(files: ModelFiles): Promise<unknown> {
  const config = await files.config();
  if (config !== undefined) return config;
  throw new ModelLoadError(
    `${files.location}: expected a config.json beside the weights, found none; add the model's own`,
  );
}
