/** The kinds of failure a caller can handle. Every error of this package is a `TramontaneError`. */

export interface ErrorOptions {
  readonly cause?: unknown;
}

const BRAND = Symbol.for('tramontane.error');

/**
 * Base class of all errors. `instanceof` compares a brand, not the constructor, so it also holds between two copies of
 * the package (ESM beside CommonJS, or two bundles).
 */
export class TramontaneError extends Error {
  static readonly kind: string = 'TramontaneError';
  readonly [BRAND]: readonly string[];

  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    const kinds: string[] = [];
    for (let c: unknown = new.target; typeof c === 'function' && c !== Error; c = Object.getPrototypeOf(c)) {
      kinds.push((c as typeof TramontaneError).kind);
    }
    this[BRAND] = kinds;
    this.name = kinds[0] ?? 'TramontaneError';
  }

  static override [Symbol.hasInstance](value: unknown): boolean {
    const kinds = (value as { [BRAND]?: unknown } | null | undefined)?.[BRAND];
    // biome-ignore lint/complexity/noThisInStatic: the class asked about is the receiver.
    return Array.isArray(kinds) && kinds.includes(this.kind);
  }
}

/** An op got tensors of shapes or dtypes it cannot take. */
export class ShapeError extends TramontaneError {
  static override readonly kind: string = 'ShapeError';
}

/** Loading failed: a missing or damaged file, a tensor that is absent or has the wrong shape, not enough memory. */
export class ModelLoadError extends TramontaneError {
  static override readonly kind: string = 'ModelLoadError';
}

/** A file does not follow its format: truncated, lying lengths, unknown types. */
export class FormatError extends ModelLoadError {
  static override readonly kind: string = 'FormatError';
}

/** The cache has no room for a download: the disk, or a browser's quota for the site, is full. */
export class StorageError extends ModelLoadError {
  static override readonly kind: string = 'StorageError';
}

/** A checkpoint lacks a tensor, or holds it in another shape. */
export class WeightError extends ModelLoadError {
  static override readonly kind: string = 'WeightError';
}

/** A configuration value is missing, malformed or out of range. */
export class ConfigError extends ModelLoadError {
  static override readonly kind: string = 'ConfigError';
}

/** A feature that this runtime, back-end or model does not have. */
export class UnsupportedError extends TramontaneError {
  static override readonly kind: string = 'UnsupportedError';
  readonly feature: string;
  constructor(message: string, options?: ErrorOptions & { readonly feature?: string }) {
    super(message, options);
    this.feature = options?.feature ?? message;
  }
}

/** The engine failed while serving: tokenization, a kernel, numeric trouble. */
export class InferenceError extends TramontaneError {
  static override readonly kind: string = 'InferenceError';
}

export type DeviceFailure = 'lost' | 'outOfMemory' | 'invalid';

/** The GPU failed: it was lost, is out of memory, or refused a command. After `lost` a model has to be loaded again. */
export class DeviceError extends InferenceError {
  static override readonly kind: string = 'DeviceError';
  readonly reason: DeviceFailure;
  constructor(reason: DeviceFailure, message: string, options?: ErrorOptions) {
    super(message, options);
    this.reason = reason;
  }
}

export type RequestValidationCode =
  | 'no_chat_template'
  | 'wrong_category'
  | 'max_tokens_zero'
  | 'empty_prompt'
  | 'prompt_too_long'
  | 'stop_prefix'
  | 'n_zero'
  | 'invalid_grammar'
  | 'no_tokenizer'
  | 'effort_conflict'
  | 'files_without_agent'
  | 'tool_name_conflict'
  | 'unknown_tool_choice'
  | 'hosted_tool_choice'
  | 'empty_allowed_tools'
  | 'template_error'
  | 'invalid_request'
  | 'invalid_token'
  | 'queue_full';

/** A request was refused before the first step. `code` says why. */
export class RequestValidationError extends TramontaneError {
  static override readonly kind: string = 'RequestValidationError';
  readonly code: RequestValidationCode;
  constructor(code: RequestValidationCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** A forward pass failed in the middle of an answer; `partialResponse` holds what had been produced. */
export class ModelError extends TramontaneError {
  static override readonly kind: string = 'ModelError';
  readonly partialResponse: unknown;
  constructor(message: string, options?: ErrorOptions & { readonly partialResponse?: unknown }) {
    super(message, options);
    this.partialResponse = options?.partialResponse;
  }
}

/** The engine stopped while a call was waiting. */
export class ChannelError extends TramontaneError {
  static override readonly kind: string = 'ChannelError';
}

/** A call was cancelled by its `AbortSignal`. */
export class AbortError extends TramontaneError {
  static override readonly kind: string = 'AbortError';
}

/** Structured output was not JSON. */
export class JsonError extends TramontaneError {
  static override readonly kind: string = 'JsonError';
  readonly text: string;
  constructor(message: string, text: string, options?: ErrorOptions) {
    super(message, options);
    this.text = text;
  }
}

/** Structured output parsed, but the caller's schema refused it. */
export class SchemaMismatchError extends TramontaneError {
  static override readonly kind: string = 'SchemaMismatchError';
  readonly issues: readonly unknown[];
  readonly value: unknown;
  constructor(message: string, issues: readonly unknown[], value: unknown) {
    super(message);
    this.issues = issues;
    this.value = value;
  }
}

/** The engine answered with another kind of response than the call expects. */
export class UnexpectedResponseError extends TramontaneError {
  static override readonly kind: string = 'UnexpectedResponseError';
  readonly expected: string;
  constructor(expected: string, message?: string) {
    super(message ?? `expected ${expected} in the response`);
    this.expected = expected;
  }
}

/** Model management (add, remove, unload, reload) was refused. */
export class ManagementError extends TramontaneError {
  static override readonly kind: string = 'ManagementError';
  readonly modelId: string;
  constructor(message: string, modelId: string, options?: ErrorOptions) {
    super(message, options);
    this.modelId = modelId;
  }
}
export class ModelNotFoundError extends ManagementError {
  static override readonly kind: string = 'ModelNotFoundError';
}
export class ModelReloadingError extends ManagementError {
  static override readonly kind: string = 'ModelReloadingError';
}
export class ReloadFailedError extends ManagementError {
  static override readonly kind: string = 'ReloadFailedError';
}
export class NoLoaderConfigError extends ManagementError {
  static override readonly kind: string = 'NoLoaderConfigError';
}
export class ModelAlreadyLoadedError extends ManagementError {
  static override readonly kind: string = 'ModelAlreadyLoadedError';
}
export class ModelAlreadyUnloadedError extends ManagementError {
  static override readonly kind: string = 'ModelAlreadyUnloadedError';
}

/** Adapter lifecycle failure; `code` names the rule. */
export class LoraAdapterError extends TramontaneError {
  static override readonly kind: string = 'LoraAdapterError';
  readonly code: string;
  readonly alias: string | undefined;
  readonly generation: string | undefined;
  constructor(code: string, message: string, at: { readonly alias?: string; readonly generation?: string } = {}) {
    super(message);
    this.code = code;
    this.alias = at.alias;
    this.generation = at.generation;
  }
}

/** The text of any thrown value. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
