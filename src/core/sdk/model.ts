/** The public object: one loaded model, safe to share between concurrent callers. */
import type { BackendInfo } from '../backend.ts';
import type {
  EngineStats,
  GenerationRequest,
  GenerationResult,
  GenerationStream,
  LogitRows,
  RawLogits,
  RawLogitsRequest,
} from '../engine/types.ts';
import { ModelError, ModelNotFoundError, UnexpectedResponseError, UnsupportedError } from '../errors.ts';
import { hostTensor } from '../host.ts';
import { loraError } from '../lora/error.ts';
import type { LoraAdapterInfo, LoraAdapterStatus } from '../lora/runtime.ts';
import type { Tensor } from '../tensor.ts';
import type { AdapterInput, LoadAdapterOptions } from './adapters.ts';
import type { ApplyCalibrationOptions, CalibrationStatus } from './calibration.ts';
import { completionResponse, prepareCompletion } from './completion.ts';
import type { NamedForward } from './forward.ts';
import { namedForward } from './forward.ts';
import type { GenerationDefaults } from './generationConfig.ts';
import { fillDefaults } from './generationConfig.ts';
import { TextMessages } from './messages.ts';
import type { CallOptions } from './options.ts';
import type { ModelQuantization, QuantReport } from './quantReport.ts';
import type { ReasoningEffort } from './reasoning.ts';
import { resolveReasoning } from './reasoning.ts';
import type { AdapterSelection, CompletionParams, RequestLike, Tool } from './request.ts';
import { RequestBuilder } from './requestBuilder.ts';
import type {
  ChatCompletionResponse,
  ChatStreamResponse,
  CompletionResponse,
  CompletionStreamResponse,
} from './response.ts';
import { chatChunk, chatResponse, responseHead, withGeneration } from './response.ts';
import type { ResponseStream } from './stream.ts';
import { EventStream } from './stream.ts';
import type { ModelText } from './text.ts';
import { noTokenizer } from './text.ts';
import type { NormalChat } from './validate.ts';
import { normalChat, promptIds } from './validate.ts';

/** The engine as the SDK sees it. */
export interface ModelEngine {
  submit(request: GenerationRequest): GenerationStream;
  generate(request: GenerationRequest): Promise<GenerationResult>;
  rawLogits(request: RawLogitsRequest): Promise<RawLogits>;
  stats(): EngineStats;
}

export type Modality = 'text' | 'audio' | 'vision' | 'video' | 'embedding';

/** What a loaded model is. */
export interface ModelInfo {
  readonly kind: string;
  readonly device: string;
  readonly category: 'text' | 'multimodal' | 'diffusion' | 'audio' | 'speech' | 'embedding';
  readonly modalities: { readonly input: readonly Modality[]; readonly output: readonly Modality[] };
  readonly maxSeqLen?: number;
  readonly generationDefaults?: GenerationDefaults;
  readonly vocabSize: number;
  /** Without one, methods that need text throw `UnsupportedError`. */
  readonly hasTokenizer: boolean;
  readonly hasChatTemplate: boolean;
  readonly backend: BackendInfo;
}

export interface ModelParts {
  /** Stands in responses and in `modelId`. */
  readonly name: string;
  /** Other names that `modelId` may use. */
  readonly aliases?: readonly string[];
  readonly info: ModelInfo;
  readonly engine: ModelEngine;
  readonly text?: ModelText | undefined;
  readonly defaults?: GenerationDefaults | undefined;
  /** Present where the model was loaded for adapters. */
  readonly adapters?: ModelAdapters | undefined;
  readonly warn?: ((message: string) => void) | undefined;
  /** Of models that were loaded with `isq` or a topology. */
  readonly quantization?: ModelQuantization | undefined;
  memory(): ModelMemory;
  dispose(): Promise<void>;
}

/** LoRA adapters of a loaded model. */
export interface ModelAdapters {
  load(alias: string, source: AdapterInput, options: LoadAdapterOptions): Promise<LoraAdapterInfo>;
  unload(alias: string, options: { readonly expectedGeneration?: string }): Promise<LoraAdapterInfo>;
  list(): LoraAdapterInfo[];
  status(): LoraAdapterStatus;
}

