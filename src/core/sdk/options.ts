/** How a model is loaded, and what every call takes besides its request. */

import { ConfigError, UnsupportedError } from '../errors.ts';
import type { SourceInput } from '../io/open.ts';
import { checkAdapterSpecs, type LoraAdapterSpec, type LoraRuntimeConfig } from './adapters.ts';
import { type AnyMoeOptions, anyMoeSettings } from './anyMoe.ts';
import { checkXLora, type LegacyLoraOptions, type XLoraOptions } from './xlora.ts';

/** Trailing options of every asynchronous method. */
export interface CallOptions {
  /** The default model when absent. */
  readonly modelId?: string;
  readonly signal?: AbortSignal;
}

export type Device = 'auto' | 'cpu' | 'webgpu' | 'reference';

/** `auto` keeps the stored formats and computes with quantized activations where that is fast; `f32` expands every weight. */
export type ModelDType = 'auto' | 'f32';

/** Where the hub token comes from: `literal:TOKEN`, `env:NAME`, `path:FILE`, `cache` (the Python client's), `none`. */
export type TokenSource = string;

export interface LoadProgressEvent {
  readonly stage: 'download' | 'load' | 'quantize' | 'calibrate' | 'warmup';
  readonly done: number;
  readonly total: number;
  readonly unit: 'bytes' | 'steps';
  /** The file or tensor at hand. */
  readonly item?: string;
}

/** Size of the key/value cache that all sequences share. */
export interface CacheOptions {
  /**
   * Element type of keys and values. `auto` (the default) takes `f16` beside block-quantized weights, whose products are
   * rounded more coarsely than that, and `f32` beside float weights. `q8_0` takes half the memory of `f16` and is coarser:
   * 8 bits and a scale for every 32 entries.
   */
  readonly cacheType?: 'auto' | 'f32' | 'f16' | 'q8_0' | undefined;
  /** Positions in one block: 8, 16 or 32 (32 when absent). The CPU stores 32 together: there, less becomes 32. */
  readonly blockSize?: number;
  /** Memory of the cache, or the positions it holds. */
  readonly memory?: { readonly mb: number } | { readonly contextSize: number };
}

/** Guesses of coming tokens that the model checks several at a time. Answers are the same with and without. */
export interface SpeculationOptions {
  /**
   * Guesses out of the text itself: what followed the last few tokens where they stood before. Helps where answers repeat
   * parts of their prompts; where they do not, next to nothing is guessed. `maxDraft` (16): most tokens of a guess, fewer
   * as long as guesses are wrong; `maxMatch` (4), `minMatch` (2): the longest and the shortest run of tokens looked for.
   */
  readonly lookup?:
    | boolean
    | { readonly maxDraft?: number; readonly maxMatch?: number; readonly minMatch?: number }
    | undefined;
  /** Most tokens that the draft model guesses ahead; 4 when absent. */
  readonly nPredict?: number | undefined;
}

/** What guesses tokens ahead by multi-token prediction. */
export interface MtpOptions {
  /** Another model that guesses, as `draftModel` does; absent, the head inside the checkpoint. */
  readonly model?: ModelSpec | undefined;
  /** Most tokens of a guess; 2 when absent, 4 for another model. */
  readonly nPredict?: number | undefined;
  /** Quantizes the output matrix of the head inside the checkpoint: a copy of its own, where the head shares the model's. */
  readonly draftLmHeadIsq?: string | number | undefined;
}

/**
 * One entry of a topology. Its key is a range of layers `a-b` (`b` excluded), a layer `n`, or a `/regular expression/` of
 * names of weights.
 */
export interface LayerTopology {
  readonly isq?: string | number;
  readonly device?: string;
}

/** UQFF files to write. */
export interface UqffOutput {
  /** A file that ends in `.uqff`, whose parts are numbered; or a folder, where files have the names of their types. */
  readonly output: string;
  /** Types or numbers of bits; a number of bits in a folder stands for one type of each family. `isq` when absent. */
  readonly types?: readonly (string | number)[] | undefined;
  /** What the model was made of, for the report and the card. */
  readonly baseModel?: string | undefined;
  /** Where the files will be published. */
  readonly repoId?: string | undefined;
}

