/** From anything a caller passes to a request that is known to be well-formed and within what a text model serves. */
import type { SamplingParams } from '../engine/types.ts';
import { RequestValidationError, UnsupportedError } from '../errors.ts';
import type { ChatMessage, ContentPart } from './messages.ts';
import type { ReasoningControls } from './reasoning.ts';
import { parseReasoningEffort, resolveReasoning } from './reasoning.ts';
import type { ChatRequest, CompletionParams, RequestLike } from './request.ts';
import { deterministicSampling } from './request.ts';

/** A message whose content is text, as templates of text models read it. */
export interface TextMessage extends Omit<ChatMessage, 'content'> {
  readonly content: string;
}

export interface NormalChat {
  readonly request: ChatRequest;
  readonly messages: readonly TextMessage[];
  readonly sampling: SamplingParams;
  readonly reasoning: ReasoningControls;
}

/** Messages of one request; far above any real chat, below what would stall a template. */
const MAX_MESSAGES = 100_000;
const MAX_CHOICES = 1024;
/** Ids of one prompt; no context is as long. */
const MAX_PROMPT = 2 ** 26;
const MAX_TOP_LOGPROBS = 1024;

function refuse(message: string): never {
  throw new RequestValidationError('invalid_request', message);
}

function absent(feature: string, what: string, next: string): never {
  throw new UnsupportedError(`${what}: not available for this model; ${next}`, { feature });
}

function show(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value);
  return value === null
    ? 'null'
    : typeof value === 'object'
      ? Array.isArray(value)
        ? 'an array'
        : 'an object'
      : String(value);
}

/** The plain object behind any form of chat request; later changes to the caller's objects have no effect. */
export function chatRequest(input: RequestLike): ChatRequest {
  if (typeof input !== 'object' || input === null) refuse(`request: expected an object, got ${show(input)}`);
  const request =
    'toRequest' in input && typeof input.toRequest === 'function' ? input.toRequest() : (input as ChatRequest);
  return { ...request };
}

/** Checks a chat request for a model of category text. Throws `RequestValidationError` or `UnsupportedError`. */
export function normalChat(input: RequestLike): NormalChat {
  const request = chatRequest(input);
  const messages = textMessages(request.messages);
  refuseAbsentFeatures(request);
  const effort: unknown = request.reasoningEffort;
  if (effort !== undefined && typeof effort !== 'string')
    refuse(`reasoningEffort: expected a word, got ${show(effort)}`);
  flag('enableThinking', request.enableThinking);
  common(request);
  return {
    request,
    messages,
    sampling: normalSampling(request.sampling),
    reasoning: resolveReasoning(
      request.enableThinking,
      effort === undefined ? undefined : parseReasoningEffort(effort),
    ),
  };
}

/** Checks the options of a completion; the same rules as for chats. */
export function normalCompletion(params: CompletionParams): CompletionParams & { readonly sampling: SamplingParams } {
  if (typeof params !== 'object' || params === null) refuse(`completion: expected options, got ${show(params)}`);
  checkConstraintAndAdapter(params);
  common(params);
  flag('echo', params.echo);
  if (params.suffix !== undefined && typeof params.suffix !== 'string') {
    refuse(`suffix: expected text, got ${show(params.suffix)}`);
  }
  const sampling = normalSampling(params.sampling);
  const choices = sampling.nChoices ?? 1;
  const best = params.bestOf;
  if (best !== undefined && !(Number.isInteger(best) && best >= choices && best <= MAX_CHOICES)) {
    refuse(`bestOf: expected a whole number from nChoices (${choices}) to ${MAX_CHOICES}, got ${show(best)}`);
  }
  return { ...params, sampling };
}

// ---------------------------------------------------------------------------------------------------------------- //
// Messages

function textMessages(messages: unknown): TextMessage[] {
  if (!Array.isArray(messages)) refuse(`messages: expected an array, got ${show(messages)}`);
  if (messages.length === 0) refuse('messages: expected at least one message, got none');
  if (messages.length > MAX_MESSAGES) {
    refuse(`messages: expected at most ${MAX_MESSAGES} messages, got ${messages.length}`);
  }
  return messages.map((m: unknown, i) => textMessage(m, `messages[${i}]`));
}

