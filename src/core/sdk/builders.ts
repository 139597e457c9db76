/** The fluent form of `LoadOptions`. Classes with a `build` method are made where loading is wired together. */
import type { LoraAdapterSpec, LoraRuntimeConfig } from './adapters.ts';
import type { AnyMoeOptions } from './anyMoe.ts';
import type {
  CacheOptions,
  Device,
  LoadOptions,
  LoadProgressEvent,
  Logger,
  LogLevel,
  ModelDType,
  ModelSpec,
  MtpOptions,
  SpeculationOptions,
  TokenSource,
  UqffOutput,
} from './options.ts';
import type { LegacyLoraOptions, XLoraOptions } from './xlora.ts';

/** Setters shared by all text-model builders; `toOptions` gives the equal plain object. */
export class LoadOptionsBuilder {
  readonly #options: { -readonly [K in keyof LoadOptions]: LoadOptions[K] } = {};

  /** The same options as a plain object. */
  toOptions(): LoadOptions {
    return { ...this.#options };
  }

  withDevice(device: Device): this {
    return this.set({ device });
  }

  withForceCpu(): this {
    return this.set({ forceCpu: true });
  }

  withDtype(dtype: ModelDType): this {
    return this.set({ dtype });
  }

  withThreads(threads: number): this {
    return this.set({ threads });
  }

  withSimd(simd: NonNullable<LoadOptions['simd']>): this {
    return this.set({ simd });
  }

  /** Same floats in every JavaScript engine, at some cost. */
  withStrict(strict = true): this {
    return this.set({ strict });
  }

  withAdapter(adapter: string): this {
    return this.set({ adapter });
  }

  withTokenSource(source: TokenSource): this {
    return this.set({ tokenSource: source });
  }

  withHfRevision(revision: string): this {
    return this.set({ hfRevision: revision });
  }

  /** In browsers: a folder of the origin's private file system. */
  withHfCachePath(path: string): this {
    return this.set({ hfCachePath: path });
  }

  /** Address of the hub, instead of `HF_ENDPOINT`. */
  withHfEndpoint(url: string): this {
    return this.set({ hfEndpoint: url });
  }

  withOffline(offline = true): this {
    return this.set({ offline });
  }

  withChatTemplate(template: string): this {
    return this.set({ chatTemplate: template });
  }

  withJinjaExplicit(path: string): this {
    return this.set({ jinjaExplicit: path });
  }

  withTokenizerJson(path: string): this {
    return this.set({ tokenizerJson: path });
  }

  /** Prepares the model for LoRA adapters that are loaded later. */
  withLora(config?: LoraRuntimeConfig): this {
    return this.set(config === undefined ? { lora: true } : { lora: true, loraRuntimeConfig: config });
  }

  /** Loads LoRA adapters with the model. */
  withLoraAdapters(adapters: readonly LoraAdapterSpec[]): this {
    return this.set({ loraAdapters: [...adapters] });
  }

  /** Loads an X-LoRA with the model: adapters that a classifier mixes anew for every token. */
  withXLora(xlora: XLoraOptions): this {
    return this.set({ xlora });
  }

  /** Loads adapters with the model that are all added to it for good. */
  withLegacyLora(legacyLora: LegacyLoraOptions): this {
    return this.set({ legacyLora });
  }

  /** Loads MLPs of other checkpoints beside the model's own, and gates that choose between them. */
  withAnyMoe(anyMoe: AnyMoeOptions): this {
    return this.set({ anyMoe });
  }

  withMaxNumSeqs(maxNumSeqs: number): this {
    return this.set({ maxNumSeqs });
  }

  withMaxBatchTokens(maxBatchTokens: number): this {
    return this.set({ maxBatchTokens });
  }

  withMaxModelLen(maxModelLen: number): this {
    return this.set({ maxModelLen });
  }

  withPagedAttn(cache: CacheOptions): this {
    return this.set({ pagedAttn: cache });
  }

  /** 0 turns the reuse of earlier prompts off. */
  withPrefixCacheN(n: number): this {
    return this.set({ prefixCacheN: n });
  }

  withNoKvCache(): this {
    return this.set({ noKvCache: true });
  }

  /** A smaller model with the same tokens guesses ahead; the answers stay the same. */
  withDraftModel(draftModel: ModelSpec): this {
    return this.set({ draftModel });
  }

  withSpeculation(speculation: SpeculationOptions): this {
    return this.set({ speculation });
  }

  withSeed(seed: number): this {
    return this.set({ seed });
  }

  /** Writes lines about loading and serving to the console, or to the given function. */
  withLogging(logging: LogLevel | Logger = 'info'): this {
    return this.set({ logging });
  }

  withThroughputLogging(): this {
    return this.set({ throughputLogging: true });
  }

  onProgress(report: (progress: LoadProgressEvent) => void): this {
    return this.set({ onProgress: report });
  }

  withSignal(signal: AbortSignal): this {
    return this.set({ signal });
  }

  /** Quantizes weights while loading, to a type (`Q4K`) or a number of bits (4). */
  withIsq(type: string | number): this {
    return this.set({ isq: type });
  }

  /** The same, by bits alone: 2, 3, 4, 5, 6 or 8. */
  withAutoIsq(bits: number): this {
    return this.set({ autoIsq: bits });
  }

  /** Quantizes routed experts only. */
  withMixtureQexpertsIsq(only = true): this {
    return this.set({ mixtureQexpertsIsq: only });
  }

  /** Types of single layers and weights. */
  withTopology(topology: NonNullable<LoadOptions['topology']>): this {
    return this.set({ topology });
  }

  withTopologyFromPath(path: string): this {
    return this.set({ topologyFromPath: path });
  }

  /** An imatrix file of llama.cpp, or a `.cimatrix` file. */
  withImatrix(file: NonNullable<LoadOptions['imatrix']>): this {
    return this.set({ imatrix: file });
  }

  /** A text that the model reads before it is quantized, to tell which columns matter. */
  withCalibrationFile(file: NonNullable<LoadOptions['calibrationFile']>): this {
    return this.set({ calibrationFile: file });
  }

  /** UQFF files to load out of the folder or repository: names of files or types. */
  withFromUqff(files: string | readonly string[]): this {
    return this.set({ fromUqff: files });
  }

  /** Writes the quantized model as UQFF files before it is loaded. */
  withWriteUqff(output: string | UqffOutput): this {
    return this.set({ writeUqff: output });
  }

  /** Guesses tokens ahead with a head inside the checkpoint, or with `mtp.model`. */
  withMtp(mtp: MtpOptions = {}): this {
    return this.set({ mtp });
  }

  /** Takes options back. */
  without(...names: readonly (keyof LoadOptions)[]): this {
    for (const name of names) delete this.#options[name];
    return this;
  }

  protected set(options: LoadOptions): this {
    Object.assign(this.#options, options);
    return this;
  }
}
