/** Which requests the engine takes. Rules that need a tokenizer are the SDK's. */
import { RequestValidationError } from '../errors.ts';
import type { CacheLimit, GenerationRequest, SamplingParams } from './types.ts';

export interface RequestLimits {
  readonly vocabSize: number;
  /** Tokens of prompt and answer together. */
  readonly contextLength: number;
  /** Where the cache holds less than the model takes. */
  readonly cacheLimit?: CacheLimit | undefined;
  /** Most tokens of a prompt that has to run in one step, without and with all of its logits. */
  readonly wholePrompt?: { readonly rows: number; readonly logitRows: number } | undefined;
}

/** Each choice is a sequence with a sampler of its own. */
const MAX_CHOICES = 1024;
const MAX_TOP_LOGPROBS = 1024;
const MAX_STOP_STRINGS = 256;
/** UTF-16 units; text that may begin a stop string is held back this long. */
const MAX_STOP_LENGTH = 4096;

function refuse(message: string): never {
  throw new RequestValidationError('invalid_request', message);
}

/** The rule for prompts: token ids of the vocabulary, at least one, that fit the context or may be cut from the front. */
export function checkPrompt(
  prompt: ArrayLike<number>,
  limits: RequestLimits,
  options: { readonly truncate: boolean; readonly maxLen: number | undefined; readonly raw?: boolean },
): Uint32Array {
  const { vocabSize, contextLength } = limits;
  if (prompt.length === 0) {
    throw new RequestValidationError('empty_prompt', 'prompt: expected at least one token, got none');
  }
  if (!options.truncate) checkRoom(prompt.length, options.maxLen ?? 0, limits);
  let first = 0;
  if (prompt.length > contextLength) {
    if (!options.truncate) {
      throw new RequestValidationError(
        'prompt_too_long',
        `prompt: expected at most ${contextLength} tokens, got ${prompt.length}; shorten it or set truncateSequence`,
      );
    }
    const kept = contextLength - Math.min(options.maxLen ?? 1, contextLength);
    if (kept === 0) {
      throw new RequestValidationError(
        'prompt_too_long',
        `prompt: a maxLen of ${options.maxLen} leaves no room for it in a context of ${contextLength}; lower maxLen`,
      );
    }
    first = prompt.length - kept;
  }
  const { wholePrompt: step } = limits;
  if (step) checkStep(prompt.length - first, options.raw ? step.logitRows : step.rows);
  const tokens = new Uint32Array(prompt.length - first);
  for (let i = 0; i < tokens.length; i++) {
    const token = prompt[first + i];
    if (token === undefined || !Number.isInteger(token) || token < 0 || token >= vocabSize) {
      throw new RequestValidationError(
        'invalid_token',
        `prompt[${first + i}]: expected a token id from 0 to ${vocabSize - 1}, got ${token}`,
      );
    }
    tokens[i] = token;
  }
  return tokens;
}

/** Refuses a prompt that does not fit into one step, where it has to. */
function checkStep(prompt: number, rows: number): void {
  if (prompt <= rows) return;
  throw new RequestValidationError(
    'prompt_too_long',
    `prompt: expected at most the ${rows} tokens of one step, in which all of it chooses its experts, got ${prompt}; raise maxBatchTokens, or let every token choose (routing: { topK: 1 })`,
  );
}

/** Refuses what could run only with a larger cache, and says how large. An answer ends where the model's own length does. */
function checkRoom(prompt: number, maxLen: number, { contextLength, cacheLimit }: RequestLimits): void {
  if (cacheLimit === undefined || prompt > cacheLimit.modelLength) return;
  const positions = Math.min(prompt + maxLen, cacheLimit.modelLength);
  if (positions <= contextLength) return;
  const alone = prompt > contextLength;
  const mb = cacheLimit.memoryFor(positions);
  throw new RequestValidationError(
    'prompt_too_long',
    `prompt${alone ? '' : ' and maxLen'}: expected at most the ${contextLength} tokens that the cache has room for, got ${prompt}${maxLen > 0 ? ` and ${maxLen}` : ''}; they need ${mb} MB of cache, so load the model with pagedAttn.memory { mb: ${mb} }${maxLen > 0 ? ', or lower maxLen' : ''}, or shorten the prompt`,
  );
}

/** What the engine relies on in sampling parameters; `RequestValidationError` says which rule is broken. */
export function checkSampling(sampling: SamplingParams): void {
  const { maxLen, nChoices, topNLogprobs, stopToks } = sampling;
  if (maxLen !== undefined) {
    if (maxLen === 0) {
      throw new RequestValidationError(
        'max_tokens_zero',
        'maxLen: expected at least 1, got 0; leave it out for no limit',
      );
    }
    integer('maxLen', maxLen, 1, Number.MAX_SAFE_INTEGER);
  }
  if (nChoices !== undefined) {
    if (nChoices === 0) throw new RequestValidationError('n_zero', 'nChoices: expected at least 1, got 0');
    integer('nChoices', nChoices, 1, MAX_CHOICES);
  }
  if (topNLogprobs !== undefined) integer('topNLogprobs', topNLogprobs, 0, MAX_TOP_LOGPROBS);
  if (sampling.topK !== undefined) integer('topK', sampling.topK, Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER);
  finite('temperature', sampling.temperature);
  finite('topP', sampling.topP);
  finite('minP', sampling.minP);
  finite('frequencyPenalty', sampling.frequencyPenalty);
  finite('presencePenalty', sampling.presencePenalty);
  finite('repetitionPenalty', sampling.repetitionPenalty);
  if ((sampling.repetitionPenalty ?? 1) <= 0) {
    refuse(`repetitionPenalty: expected a number above 0, got ${sampling.repetitionPenalty}`);
  }
  finite('dryParams.multiplier', sampling.dryParams?.multiplier);
  finite('dryParams.base', sampling.dryParams?.base);
  finite('dryParams.allowedLength', sampling.dryParams?.allowedLength);
  if (stopToks !== undefined && 'seqs' in stopToks) checkStopStrings(stopToks.seqs);
}

function checkStopStrings(stops: readonly string[]): void {
  if (stops.length > MAX_STOP_STRINGS) {
    refuse(`stopToks: expected at most ${MAX_STOP_STRINGS} stop strings, got ${stops.length}`);
  }
  for (const [i, stop] of stops.entries()) {
    if (stop.length === 0) refuse(`stopToks.seqs[${i}]: expected text, got an empty string`);
    if (stop.length > MAX_STOP_LENGTH) {
      refuse(`stopToks.seqs[${i}]: expected at most ${MAX_STOP_LENGTH} characters, got ${stop.length}`);
    }
  }
}

/** A whole generation request; returns the prompt as it will run. */
export function checkRequest(request: GenerationRequest, limits: RequestLimits): Uint32Array {
  checkSampling(request.sampling ?? {});
  if (request.seed !== undefined && !Number.isSafeInteger(request.seed)) {
    refuse(`seed: expected a safe integer, got ${request.seed}`);
  }
  return checkPrompt(request.prompt, limits, {
    truncate: request.truncateSequence ?? false,
    maxLen: request.sampling?.maxLen,
  });
}

function integer(name: string, value: number, min: number, max: number): void {
  if (!Number.isInteger(value) || value < min || value > max) {
    const range = min === Number.MIN_SAFE_INTEGER ? '' : ` from ${min} to ${max}`;
    refuse(`${name}: expected a whole number${range}, got ${value}`);
  }
}

function finite(name: string, value: number | undefined): void {
  if (value !== undefined && !Number.isFinite(value)) refuse(`${name}: expected a finite number, got ${value}`);
}
