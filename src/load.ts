/** From a name to a running model: files, architecture, back-end, weights, runner, engine. */
import { createBackend } from './backend.ts';
import type { Backend } from './core/backend.ts';
import { Engine } from './core/engine/engine.ts';
import { blocksForGuesses } from './core/engine/headDrafter.ts';
import type { Drafter } from './core/engine/types.ts';
import { AbortError, ConfigError, ModelLoadError, messageOf, TramontaneError } from './core/errors.ts';
import type { ModelFiles } from './core/io/resolve.ts';
import type { Platform } from './core/platform.ts';
import { DecoderRunner } from './core/runner.ts';
import { choosesBySequence } from './core/sdk/anyMoe.ts';
import type { CacheSize } from './core/sdk/cacheSize.ts';
import { blockSizeOf, cacheSize, cacheSpecs } from './core/sdk/cacheSize.ts';
import type { GenerationDefaults } from './core/sdk/generationConfig.ts';
import { generationDefaults } from './core/sdk/generationConfig.ts';
import { loggerOf, logThroughput } from './core/sdk/logging.ts';
import { Model } from './core/sdk/model.ts';
import type { LoadOptions, ModelSpec } from './core/sdk/options.ts';
import { checkLoadOptions } from './core/sdk/options.ts';
import { Releases } from './core/sdk/releases.ts';
import type { ModelText } from './core/sdk/text.ts';
import { EMBEDDED_MODEL, isEmbeddedName } from './embedded.ts';
import { loadGates, openAnyMoe } from './loadAnyMoe.ts';
import { loadDrafter } from './loadDrafter.ts';
import { type Adapters, loadAdapters, makeAdapters } from './loadLora.ts';
import { loadOrdered } from './loadOrdered.ts';
import { loadText } from './loadText.ts';
import { type OpenedDecoder, openDecoder } from './openDecoder.ts';
import { detectPlatform } from './platform/detect.ts';
import { hostTurn } from './platform/yield.ts';
import { parseIsq } from './quant/isq/types.ts';

/** Rows of a step where every prompt runs in one: more than chats usually have. */
const WHOLE_PROMPT = 2048;

/**
 * Loads a model: an embedded name, a folder in Hugging Face layout, a `.gguf` or `.uqff` file, a hub id, a URL, a `Blob` or bytes.
 * Rejects with `ModelLoadError` (files), `UnsupportedError` (options, formats, architectures) or `AbortError`; all memory
 * taken is returned then.
 */
export async function loadModel(spec: ModelSpec, options: LoadOptions = {}): Promise<Model> {
  checkLoadOptions(options);
  const platform = await detectPlatform({ opfs: options.hfCachePath !== undefined });
  const releases = new Releases();
  try {
    const known = await measured(spec, withoutPrefixes(options));
    return (await load(spec, await written(spec, known), platform, releases)).model;
  } catch (error) {
    await releases.run();
    if (options.signal?.aborted) throw new AbortError('loading was cancelled', { cause: options.signal.reason });
    if (error instanceof TramontaneError) throw error;
    throw new ModelLoadError(`loading failed: ${messageOf(error)}`, { cause: error });
  }
}

/** Has the text of `calibrationFile` read. */
async function measured(spec: ModelSpec, options: LoadOptions): Promise<LoadOptions> {
  if (options.calibrationFile === undefined) return options;
  const { withImportance } = await import('./measureImportance.ts');
  return withImportance(spec, options);
}

/** Writes UQFF files where the options ask for them; the model is then loaded as the first type. */
async function written(spec: ModelSpec, options: LoadOptions): Promise<LoadOptions> {
  const { writeUqff: target, isq, autoIsq, ...rest } = options;
  if (target === undefined) return options;
  const { output, types = [isq ?? autoIsq], ...about } = typeof target === 'string' ? { output: target } : target;
  const [first] = types;
  if (first === undefined) throw new ConfigError('option writeUqff: expected isq or types beside it, got neither');
  if (isq !== undefined && parseIsq(isq) !== parseIsq(first)) {
    throw new ConfigError(`option isq: expected the first of writeUqff.types (${first}), got ${isq}`);
  }
  const { writeUqff } = await import('./writeUqff.ts');
  await writeUqff(spec, output, { ...rest, ...about, types: types as (string | number)[] });
  return { ...rest, isq: first };
}

/** A model with what it is made of. */
export interface Loaded {
  readonly model: Model;
  readonly opened: OpenedDecoder;
  readonly engine: Engine;
  readonly text: ModelText | undefined;
}

/** Loads a model for as long as `use` takes. */
export async function whileLoaded<T>(
  spec: ModelSpec,
  options: LoadOptions,
  use: (loaded: Loaded) => Promise<T>,
): Promise<T> {
  const platform = await detectPlatform({ opfs: options.hfCachePath !== undefined });
  const releases = new Releases();
  try {
    return await use(await load(spec, options, platform, releases));
  } finally {
    await releases.run();
  }
}