function textMessage(value: unknown, at: string): TextMessage {
  if (typeof value !== 'object' || value === null) refuse(`${at}: expected a message, got ${show(value)}`);
  const m = value as ChatMessage;
  if (typeof m.role !== 'string' || m.role.trim() === '') {
    refuse(`${at}.role: expected a role such as user, assistant, system or tool, got ${show(m.role)}`);
  }
  for (const key of ['name', 'toolCallId', 'reasoningContent'] as const) {
    if (m[key] !== undefined && typeof m[key] !== 'string') refuse(`${at}.${key}: expected text, got ${show(m[key])}`);
  }
  if (m.toolCalls !== undefined) toolCalls(m.toolCalls, `${at}.toolCalls`);
  const { content, ...rest } = m;
  if (typeof content === 'string') return { ...rest, content };
  if ((content as unknown) === null && m.toolCalls !== undefined) return { ...rest, content: '' };
  if (!Array.isArray(content)) refuse(`${at}.content: expected text or content parts, got ${show(content)}`);
  const parts = content as readonly (ContentPart | undefined)[];
  return { ...rest, content: parts.map((p, i) => textOf(p, `${at}.content[${i}]`)).join('') };
}

function toolCalls(value: unknown, at: string): void {
  if (!Array.isArray(value)) refuse(`${at}: expected an array, got ${show(value)}`);
  value.forEach((call: unknown, i) => {
    const f = (call as { function?: { name?: unknown; arguments?: unknown } } | null)?.function;
    if (typeof f?.name !== 'string' || typeof f.arguments !== 'string') {
      refuse(`${at}[${i}].function: expected a name and arguments as JSON text, got ${show(f)}`);
    }
  });
}

function textOf(part: ContentPart | undefined, at: string): string {
  switch (part?.type) {
    case 'text':
      if (typeof part.text !== 'string') refuse(`${at}.text: expected text, got ${show(part.text)}`);
      return part.text;
    case 'image':
    case 'audio':
    case 'video':
    case 'file':
      return absent(
        part.type,
        `${at}: ${part.type} input`,
        'this is a text model: send text, or load a multimodal model',
      );
    default:
      return refuse(
        `${at}.type: expected text, image, audio, video or file, got ${show((part as { type?: unknown } | undefined)?.type)}`,
      );
  }
}

// ---------------------------------------------------------------------------------------------------------------- //
// Features

function refuseAbsentFeatures(r: ChatRequest): void {
  checkConstraintAndAdapter(r);
  if (r.tools !== undefined && !Array.isArray(r.tools)) refuse(`tools: expected an array, got ${show(r.tools)}`);
  const agentic =
    r.webSearch !== undefined ||
    (r.maxToolRounds !== undefined && r.maxToolRounds !== 0) ||
    r.toolDispatchUrl !== undefined ||
    (r.inputFiles?.length ?? 0) > 0 ||
    r.codeExecution === true ||
    (r.shell !== undefined && r.shell !== false);
  if ((r.files?.length ?? 0) > 0 && !agentic) {
    throw new RequestValidationError(
      'files_without_agent',
      'files: expected an agentic request (search, code, shell, a dispatch URL or input files), got none; drop `files`',
    );
  }
  const drop = (field: string) => `remove \`${field}\` from the request`;
  if ((r.tools?.length ?? 0) > 0) absent('tools', 'tool calls', drop('tools'));
  if (r.webSearch !== undefined) absent('webSearch', 'web search', drop('webSearch'));
  if (r.codeExecution === true) absent('codeExecution', 'code execution', drop('codeExecution'));
  if (r.shell !== undefined && r.shell !== false) absent('shell', 'shell commands', drop('shell'));
  if ((r.inputFiles?.length ?? 0) > 0) absent('inputFiles', 'input files', drop('inputFiles'));
  if (r.toolDispatchUrl !== undefined) absent('toolDispatchUrl', 'tool dispatch', drop('toolDispatchUrl'));
  if (r.maxToolRounds !== undefined && r.maxToolRounds !== 0)
    absent('maxToolRounds', 'tool rounds', drop('maxToolRounds'));
}

