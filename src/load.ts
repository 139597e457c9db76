/** From a name to a running model: files, architecture, back-end, weights, runner, engine. */
import { createBackend } from './backend.ts';
import type { Backend } from './core/backend.ts';
import { Engine } from './core/engine/engine.ts';
import { AbortError, ModelLoadError, messageOf, TramontaneError } from './core/errors.ts';
import { ggufModel } from './core/io/ggufModel.ts';
import type { ModelFiles } from './core/io/resolve.ts';
import { safetensorsSource } from './core/io/weightSource.ts';
import type { Platform } from './core/platform.ts';
import { DecoderRunner } from './core/runner.ts';
import type { CacheSize } from './core/sdk/cacheSize.ts';
import { cacheSize, cacheSpecs } from './core/sdk/cacheSize.ts';
import type { GenerationDefaults } from './core/sdk/generationConfig.ts';
import { generationDefaults } from './core/sdk/generationConfig.ts';
import { loggerOf, logThroughput } from './core/sdk/logging.ts';
import { Model } from './core/sdk/model.ts';
import type { LoadOptions, ModelSpec } from './core/sdk/options.ts';
import { checkLoadOptions } from './core/sdk/options.ts';
import { Releases } from './core/sdk/releases.ts';
import type { ModelText } from './core/sdk/text.ts';
import { type WeightSource, Weights } from './core/weights.ts';
import { EMBEDDED_MODEL, isEmbeddedName } from './embedded.ts';
import { findModel } from './findModel.ts';
import { loadText } from './loadText.ts';
import { buildDecoder } from './models/arch.ts';
import { archOf } from './models/registry.ts';
import { detectPlatform } from './platform/detect.ts';
import { hostTurn } from './platform/yield.ts';
import { quantizedSource } from './quant/checkpoint/index.ts';
import { dequantizeInto } from './quant/index.ts';

/**
 * Loads a model: an embedded name, a folder in Hugging Face layout, a `.gguf` file, a hub id, a URL, a `Blob` or bytes.
 * Rejects with `ModelLoadError` (files), `UnsupportedError` (options, formats, architectures) or `AbortError`; all memory
 * taken is returned then.
 */
export async function loadModel(spec: ModelSpec, options: LoadOptions = {}): Promise<Model> {
  checkLoadOptions(options);
  const platform = await detectPlatform({ opfs: options.hfCachePath !== undefined });
  const releases = new Releases();
  try {
    return await load(spec, options, platform, releases);
  } catch (error) {
    await releases.run();
    if (options.signal?.aborted) throw new AbortError('loading was cancelled', { cause: options.signal.reason });
    if (error instanceof TramontaneError) throw error;
    throw new ModelLoadError(`loading failed: ${messageOf(error)}`, { cause: error });
  }
}