/** Bytes that a model holds on its device. */
export interface ModelMemory {
  /** Weights and key/value cache. */
  readonly persistent: number;
  /** Intermediate results of a step. */
  readonly arena: number;
}

export type ChatStream = ResponseStream<ChatStreamResponse, ChatCompletionResponse>;
export type CompletionStream = ResponseStream<CompletionStreamResponse, CompletionResponse>;

/** Logits `[rows, vocab]` of consecutive prompt positions, and the prompt they belong to. */
export interface RawResponse {
  readonly logitsChunks: Tensor[];
  readonly tokens: Uint32Array;
}

export interface RawTokenOptions extends CallOptions {
  readonly adapter?: AdapterSelection | undefined;
  /** Called with the rows of each step as they are computed; `logitsChunks` is empty then. What it throws ends the call. */
  readonly onRows?: LogitRows | undefined;
}

export interface TokenizeOptions {
  readonly tools?: readonly Tool[];
  readonly addSpecialTokens?: boolean;
  readonly addGenerationPrompt?: boolean;
  readonly enableThinking?: boolean;
  readonly reasoningEffort?: ReasoningEffort;
}

/** A prompt: text, or token ids. */
export type Prompt = string | ArrayLike<number>;

export class Model {
  readonly #parts: ModelParts;
  #disposed: Promise<void> | undefined;
  #warned = false;

  constructor(parts: ModelParts) {
    this.#parts = parts;
  }

  /** The answer to one user message, greedy. */
  async chat(message: string, options: CallOptions = {}): Promise<string> {
    const response = await this.sendChatRequest(new TextMessages().addMessage('user', message), options);
    const content = response.choices[0]?.message.content;
    if (content === undefined || content === null) throw new UnexpectedResponseError('content');
    return content;
  }