export type LogLevel = 'off' | 'error' | 'warn' | 'info' | 'debug';
export type Logger = (level: Exclude<LogLevel, 'off'>, message: string) => void;

/** Options of `loadModel`. An option that is not listed here is refused by name. */
export interface LoadOptions {
  /** `auto` takes the environment variable `TRAMONTANE_BACKEND`, else a real GPU where there is one, else the CPU. */
  readonly device?: Device | undefined;
  /** The same as `device: 'cpu'`. */
  readonly forceCpu?: boolean | undefined;
  readonly dtype?: ModelDType | undefined;
  /** Threads of the CPU back-end, this one included. */
  readonly threads?: number | undefined;
  readonly simd?: 'auto' | 'relaxed' | 'simd' | 'off' | undefined;
  /** Same floats in every JavaScript engine, and no activations rounded to 8 bits on GPUs, at some cost. */
  readonly strict?: boolean | undefined;
  /** Part of the name of the GPU adapter to take; `software` for one that computes on the processor. */
  readonly adapter?: string | undefined;

  /** GGUF files of a folder or hub repository; the first shard of a split file is enough. */
  readonly files?: readonly string[] | undefined;
  /** Another folder or repository for tokenizer and chat template. */
  readonly tokModelId?: string | undefined;
  readonly tokenSource?: TokenSource | undefined;
  readonly hfRevision?: string | undefined;
  /**
   * Folder of the cache, instead of `HF_HUB_CACHE`. In browsers it lies in the origin's private file system, and without
   * this option nothing is cached there: weights are read straight from the hub.
   */
  readonly hfCachePath?: string | undefined;
  /** Address of the hub, instead of `HF_ENDPOINT`. */
  readonly hfEndpoint?: string | undefined;
  /** Never asks the network. */
  readonly offline?: boolean | undefined;

  /** A template's text, or a path ending in `.jinja` or `.json`. Replaces the model's own. */
  readonly chatTemplate?: string | undefined;
  /** A template file that beats every other one. */
  readonly jinjaExplicit?: string | undefined;
  /** A `tokenizer.json`: its path. */
  readonly tokenizerJson?: string | undefined;

  /**
   * Quantizes weights while they are read: a type (`Q4K`, `AFQ4`, …) or a number of bits. Embeddings and output matrix get a
   * finer type; rows that do not divide into blocks get the nearest type that fits, or stay as they are.
   */
  readonly isq?: string | number | undefined;
  /** The same, by bits alone: 2, 3, 4, 5, 6 or 8. */
  readonly autoIsq?: number | undefined;
  /** Quantizes routed experts only. */
  readonly mixtureQexpertsIsq?: boolean | undefined;
  /** Types of single layers and weights; beats `isq` where both speak. */
  readonly topology?: Readonly<Record<string, LayerTopology>> | undefined;
  /** A topology file: YAML or JSON. */
  readonly topologyFromPath?: string | undefined;
  /** Importance of weights for `isq`: an imatrix file of llama.cpp, a `.cimatrix` file, or what `readCimatrix` read. */
  readonly imatrix?: SourceInput | ReadonlyMap<string, Float32Array> | undefined;
  /**
   * The same, measured first: a text that the model reads as it is stored, in pieces of 1024 tokens. It is in memory as such
   * meanwhile, and then read again to be quantized.
   */
  readonly calibrationFile?: SourceInput | undefined;
  /**
   * UQFF files to load out of a folder or hub repository: a file (the first of a set is enough), a type (`q4k`), or a number
   * of bits.
   */
  readonly fromUqff?: string | readonly string[] | undefined;
  /** Writes the quantized model as UQFF files before it is loaded: a path that ends in `.uqff`, or more. */
  readonly writeUqff?: string | UqffOutput | undefined;
  /** Prepares the model for LoRA adapters that are loaded later; `loraAdapters` and `loraRuntimeConfig` do so as well. */
  readonly lora?: boolean | undefined;
  /** Adapters to load with the model. */
  readonly loraAdapters?: readonly LoraAdapterSpec[] | undefined;
  readonly loraRuntimeConfig?: LoraRuntimeConfig | undefined;
  /** Adapters that a classifier mixes anew for every token. Earlier prompts are not reused then. */
  readonly xlora?: XLoraOptions | undefined;
  /** Adapters that are all added to the model for good. */
  readonly legacyLora?: LegacyLoraOptions | undefined;
  /** MLPs of other checkpoints beside the model's own, and gates that choose between them. */
  readonly anyMoe?: AnyMoeOptions | undefined;