async function load(spec: ModelSpec, options: LoadOptions, platform: Platform, releases: Releases): Promise<Model> {
  const started = performance.now();
  const log = loggerOf(options.logging, platform.env('TRAMONTANE_LOG'));
  options.signal?.throwIfAborted();
  // The back-end starts its workers while files are found and headers read.
  const starting = startBackend(options, platform);
  releases.add(() =>
    starting.then(
      (b) => b.dispose(),
      () => undefined,
    ),
  );
  const files = await findModel(spec, options, platform);
  const closeFiles = releases.add(() => files.close());
  const { config, source } = files.kind === 'gguf' ? await ggufModel(files.checkpoint) : await safetensorsModel(files);
  const arch = await archOf(config);
  const backend = await starting;
  const weights = Weights.open({ backend, source, codec: { dequantizeInto }, dtype: options.dtype ?? 'auto' });
  releases.add(() => weights.dispose());
  const decoder = buildDecoder(arch, weights, arch.config(config));
  // Reading is mostly waiting: the tokenizer is made meanwhile.
  const [text, defaults] = await all(
    loadText(files, options, platform),
    defaultsOf(files, config),
    weights.load({
      ...(options.signal ? { signal: options.signal } : {}),
      onProgress: ({ done, total, item }) => options.onProgress?.({ stage: 'load', done, total, unit: 'bytes', item }),
    }),
  );
  await closeFiles();
  const caches = cacheSpecs(decoder.caches, weights.weights.values(), options);
  const size = cacheSize(caches, decoder.maxPositions, options, decoder.states);
  const runner = new DecoderRunner(backend, { ...decoder, caches, maxPositions: size.contextLength }, size);
  releases.add(() => runner.dispose());
  const engine = makeEngine(runner, size, defaults, text, options);
  releases.add(() => engine.dispose());
  if (options.throughputLogging) releases.add(logThroughput(() => engine.stats(), log));
  const { name: device, threads, simd } = backend.info;
  const ms = (performance.now() - started).toFixed(0);
  log(
    'info',
    `${files.name}: loaded in ${ms} ms on ${device} (${simd}, ${threads} threads), context ${size.contextLength}`,
  );
  return new Model({
    ...namesOf(spec, files),
    info: {
      kind: arch.hf[0] ?? 'text',
      device,
      category: 'text',
      modalities: { input: ['text'], output: ['text'] },
      maxSeqLen: size.contextLength,
      generationDefaults: defaults,
      vocabSize: decoder.vocab,
      hasTokenizer: text !== undefined,
      hasChatTemplate: text?.template !== undefined,
      backend: backend.info,
    },
    engine,
    text,
    defaults,
    warn: (message) => log('warn', message),
    memory: () => backend.memory(),
    dispose: () => releases.run(),
  });
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

function startBackend(options: LoadOptions, platform: Platform): Promise<Backend> {
  const { threads, simd, strict, adapter } = options;
  const device = options.forceCpu ? 'cpu' : (options.device ?? 'auto');
  const backend = createBackend(device, { threads, simd, strict, adapter }, platform);
  // It is awaited later; until then a failure must not count as unhandled.
  backend.catch(() => undefined);
  return backend;
}

function makeEngine(
  runner: DecoderRunner,
  size: CacheSize,
  defaults: GenerationDefaults,
  text: ModelText | undefined,
  options: LoadOptions,
): Engine {
  return new Engine(runner, {
    eosIds: [...new Set([...defaults.eosIds, ...(text?.endIds() ?? [])])],
    maxNumSeqs: size.maxSequences,
    maxBatchTokens: size.maxRows,
    prefixCache: options.prefixCacheN !== 0,
    noKvCache: options.noKvCache,
    seed: options.seed,
    yieldToHost: hostTurn(),
  });
}

async function defaultsOf(files: ModelFiles, config: unknown): Promise<GenerationDefaults> {
  const own = await files.generationConfig();
  const file = own === undefined ? 'config.json' : 'generation_config.json';
  const fallback = generationDefaults(config, 'config.json');
  const defaults = own === undefined ? fallback : generationDefaults(own, `${files.location}: ${file}`);
  return defaults.eosIds.length > 0 ? defaults : { ...defaults, eosIds: fallback.eosIds };
}

function namesOf(spec: ModelSpec, files: ModelFiles): { readonly name: string; readonly aliases: readonly string[] } {
  if (typeof spec === 'string' && isEmbeddedName(spec)) {
    return { name: EMBEDDED_MODEL.name, aliases: [spec, ...EMBEDDED_MODEL.aliases, 'SmolLM2-135M-Instruct'] };
  }
  return { name: files.name, aliases: typeof spec === 'string' ? [spec, 'default'] : ['default'] };
}

/** All results; a failure is thrown only when the others have ended too, so that nothing writes to released memory. */
async function all<T extends readonly Promise<unknown>[]>(...tasks: T): Promise<{ [K in keyof T]: Awaited<T[K]> }> {
  const settled = await Promise.allSettled(tasks);
  for (const s of settled) if (s.status === 'rejected') throw s.reason;
  return settled.map((s) => (s as PromiseFulfilledResult<unknown>).value) as { [K in keyof T]: Awaited<T[K]> };
}