  /** Runs a chat request to its end. Rejects with `AbortError` when `signal` aborts. */
  async sendChatRequest(request: RequestLike, options: CallOptions = {}): Promise<ChatCompletionResponse> {
    this.#select(options);
    const chat = this.#normalChat(request);
    const { name, text } = this.#parts;
    const head = responseHead('chatcmpl', name);
    const build = (result: GenerationResult) =>
      chatResponse(withGeneration(head, result.adapterGeneration), result, text?.spell);
    try {
      return build(await this.#parts.engine.generate(this.#generation(chat, options)));
    } catch (error) {
      throw withPartial(error, build);
    }
  }

  /** Streams a chat request; problems with the request surface at the first `next`. */
  streamChatRequest(request: RequestLike, options: CallOptions = {}): ChatStream {
    const { name, text } = this.#parts;
    const head = responseHead('chatcmpl', name);
    const build = (result: GenerationResult) =>
      chatResponse(withGeneration(head, result.adapterGeneration), result, text?.spell);
    const prepared = attempt(() => {
      this.#select(options);
      return this.#normalChat(request);
    });
    const sampling = 'value' in prepared ? prepared.value.sampling : undefined;
    return new EventStream<ChatStreamResponse, ChatCompletionResponse>({
      open: async () => this.#parts.engine.submit(this.#generation(unwrap(prepared), options)),
      choices: sampling?.nChoices ?? 1,
      everyToken: 'value' in prepared && prepared.value.request.logprobs === true,
      chunk: (piece, generation) => chatChunk(withGeneration(head, generation), piece, text?.spell),
      final: build,
      text: (response) => response.choices[0]?.message.content ?? '',
      error: (error) => withPartial(error, build),
    });
  }

  /** Logits of every position of a templated prompt; nothing is sampled. */
  async sendRawChatRequest(request: RequestLike, options: CallOptions = {}): Promise<RawResponse> {
    this.#select(options);
    const chat = this.#normalChat(request);
    if ((chat.sampling.nChoices ?? 1) !== 1) {
      throw new UnsupportedError('raw logits: expected one choice, got several; remove `nChoices`', {
        feature: 'nChoices',
      });
    }
    const { truncateSequence, adapter } = chat.request;
    return this.#raw(this.#chatPrompt(chat), options, { truncateSequence, adapter });
  }

  /**
   * Logits of every position of a prompt given as ids; needs no tokenizer. `onRows` takes them piece by piece instead, so
   * that they are never in memory together.
   */
  async sendRawTokens(tokens: ArrayLike<number>, options: RawTokenOptions = {}): Promise<RawResponse> {
    this.#select(options);
    const { adapter, onRows } = options;
    return this.#raw(promptIds(tokens, this.#parts.info.vocabSize), options, { adapter, onRows });
  }

  /** Continues a raw prompt: no template; special tokens are added to text. Ids need no tokenizer. */
  async complete(
    prompt: Prompt,
    params: CompletionParams = {},
    options: CallOptions = {},
  ): Promise<CompletionResponse> {
    this.#select(options);
    const { name, text, engine } = this.#parts;
    const completion = prepareCompletion(this.#completionModel(), prompt, params);
    const head = responseHead('cmpl', name);
    const build = (result: GenerationResult) => completionResponse(head, result, completion, text?.spell);
    try {
      return build(await engine.generate({ ...completion.request, ...signalOf(options) }));
    } catch (error) {
      throw withPartial(error, build);
    }
  }

  /** Streams what `complete` returns; problems with the request surface at the first `next`. */
  streamComplete(prompt: Prompt, params: CompletionParams = {}, options: CallOptions = {}): CompletionStream {
    const { name, text, engine } = this.#parts;
    const head = responseHead('cmpl', name);
    const prepared = attempt(() => {
      this.#select(options);
      return prepareCompletion(this.#completionModel(), prompt, params, 'stream');
    });
    const build = (result: GenerationResult) => completionResponse(head, result, unwrap(prepared), text?.spell);
    const value = 'value' in prepared ? prepared.value : undefined;
    return new EventStream<CompletionStreamResponse, CompletionResponse>({
      open: async () => engine.submit({ ...unwrap(prepared).request, ...signalOf(options) }),
      choices: value?.request.sampling?.nChoices ?? 1,
      everyToken: text === undefined || value?.request.logprobs === true,
      chunk: (piece, generation) => unwrap(prepared).chunk(withGeneration(head, generation), piece),
      final: build,
      text: (response) => response.choices[0]?.text ?? '',
      error: (error) => withPartial(error, build),
    });
  }

  /** Ids of a text, or of a templated chat. */
  async tokenize(
    input: string | RequestLike,
    settings: TokenizeOptions = {},
    options: CallOptions = {},
  ): Promise<Uint32Array> {
    this.#select(options);
    const text = this.#text('tokenize');
    const { addSpecialTokens = true, addGenerationPrompt = true } = settings;
    if (typeof input === 'string') return text.tokenizer.encode(input, { addSpecialTokens });
    const { messages, request } = normalChat(input);
    const reasoning = resolveReasoning(
      settings.enableThinking ?? request.enableThinking,
      settings.reasoningEffort ?? request.reasoningEffort,
    );
    return text.encodeChat(messages, { tools: settings.tools, addGenerationPrompt, addSpecialTokens, reasoning });
  }

  /** The text of ids. */
  async detokenize(
    tokens: ArrayLike<number>,
    settings: { readonly skipSpecialTokens?: boolean } = {},
    options: CallOptions = {},
  ): Promise<string> {
    this.#select(options);
    const text = this.#text('detokenize');
    if (tokens.length === 0) return '';
    const { skipSpecialTokens = false } = settings;
    return text.tokenizer.decode(promptIds(tokens, this.#parts.info.vocabSize), { skipSpecialTokens });
  }

  config(options: CallOptions = {}): ModelInfo {
    this.#select(options);
    return this.#parts.info;
  }

  /** Positions of prompt and answer together. */
  maxSequenceLength(options: CallOptions = {}): number | undefined {
    this.#select(options);
    return this.#parts.info.maxSeqLen;
  }

  /**
   * Loads a LoRA adapter (a folder or hub repository as PEFT writes it, or its files in memory) under a name that requests
   * choose it by. Requests that run go on. Rejects with `LoraAdapterError`; what was loaded before stays then.
   */
  async loadLoraAdapter(
    alias: string,
    source: AdapterInput,
    settings: LoadAdapterOptions = {},
    options: CallOptions = {},
  ): Promise<LoraAdapterInfo> {
    this.#select(options);
    return this.#adapters().load(alias, source, settings);
  }

  /** Takes a name away; requests that began with the adapter end with it. Rejects with `LoraAdapterError`. */
  async unloadLoraAdapter(
    alias: string,
    settings: { readonly expectedGeneration?: string } = {},
    options: CallOptions = {},
  ): Promise<LoraAdapterInfo> {
    this.#select(options);
    return this.#adapters().unload(alias, settings);
  }

  /** The names of adapters, in order. */
  listLoraAdapters(options: CallOptions = {}): LoraAdapterInfo[] {
    this.#select(options);
    return this.#adapters().list();
  }

  /** Names, generations and the limits they share. */
  loraAdapterStatus(options: CallOptions = {}): LoraAdapterStatus {
    this.#select(options);
    return this.#adapters().status();
  }

  /** The model under its own argument names: `forward({ input_ids })` gives `{ logits }`. */
  inner(): NamedForward {
    return namedForward(this.#parts.info.vocabSize, (ids) => this.#parts.engine.rawLogits({ prompt: ids }));
  }

  /** Counters and gauges of the engine. */
  engineStats(options: CallOptions = {}): EngineStats {
    this.#select(options);
    return this.#parts.engine.stats();
  }

  /**
   * Quantizes the weights anew, in place: from the checkpoint (from their present values, with a warning, where its files are
   * gone), between two steps, requests wait meanwhile. Resolves when all weights have been exchanged; on failure the model is
   * as before.
   * @throws UnsupportedError for models loaded without `isq`, ConfigError for unknown types, ManagementError while another
   * call runs.
   */
  async reIsqModel(type: string | number, options: CallOptions = {}): Promise<void> {
    this.#select(options);
    await this.#quantized('reIsqModel').requantize(type, options.signal);
  }

  /**
   * Starts to measure what each quantized matrix is multiplied with, from zero, behind all requests before. Speed suffers a
   * little until `applyCalibration`.
   * @throws UnsupportedError for models loaded without `isq`, and for types that importance does not go with.
   */
  async beginCalibration(options: CallOptions = {}): Promise<CalibrationStatus> {
    this.#select(options);
    return this.#quantized('beginCalibration').beginCalibration(options.signal);
  }

  /** How much has been measured, behind all requests before; with `perLayer`, layer by layer. */
  async calibrationStatus(options: CallOptions & { readonly perLayer?: boolean } = {}): Promise<CalibrationStatus> {
    this.#select(options);
    const { signal, perLayer = false } = options;
    return this.#quantized('calibrationStatus').calibrationStatus(perLayer, signal);
  }

  /**
   * Ends the measuring and quantizes anew by what was measured, from where `reIsqModel` does, to the types that the matrices have.
   * Requests go on meanwhile; each matrix is exchanged between two steps. Resolves when all have been, to the status before.
   * @throws InferenceError without `beginCalibration`, before any rows, or when some layers failed (they stay as they were);
   * ConfigError for wrong options; ManagementError while another change of the weights runs.
   */
  async applyCalibration(
    settings: ApplyCalibrationOptions = {},
    options: CallOptions = {},
  ): Promise<CalibrationStatus> {
    this.#select(options);
    return this.#quantized('applyCalibration').applyCalibration(settings, options.signal);
  }

  /** What quantization at load, or the last `reIsqModel`, made of each matrix. */
  quantReport(options: CallOptions = {}): QuantReport {
    this.#select(options);
    const report = this.#quantized('quantReport').report();
    if (!report) throw new UnsupportedError('quantReport: expected a loaded model', { feature: 'quantReport' });
    return report;
  }

  /** Bytes held now; nothing after `dispose`. */
  memory(options: CallOptions = {}): ModelMemory {
    this.#select(options);
    return this.#disposed ? { persistent: 0, arena: 0 } : this.#parts.memory();
  }

  /** Stops the engine and returns all memory; calls that wait reject with `ChannelError`. */
  dispose(): Promise<void> {
    this.#disposed ??= this.#parts.dispose();
    return this.#disposed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #select({ modelId }: CallOptions): void {
    const { name, aliases = [] } = this.#parts;
    if (modelId !== undefined && modelId !== name && !aliases.includes(modelId)) {
      throw new ModelNotFoundError(`model: expected ${name}, got ${JSON.stringify(modelId)}`, modelId);
    }
  }

  #quantized(what: string): ModelQuantization {
    const { quantization } = this.#parts;
    if (quantization) return quantization;
    throw new UnsupportedError(`${what}: expected a model loaded with isq, got one as stored; load it with isq`, {
      feature: what,
    });
  }

  #adapters(): ModelAdapters {
    if (this.#parts.adapters) return this.#parts.adapters;
    throw loraError(
      'runtime_unavailable',
      'adapters: expected a model loaded for them; load it with the option `lora: true`',
    );
  }

  #completionModel() {
    const { text, defaults, info } = this.#parts;
    return { text, defaults, vocabSize: info.vocabSize };
  }

  #text(what: string): ModelText {
    if (!this.#parts.text) throw noTokenizer(what);
    return this.#parts.text;
  }

  #normalChat(request: RequestLike): NormalChat {
    if (request instanceof RequestBuilder && request.isTemperatureUnused && !this.#warned) {
      this.#warned = true;
      this.#parts.warn?.(
        'RequestBuilder starts greedy (topK 1), so the temperature has no effect; call setSamplerTopK or setSampling too',
      );
    }
    return normalChat(request);
  }

  #chatPrompt(chat: NormalChat): Uint32Array {
    return this.#text('chat').encodeChat(chat.messages, { reasoning: chat.reasoning });
  }

  #generation(chat: NormalChat, options: CallOptions): GenerationRequest {
    const { request } = chat;
    const text = this.#text('chat');
    const sampling = this.#parts.defaults ? fillDefaults(chat.sampling, this.#parts.defaults) : chat.sampling;
    text.checkStopIds(sampling);
    return {
      prompt: this.#chatPrompt(chat),
      sampling,
      logprobs: request.logprobs,
      logitsProcessors: request.logitsProcessors,
      seed: request.seed,
      truncateSequence: request.truncateSequence,
      createDecoder: () => text.tokenizer.createDecoder(),
      dryBreakers: text.dryBreakers(sampling),
      stopIds: text.stopIds(sampling),
      trimStart: true,
      adapter: request.adapter,
      ...signalOf(options),
    };
  }