async function load(spec: ModelSpec, options: LoadOptions, platform: Platform, releases: Releases): Promise<Loaded> {
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
  const warn = (message: string) => log('warn', message);
  const anyMoe = options.anyMoe && (await openAnyMoe(options, { platform, backend: await starting, releases }));
  const home = { platform, backend: starting, releases, warn };
  const opened = await openDecoder(spec, options, home, anyMoe?.mixtures);
  const { files, config, arch } = opened;
  // Reading is mostly waiting: the tokenizer is made meanwhile.
  const [text, defaults] = await all(
    loadText(files, options, platform),
    defaultsOf(files, config),
    opened.load(options),
  );
  await opened.closeFiles();
  // Weights that are quantized again later are read again.
  if (!opened.quantization) await anyMoe?.closeFiles();
  const backend = await starting;
  const mixing = await loadOrdered(options, {
    platform,
    backend,
    decoder: opened.decoder,
    weights: opened.weights(),
    releases,
  });
  const decoder = mixing?.decoder ?? opened.decoder;
  const caches = cacheSpecs(decoder.caches, opened.weights(), options);
  const blockSize = blockSizeOf(options, backend.kvBlockStep);
  if (blockSize !== blockSizeOf(options)) {
    log(
      'warn',
      `pagedAttn.blockSize: ${backend.name} stores ${backend.kvBlockStep} positions together; taking ${blockSize}`,
    );
  }
  const size = cacheSize(caches, decoder.maxPositions, options, decoder.states, blockSize);
  const adapters = makeAdapters(options, platform, { backend, weights: opened.weights(), maxRows: size.maxRows });
  const served = { ...decoder, caches, maxPositions: size.contextLength };
  const extraBlocks = decoder.predictor && blocksForGuesses(size.maxSequences, blockSize, options.mtp?.nPredict);
  const runner = new DecoderRunner(
    backend,
    served,
    { ...size, extraBlocks },
    mixing ?? anyMoe?.mixtures ?? adapters?.rows,
  );
  if (adapters) releases.add(() => adapters.runtime.dispose());
  releases.add(() => runner.dispose());
  const drafter = await loadDrafter({ runner, text }, options, home);
  if (anyMoe) await loadGates(anyMoe, options, { platform, backend, releases, runner, text });
  const engine = makeEngine(runner, size, { defaults, text, options, drafter, adapters });
  releases.add(() => engine.dispose());
  if (adapters) await loadAdapters(adapters, engine, options);
  if (options.throughputLogging) releases.add(logThroughput(() => engine.stats(), log));
  const { name: device, threads, simd } = backend.info;
  const ms = (performance.now() - started).toFixed(0);
  log(
    'info',
    `${files.name}: loaded in ${ms} ms on ${device} (${simd}, ${threads} threads), context ${size.contextLength}`,
  );
  const names = namesOf(spec, files);
  const model = new Model({
    ...names,
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
    adapters,
    warn,
    quantization: opened.quantization?.serving(
      {
        exclusive: (task, how) => engine.runExclusive(task, how),
        between: (task) => engine.betweenSteps(task),
        forgetPrefixes: () => engine.forgetPrefixes(),
      },
      names.name,
    ),
    memory: () => backend.memory(),
    dispose: () => releases.run(),
  });
  return { model, opened, engine, text };
}

/** The options where what is computed for a token depends on more than the tokens before it: nothing is reused then. */
function withoutPrefixes(options: LoadOptions): LoadOptions {
  const { xlora, anyMoe, maxBatchTokens = WHOLE_PROMPT } = options;
  if (anyMoe && choosesBySequence(anyMoe)) return { ...options, prefixCacheN: 0, maxBatchTokens };
  return xlora ? { ...options, prefixCacheN: 0 } : options;
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
  parts: {
    readonly defaults: GenerationDefaults;
    readonly text: ModelText | undefined;
    readonly options: LoadOptions;
    readonly drafter: Drafter | undefined;
    readonly adapters: Adapters | undefined;
  },
): Engine {
  const { defaults, text, options, drafter, adapters } = parts;
  return new Engine(runner, {
    eosIds: [...new Set([...defaults.eosIds, ...(text?.endIds() ?? [])])],
    maxNumSeqs: size.maxSequences,
    maxBatchTokens: size.maxRows,
    prefixCache: options.prefixCacheN !== 0,
    wholePrompts: options.anyMoe !== undefined && choosesBySequence(options.anyMoe),
    noKvCache: options.noKvCache,
    drafter,
    cacheLimit: size.cacheLimit,
    seed: options.seed,
    adapters: adapters?.runtime,
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