function checkConstraintAndAdapter(r: Pick<ChatRequest, 'constraint' | 'adapter'>): void {
  if (r.constraint !== undefined && r.constraint.kind !== 'none') {
    absent('constraint', `${r.constraint.kind} constraint`, 'remove `constraint` from the request');
  }
  if (r.adapter === undefined || (typeof r.adapter === 'string' && r.adapter.trim() !== '')) return;
  const generation: unknown = (r.adapter as { readonly generation?: unknown } | null)?.generation;
  if (typeof generation !== 'string' || !/^[0-9a-f]{64}$/i.test(generation)) {
    refuse(`adapter: expected a name, or { generation } of 64 hexadecimal digits, got ${show(r.adapter)}`);
  }
}

// ---------------------------------------------------------------------------------------------------------------- //
// Sampling

function common(r: Pick<ChatRequest, 'logprobs' | 'logitsProcessors' | 'truncateSequence' | 'seed'>): void {
  flag('logprobs', r.logprobs);
  flag('truncateSequence', r.truncateSequence);
  if (r.logitsProcessors !== undefined) {
    if (!Array.isArray(r.logitsProcessors) || r.logitsProcessors.some((p) => typeof p !== 'function')) {
      refuse('logitsProcessors: expected an array of functions');
    }
  }
  if (r.seed !== undefined && !(Number.isSafeInteger(r.seed) && r.seed >= 0)) {
    refuse(`seed: expected a whole number >= 0, got ${show(r.seed)}`);
  }
}

const NUMBERS = ['temperature', 'topP', 'minP', 'frequencyPenalty', 'presencePenalty', 'repetitionPenalty'] as const;
const KNOWN: ReadonlySet<string> = new Set<keyof SamplingParams>([
  ...NUMBERS,
  'topK',
  'topNLogprobs',
  'stopToks',
  'ignoreEos',
  'maxLen',
  'logitsBias',
  'nChoices',
  'dryParams',
]);

/** Checks the types and ranges of sampling parameters and copies them; absent means greedy. */
export function normalSampling(params: SamplingParams | undefined): SamplingParams {
  if (params === undefined) return deterministicSampling();
  if (typeof params !== 'object' || params === null) refuse(`sampling: expected an object, got ${show(params)}`);
  for (const key of Object.keys(params)) {
    if (!KNOWN.has(key)) refuse(`sampling: expected ${[...KNOWN].join(', ')}, got ${show(key)}`);
  }
  for (const key of NUMBERS) number(key, params[key]);
  if ((params.temperature ?? 0) < 0) refuse(`sampling.temperature: expected a number >= 0, got ${params.temperature}`);
  if (params.repetitionPenalty !== undefined && params.repetitionPenalty <= 0) {
    refuse(`sampling.repetitionPenalty: expected a number > 0, got ${params.repetitionPenalty}`);
  }
  integer('topK', params.topK, Number.MIN_SAFE_INTEGER);
  integer('topNLogprobs', params.topNLogprobs, 0, MAX_TOP_LOGPROBS);
  integer('maxLen', params.maxLen, 0);
  if (params.maxLen === 0) {
    throw new RequestValidationError('max_tokens_zero', 'sampling.maxLen: expected at least 1, got 0');
  }
  integer('nChoices', params.nChoices, 0, MAX_CHOICES);
  if (params.nChoices === 0) {
    throw new RequestValidationError('n_zero', 'sampling.nChoices: expected at least 1, got 0');
  }
  flag('sampling.ignoreEos', params.ignoreEos);
  return {
    ...params,
    ...(params.stopToks === undefined ? {} : { stopToks: stops(params.stopToks) }),
    ...(params.logitsBias === undefined ? {} : { logitsBias: bias(params.logitsBias) }),
    ...(params.dryParams === undefined ? {} : { dryParams: dry(params.dryParams) }),
  };
}

