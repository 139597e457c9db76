/** Responses of chats and completions, and how they are put together from what the engine reports. */
import type { ChoiceResult, FinishReason, GenerationResult, TokenLogprobs, Usage } from '../engine/types.ts';
import type { ToolCall } from './messages.ts';
import type { Piece } from './stream.ts';

export type { FinishReason, Usage } from '../engine/types.ts';

/** One alternative at a position: its token id, and its text. */
export interface TopLogprob {
  readonly token: number;
  readonly logprob: number;
  readonly bytes?: string;
}

/** One generated token: its text, UTF-8 bytes and natural log-probability before top-k, top-p and min-p. */
export interface ResponseLogprob {
  readonly token: string;
  readonly tokenId: number;
  readonly logprob: number;
  readonly bytes?: readonly number[];
  readonly topLogprobs: readonly TopLogprob[];
}

export interface Logprobs {
  readonly content: readonly ResponseLogprob[];
}

export interface ResponseMessage {
  readonly content: string | null;
  readonly role: 'assistant';
  readonly toolCalls?: readonly ToolCall[];
  readonly reasoningContent?: string;
}

export interface Choice {
  readonly finishReason: FinishReason;
  readonly index: number;
  readonly message: ResponseMessage;
  /** Every generated token; an end token is included. */
  readonly tokenIds: Uint32Array;
  readonly logprobs?: Logprobs;
}

/** The part all chunks and the final response of one request share. */
export interface ResponseHead {
  readonly id: string;
  /** Unix time in seconds. */
  readonly created: number;
  readonly model: string;
  readonly systemFingerprint: 'local';
  /** Of the adapter that the request ran with. */
  readonly adapterGeneration?: string;
}

export interface ChatCompletionResponse extends ResponseHead {
  readonly object: 'chat.completion';
  readonly choices: readonly Choice[];
  readonly usage: Usage;
}

export interface Delta {
  readonly content?: string;
  readonly role: 'assistant';
  readonly toolCalls?: readonly ToolCall[];
  readonly reasoningContent?: string;
}

export interface ChunkChoice {
  /** Set in the last chunk of this choice. */
  readonly finishReason?: FinishReason;
  readonly index: number;
  readonly delta: Delta;
  /** Tokens since the last chunk of this choice. */
  readonly tokenIds: Uint32Array;
  readonly logprobs?: ResponseLogprob;
}

export interface ChatCompletionChunk extends ResponseHead {
  readonly object: 'chat.completion.chunk';
  readonly choices: readonly ChunkChoice[];
  /** In the last chunk. */
  readonly usage?: Usage;
}

export interface CompletionChoice {
  readonly finishReason: FinishReason;
  readonly index: number;
  /** Empty where the model has no tokenizer. */
  readonly text: string;
  readonly tokenIds: Uint32Array;
  readonly logprobs?: Logprobs;
}

export interface CompletionResponse extends ResponseHead {
  readonly object: 'text_completion';
  readonly choices: readonly CompletionChoice[];
  readonly usage: Usage;
}

export interface CompletionChunkChoice {
  readonly finishReason?: FinishReason;
  readonly index: number;
  readonly text: string;
  readonly tokenIds: Uint32Array;
  readonly logprobs?: ResponseLogprob;
}

export interface CompletionChunk extends ResponseHead {
  readonly object: 'text_completion';
  readonly choices: readonly CompletionChunkChoice[];
  readonly usage?: Usage;
}

/** What a stream yields. */
export type Response = ({ readonly kind: 'chunk' } & ChatCompletionChunk) | CompletionStreamResponse;
export type ChatStreamResponse = { readonly kind: 'chunk' } & ChatCompletionChunk;
export type CompletionStreamResponse = { readonly kind: 'completionChunk' } & CompletionChunk;

export function responseHead(prefix: 'chatcmpl' | 'cmpl', model: string): ResponseHead {
  return {
    id: `${prefix}-${uuid()}`,
    created: Math.floor(Date.now() / 1000),
    model,
    systemFingerprint: 'local',
  };
}

/** The head of answers that an adapter took part in. */
export function withGeneration(head: ResponseHead, adapterGeneration: string | undefined): ResponseHead {
  return adapterGeneration === undefined ? head : { ...head, adapterGeneration };
}

/** A random UUID; `crypto.randomUUID` is missing in pages without TLS. */
function uuid(): string {
  const b = crypto.getRandomValues(new Uint8Array(16));
  b[6] = ((b[6] as number) & 0x0f) | 0x40;
  b[8] = ((b[8] as number) & 0x3f) | 0x80;
  const hex = Array.from(b, (x) => x.toString(16).padStart(2, '0')).join('');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

/** Spells a token: `undefined` where there is no tokenizer. */
export type Spell = ((id: number) => string) | undefined;

export function responseLogprob(entry: TokenLogprobs, spell: Spell): ResponseLogprob {
  const token = spell?.(entry.token);
  return {
    token: token ?? '',
    tokenId: entry.token,
    logprob: entry.logprob,
    ...(token === undefined ? {} : { bytes: [...new TextEncoder().encode(token)] }),
    topLogprobs: entry.top.map((t) => ({ ...t, ...(spell ? { bytes: spell(t.token) } : {}) })),
  };
}

/** The `logprobs` field of a choice, absent when none were computed. */
export function logprobsOf(choice: ChoiceResult, spell: Spell): { readonly logprobs?: Logprobs } {
  return choice.logprobs ? { logprobs: { content: choice.logprobs.map((e) => responseLogprob(e, spell)) } } : {};
}

export function chatResponse(head: ResponseHead, result: GenerationResult, spell: Spell): ChatCompletionResponse {
  const choices = [...result.choices].sort((a, b) => a.index - b.index);
  return {
    ...head,
    object: 'chat.completion',
    choices: choices.map((choice) => ({
      finishReason: choice.finishReason,
      index: choice.index,
      message: { content: choice.text, role: 'assistant' },
      tokenIds: choice.tokens,
      ...logprobsOf(choice, spell),
    })),
    usage: result.usage,
  };
}

export function chatChunk(head: ResponseHead, piece: Piece, spell: Spell): ChatStreamResponse {
  return {
    kind: 'chunk',
    ...head,
    object: 'chat.completion.chunk',
    choices: [{ ...pieceFields(piece, spell), delta: { content: piece.text, role: 'assistant' } }],
    ...(piece.usage ? { usage: piece.usage } : {}),
  };
}

export function completionChunk(head: ResponseHead, piece: Piece, spell: Spell): CompletionStreamResponse {
  return {
    kind: 'completionChunk',
    ...head,
    object: 'text_completion',
    choices: [{ ...pieceFields(piece, spell), text: piece.text }],
    ...(piece.usage ? { usage: piece.usage } : {}),
  };
}

function pieceFields(piece: Piece, spell: Spell) {
  return {
    ...(piece.finishReason === undefined ? {} : { finishReason: piece.finishReason }),
    index: piece.index,
    tokenIds: piece.tokenIds,
    ...(piece.logprobs ? { logprobs: responseLogprob(piece.logprobs, spell) } : {}),
  };
}