  readonly maxNumSeqs?: number | undefined;
  /** Rows of one step: longer prompts run in pieces. */
  readonly maxBatchTokens?: number | undefined;
  /** Caps the context below what the model was made for. */
  readonly maxModelLen?: number | undefined;
  readonly pagedAttn?: CacheOptions | undefined;
  /** 0 turns the reuse of earlier prompts off. */
  readonly prefixCacheN?: number | undefined;
  /** Runs the whole sequence again for every token. For checks of the cache. */
  readonly noKvCache?: boolean | undefined;
  /** A smaller model with the same tokens that guesses ahead, on the same back-end. Answers are the same, sooner. */
  readonly draftModel?: ModelSpec | undefined;
  /** Guesses by a head for multi-token prediction inside the checkpoint, or by another model. Answers are the same, sooner. */
  readonly mtp?: MtpOptions | undefined;
  readonly speculation?: SpeculationOptions | undefined;
  /** Seeds requests that bring no seed. */
  readonly seed?: number | undefined;

  /** Lines about loading and serving; `true` writes them to the console. */
  readonly logging?: boolean | LogLevel | Logger | undefined;
  /** Logs tokens per second every few seconds while requests run. */
  readonly throughputLogging?: boolean | undefined;
  readonly onProgress?: ((progress: LoadProgressEvent) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What a model is loaded from: an embedded name, a folder, a file, a hub id, a URL, a `Blob` or bytes of a GGUF file. */
export type ModelSpec = SourceInput;

const KNOWN: ReadonlySet<string> = new Set<keyof LoadOptions>([
  'device',
  'forceCpu',
  'dtype',
  'threads',
  'simd',
  'strict',
  'adapter',
  'files',
  'tokModelId',
  'tokenSource',
  'hfRevision',
  'hfCachePath',
  'hfEndpoint',
  'offline',
  'chatTemplate',
  'jinjaExplicit',
  'tokenizerJson',
  'isq',
  'autoIsq',
  'mixtureQexpertsIsq',
  'topology',
  'topologyFromPath',
  'imatrix',
  'calibrationFile',
  'fromUqff',
  'writeUqff',
  'lora',
  'loraAdapters',
  'loraRuntimeConfig',
  'xlora',
  'legacyLora',
  'anyMoe',
  'maxNumSeqs',
  'maxBatchTokens',
  'maxModelLen',
  'pagedAttn',
  'prefixCacheN',
  'noKvCache',
  'draftModel',
  'mtp',
  'speculation',
  'seed',
  'logging',
  'throughputLogging',
  'onProgress',
  'signal',
]);

/** Refuses options that this version does not act on, and values of the wrong kind, before anything is read. */
export function checkLoadOptions(options: LoadOptions): void {
  for (const [key, value] of Object.entries(options)) {
    if (value !== undefined && !KNOWN.has(key)) {
      throw new UnsupportedError(`option ${key}: not available in this version; remove it`, { feature: key });
    }
  }
  oneOf('device', options.device, ['auto', 'cpu', 'webgpu', 'reference']);
  oneOf('dtype', options.dtype, ['auto', 'f32']);
  oneOf('simd', options.simd, ['auto', 'relaxed', 'simd', 'off']);
  oneOf('lora', options.lora, [true, false]);
  checkAdapterSpecs(options.loraAdapters);
  for (const key of ['maxAdapters', 'maxRank', 'maxBytes'] as const) {
    count(`loraRuntimeConfig.${key}`, options.loraRuntimeConfig?.[key], 1, Number.MAX_SAFE_INTEGER);
  }
  count('threads', options.threads, 1, 1024);
  count('maxNumSeqs', options.maxNumSeqs, 1, 4096);
  count('maxBatchTokens', options.maxBatchTokens, 1, 65536);
  count('maxModelLen', options.maxModelLen, 1, 2 ** 31);
  count('prefixCacheN', options.prefixCacheN, 0, Number.MAX_SAFE_INTEGER);
  oneOf('mixtureQexpertsIsq', options.mixtureQexpertsIsq, [true, false]);
  count('seed', options.seed, 0, Number.MAX_SAFE_INTEGER);
  const { blockSize, memory, cacheType } = options.pagedAttn ?? {};
  oneOf('pagedAttn.blockSize', blockSize, [8, 16, 32]);
  oneOf('pagedAttn.cacheType', cacheType, ['auto', 'f32', 'f16', 'q8_0']);
  if (memory !== undefined) {
    const { mb, contextSize } = memory as { mb?: unknown; contextSize?: unknown };
    if ((mb === undefined) === (contextSize === undefined))
      bad('pagedAttn.memory', '{ mb } or { contextSize }', memory);
    count('pagedAttn.memory.mb', mb, 1, 2 ** 24);
    count('pagedAttn.memory.contextSize', contextSize, 1, 2 ** 31);
  }
  checkUqff(options);
  checkSpeculation(options);
  checkXLora(options.xlora, options.legacyLora);
  if (options.anyMoe !== undefined) anyMoeSettings(options.anyMoe);
  checkTogether(options);
}

/** Of these a model takes one. */
function checkTogether(options: LoadOptions): void {
  const { lora, loraAdapters, loraRuntimeConfig, xlora, legacyLora, anyMoe, mtp, calibrationFile } = options;
  const dynamic = lora || loraAdapters?.length || loraRuntimeConfig !== undefined;
  const kinds: readonly (readonly [string, unknown])[] = [
    ['lora', dynamic],
    ['xlora', xlora],
    ['legacyLora', legacyLora],
    ['anyMoe', anyMoe],
  ];
  const given = kinds.filter(([, is]) => is).map(([name]) => name);
  if (given.length > 1) together(given[0]!, given[1]!);
  const guesses = guessing(options);
  if (guesses !== undefined && xlora !== undefined) together('xlora', guesses);
  if (anyMoe !== undefined && mtp !== undefined) together('anyMoe', 'mtp');
  if (anyMoe !== undefined && calibrationFile !== undefined) together('anyMoe', 'calibrationFile');
}

/** The option that asks for guesses of coming tokens. */
export function guessing({ draftModel, mtp, speculation }: LoadOptions): string | undefined {
  if (draftModel !== undefined) return 'draftModel';
  if (mtp !== undefined) return 'mtp';
  return speculation?.lookup ? 'speculation.lookup' : undefined;
}

function together(first: string, second: string): never {
  throw new UnsupportedError(`option ${second}: expected to stand without ${first}, got both; remove one of them`, {
    feature: second,
  });
}

const UQFF_OUTPUT: ReadonlySet<string> = new Set<keyof UqffOutput>(['output', 'types', 'baseModel', 'repoId']);

function checkUqff({ fromUqff, writeUqff, imatrix, calibrationFile, files }: LoadOptions): void {
  if (fromUqff !== undefined) {
    const names: unknown = typeof fromUqff === 'string' ? [fromUqff] : fromUqff;
    if (!Array.isArray(names) || names.length === 0 || !names.every((n) => typeof n === 'string' && n !== '')) {
      bad('fromUqff', 'names of UQFF files or types', fromUqff);
    }
    if (files !== undefined) bad('fromUqff', 'fromUqff or files, not both', fromUqff);
    if (writeUqff !== undefined) bad('writeUqff', 'nothing beside fromUqff, whose files are UQFF already', writeUqff);
    for (const [key, value] of Object.entries({ imatrix, calibrationFile })) {
      if (value !== undefined) bad(key, 'nothing beside fromUqff, whose weights are quantized already', '…');
    }
  }
  if (writeUqff === undefined || typeof writeUqff === 'string') return;
  record('writeUqff', writeUqff, UQFF_OUTPUT);
  if (typeof writeUqff.output !== 'string') bad('writeUqff.output', 'a path', writeUqff.output);
  const { types } = writeUqff;
  if (types !== undefined && (!Array.isArray(types) || types.length === 0)) {
    bad('writeUqff.types', 'at least one type', types);
  }
}

const SPECULATION: ReadonlySet<string> = new Set<keyof SpeculationOptions>(['lookup', 'nPredict']);
const LOOKUP: ReadonlySet<string> = new Set(['maxDraft', 'maxMatch', 'minMatch']);
/** Rows that one sequence may add to a step, and tokens of one run that is looked for. */
const MAX_DRAFT = 64;

const MTP: ReadonlySet<string> = new Set<keyof MtpOptions>(['model', 'nPredict', 'draftLmHeadIsq']);

function checkSpeculation(options: LoadOptions): void {
  const { speculation, draftModel, mtp, noKvCache } = options;
  if (mtp !== undefined) {
    record('mtp', mtp, MTP);
    count('mtp.nPredict', mtp.nPredict, 1, MAX_DRAFT);
    if (mtp.model !== undefined && mtp.draftLmHeadIsq !== undefined) {
      bad('mtp.draftLmHeadIsq', 'the head inside the checkpoint, not another model', mtp.draftLmHeadIsq);
    }
    if (draftModel !== undefined) bad('mtp', 'it alone, or draftModel alone', mtp);
  }
  if (speculation !== undefined) {
    record('speculation', speculation, SPECULATION);
    count('speculation.nPredict', speculation.nPredict, 1, MAX_DRAFT);
    const { lookup } = speculation;
    if (lookup !== undefined && typeof lookup !== 'boolean') {
      record('speculation.lookup', lookup, LOOKUP);
      count('speculation.lookup.maxDraft', lookup.maxDraft, 1, MAX_DRAFT);
      count('speculation.lookup.minMatch', lookup.minMatch, 1, MAX_DRAFT);
      count('speculation.lookup.maxMatch', lookup.maxMatch, lookup.minMatch ?? 1, MAX_DRAFT);
    }
    if (speculation.nPredict !== undefined && draftModel === undefined) {
      bad('speculation.nPredict', 'a draftModel that predicts', speculation.nPredict);
    }
  }
  if (noKvCache && guessing(options) !== undefined) {
    bad('noKvCache', 'no draftModel, mtp or speculation.lookup beside it, whose guesses need the cache', noKvCache);
  }
}

function record(name: string, value: unknown, keys: ReadonlySet<string>): void {
  if (typeof value !== 'object' || value === null) bad(name, `an object of ${[...keys].join(', ')}`, value);
  const odd = Object.keys(value).find((key) => !keys.has(key));
  if (odd !== undefined) bad(`${name}.${odd}`, [...keys].join(' | '), odd);
}

function oneOf(name: string, value: unknown, allowed: readonly unknown[]): void {
  if (value !== undefined && !allowed.includes(value)) bad(name, allowed.join(' | '), value);
}

function count(name: string, value: unknown, min: number, max: number): void {
  if (value === undefined) return;
  if (!(typeof value === 'number' && Number.isSafeInteger(value) && value >= min && value <= max)) {
    bad(name, `a whole number from ${min} to ${max}`, value);
  }
}

function bad(name: string, expected: string, got: unknown): never {
  throw new ConfigError(`option ${name}: expected ${expected}, got ${JSON.stringify(got) ?? String(got)}`);
}