function dry(d: unknown): NonNullable<SamplingParams['dryParams']> {
  if (typeof d !== 'object' || d === null) refuse(`sampling.dryParams: expected an object, got ${show(d)}`);
  const { multiplier, base, allowedLength, sequenceBreakers } = d as Record<string, unknown>;
  number('dryParams.multiplier', multiplier);
  number('dryParams.base', base);
  integer('dryParams.allowedLength', allowedLength, 0);
  if (sequenceBreakers !== undefined) texts('sampling.dryParams.sequenceBreakers', sequenceBreakers);
  return { ...d };
}

function stops(value: unknown): NonNullable<SamplingParams['stopToks']> {
  const { seqs, ids } = (value ?? {}) as { seqs?: unknown; ids?: unknown };
  if (seqs !== undefined && ids === undefined) return { seqs: texts('sampling.stopToks.seqs', seqs) };
  if (ids === undefined || seqs !== undefined || !Array.isArray(ids)) {
    refuse(`sampling.stopToks: expected { seqs: string[] } or { ids: number[] }, got ${show(value)}`);
  }
  for (const id of ids) {
    if (!isId(id)) refuse(`sampling.stopToks.ids: expected token ids, got ${show(id)}`);
  }
  return { ids: [...(ids as number[])] };
}

function texts(name: string, value: unknown): string[] {
  if (!Array.isArray(value)) refuse(`${name}: expected an array of texts, got ${show(value)}`);
  for (const s of value) {
    if (typeof s !== 'string' || s === '') refuse(`${name}: expected texts that are not empty, got ${show(s)}`);
  }
  return [...(value as string[])];
}

function bias(value: unknown): ReadonlyMap<number, number> {
  if (!(value instanceof Map)) refuse(`sampling.logitsBias: expected a Map of token id to number, got ${show(value)}`);
  const copy = new Map<number, number>();
  for (const [id, add] of value as Map<unknown, unknown>) {
    if (!isId(id) || typeof add !== 'number' || Number.isNaN(add)) {
      refuse(`sampling.logitsBias: expected token ids and numbers, got ${show(id)}: ${show(add)}`);
    }
    copy.set(id, add);
  }
  return copy;
}

function isId(value: unknown): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < 2 ** 32;
}

function number(name: string, value: unknown): void {
  if (value !== undefined && !(typeof value === 'number' && Number.isFinite(value))) {
    refuse(`sampling.${name}: expected a finite number, got ${show(value)}`);
  }
}

function integer(name: string, value: unknown, min: number, max = Number.MAX_SAFE_INTEGER): void {
  if (value === undefined) return;
  if (!(typeof value === 'number' && Number.isSafeInteger(value) && value >= min && value <= max)) {
    const range = max < Number.MAX_SAFE_INTEGER ? ` from ${min} to ${max}` : min === 0 ? ' >= 0' : '';
    refuse(`sampling.${name}: expected a whole number${range}, got ${show(value)}`);
  }
}

function flag(name: string, value: unknown): void {
  if (value !== undefined && typeof value !== 'boolean') refuse(`${name}: expected true or false, got ${show(value)}`);
}

/** The ids of a prompt given as numbers: whole numbers below `vocabSize`, at least one. */
export function promptIds(ids: ArrayLike<number>, vocabSize: number): Uint32Array {
  const length: unknown = typeof ids === 'object' && ids !== null ? ids.length : undefined;
  if (!(typeof length === 'number' && Number.isInteger(length) && length >= 0)) {
    refuse(`prompt: expected text or token ids, got ${show(ids)}`);
  }
  if (length > MAX_PROMPT) refuse(`prompt: expected at most ${MAX_PROMPT} token ids, got ${length}`);
  if (ids.length === 0)
    throw new RequestValidationError('empty_prompt', 'prompt: expected at least one token, got none');
  const out = new Uint32Array(ids.length);
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i];
    if (!isId(id) || id >= vocabSize) {
      throw new RequestValidationError(
        'invalid_token',
        `prompt[${i}]: expected a token id from 0 to ${vocabSize - 1}, got ${show(id)}`,
      );
    }
    out[i] = id;
  }
  return out;
}
