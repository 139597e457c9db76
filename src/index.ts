/** The package: load a model, ask it. */

export {
  AnyMoeModelBuilder,
  GgufLoraModelBuilder,
  GgufModelBuilder,
  GgufXLoraModelBuilder,
  LoraModelBuilder,
  ModelBuilder,
  TextModelBuilder,
  UqffTextModelBuilder,
  XLoraModelBuilder,
} from './builders.ts';
export type { BackendInfo, BackendOptions } from './core/backend.ts';
export type { EngineStats, LogitRows } from './core/engine/types.ts';
export * from './core/errors.ts';
export type { LoraErrorCode } from './core/lora/error.ts';
export type {
  LoraAdapterInfo,
  LoraAdapterStatus,
  LoraGenerationStatus,
  LoraLimits,
  LoraLoadPolicy,
} from './core/lora/runtime.ts';
export type {
  AdapterInput,
  LoadAdapterOptions,
  LoraAdapterSpec,
  LoraRuntimeConfig,
} from './core/sdk/adapters.ts';
export type { AnyMoeConfig, AnyMoeExpertType, AnyMoeOptions } from './core/sdk/anyMoe.ts';
export type { ApplyCalibrationOptions, CalibrationStatus } from './core/sdk/calibration.ts';
export type { DivergenceSummary, PerplexitySummary } from './core/sdk/divergence.ts';
export type { NamedForward, NamedInput } from './core/sdk/forward.ts';
export type { GenerationDefaults } from './core/sdk/generationConfig.ts';
export * from './core/sdk/messages.ts';
export type {
  ChatStream,
  CompletionStream,
  Modality,
  ModelInfo,
  ModelMemory,
  Prompt,
  RawResponse,
  RawTokenOptions,
  TokenizeOptions,
} from './core/sdk/model.ts';
export { Model } from './core/sdk/model.ts';
export type {
  CacheOptions,
  CallOptions,
  Device,
  LayerTopology,
  LoadOptions,
  LoadProgressEvent,
  Logger,
  LogLevel,
  ModelDType,
  ModelSpec,
  MtpOptions,
  SpeculationOptions,
  UqffOutput,
} from './core/sdk/options.ts';
export {
  measurePerplexity,
  type PerplexityOptions,
  type PerplexityReport,
  type WindowReport,
} from './core/sdk/perplexity.ts';
export type { QuantLayer, QuantReport } from './core/sdk/quantReport.ts';
export { parseReasoningEffort, type ReasoningEffort } from './core/sdk/reasoning.ts';
export * from './core/sdk/request.ts';
export { RequestBuilder } from './core/sdk/requestBuilder.ts';
export type {
  ChatCompletionChunk,
  ChatCompletionResponse,
  ChatStreamResponse,
  Choice,
  ChunkChoice,
  CompletionChoice,
  CompletionChunk,
  CompletionChunkChoice,
  CompletionResponse,
  CompletionStreamResponse,
  Delta,
  FinishReason,
  Logprobs,
  Response,
  ResponseLogprob,
  ResponseMessage,
  TopLogprob,
  Usage,
} from './core/sdk/response.ts';
export type { ResponseStream } from './core/sdk/stream.ts';
export type { TextTokenizer } from './core/sdk/text.ts';
export type { LegacyLoraOptions, Ordering, XLoraOptions } from './core/sdk/xlora.ts';
export { Tensor } from './core/tensor.ts';
export { EMBEDDED_MODEL } from './embedded.ts';
export { loadModel } from './load.ts';
export { type SupportedArch, supported as supportedArchitectures } from './models/registry.ts';
export { ISQ_TYPES, type IsqBits, type IsqType } from './quant/isq/types.ts';
export { type QuantizeModelOptions, quantizeModel } from './quantize.ts';
export { type WriteUqffOptions, writeUqff } from './writeUqff.ts';