  async #raw(
    prompt: Uint32Array,
    options: CallOptions,
    settings: Pick<RawLogitsRequest, 'truncateSequence' | 'adapter' | 'onRows'>,
  ): Promise<RawResponse> {
    const raw = await this.#parts.engine.rawLogits({ prompt, ...settings, ...signalOf(options) });
    const logitsChunks = raw.chunks.map((c) => hostTensor(c, [c.length / raw.vocabSize, raw.vocabSize]));
    return { logitsChunks, tokens: raw.tokens };
  }
}

function signalOf({ signal }: CallOptions): { readonly signal?: AbortSignal } {
  return signal ? { signal } : {};
}

type Attempt<T> = { readonly value: T } | { readonly error: unknown };

function attempt<T>(run: () => T): Attempt<T> {
  try {
    return { value: run() };
  } catch (error) {
    return { error };
  }
}

function unwrap<T>(a: Attempt<T>): T {
  if ('error' in a) throw a.error;
  return a.value;
}

/** Gives a failed step's partial result the shape of the response. */
function withPartial(error: unknown, build: (result: GenerationResult) => unknown): unknown {
  if (error instanceof ModelError && error.partialResponse !== undefined) {
    return new ModelError(error.message, {
      cause: error.cause,
      partialResponse: build(error.partialResponse as GenerationResult),
    });
  }
  return error;
}
