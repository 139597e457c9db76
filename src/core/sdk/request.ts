/** Requests as plain objects: the canonical form that every builder produces. */
import type { AdapterSelection, LogitsProcessor, SamplingParams } from '../engine/types.ts';
import type { ChatMessage, InputFile, MultimodalMessages, TextMessages } from './messages.ts';
import type { ReasoningEffort } from './reasoning.ts';
import type { RequestBuilder } from './requestBuilder.ts';

export type { AdapterSelection, DryParams, LogitsProcessor, SamplingParams, TokenContext } from '../engine/types.ts';

/** A JSON schema, as an object. */
export type JsonSchema = { readonly [key: string]: unknown };

export interface Tool {
  readonly type: 'function';
  readonly function: {
    readonly name: string;
    readonly description?: string;
    readonly parameters?: JsonSchema;
    readonly strict?: boolean;
  };
}

export type ToolChoice =
  | 'none'
  | 'auto'
  | 'required'
  | Tool
  | { readonly type: 'function'; readonly name: string }
  | {
      readonly type: 'allowed_tools';
      readonly mode: 'auto' | 'required';
      readonly tools: readonly { readonly type: 'function'; readonly name: string }[];
    };

/** What the answer has to match. */
export type Constraint =
  | { readonly kind: 'regex'; readonly pattern: string }
  | { readonly kind: 'lark'; readonly grammar: string }
  | { readonly kind: 'jsonSchema'; readonly schema: JsonSchema }
  | { readonly kind: 'llguidance'; readonly grammar: unknown }
  | { readonly kind: 'none' };

export interface WebSearchOptions {
  readonly searchContextSize?: 'low' | 'medium' | 'high';
  readonly userLocation?: {
    readonly type: 'approximate';
    readonly approximate: {
      readonly city?: string;
      readonly country?: string;
      readonly region?: string;
      readonly timezone?: string;
    };
  };
  readonly filters?: { readonly allowedDomains?: readonly string[]; readonly blockedDomains?: readonly string[] };
  readonly externalWebAccess?: boolean;
  readonly returnTokenBudget?: 'default' | 'unlimited';
  readonly searchContentTypes?: readonly ('text' | 'image')[];
  readonly imageSettings?: { readonly maxResults?: number; readonly caption?: boolean };
  readonly searchDescription?: string;
  readonly extractDescription?: string;
}

export interface ShellSkill {
  readonly name: string;
  readonly description: string;
  readonly sourcePath: string;
}

export interface ShellOptions {
  readonly skills: readonly ShellSkill[];
}

export type AgentPermission = 'auto' | 'ask' | 'deny';

export interface AgentToolApproval {
  readonly approvalId: string;
  readonly sessionId: string;
  readonly round: number;
  readonly tool: string;
  readonly arguments: unknown;
}

export interface AgentToolApprovalDecision {
  readonly approve: boolean;
  readonly rememberForSession: boolean;
  readonly message?: string;
}

export type ApprovalHandler = (
  approval: AgentToolApproval,
) => AgentToolApprovalDecision | Promise<AgentToolApprovalDecision>;

/** A file the model is asked to produce. */
export interface RequestedFile {
  readonly name: string;
  readonly format?: string;
  readonly description?: string;
}

/**
 * A chat request. Without `sampling` the answer is greedy; a given `sampling` starts from neutral values (temperature 1,
 * everything else off), which the model's own defaults fill where it leaves fields unset.
 */
export interface ChatRequest {
  readonly messages: readonly ChatMessage[];
  readonly sampling?: SamplingParams;
  readonly constraint?: Constraint;
  /** An empty list means no tools at all; `toolChoice` is dropped with it. */
  readonly tools?: readonly Tool[];
  readonly toolChoice?: ToolChoice;
  readonly adapter?: AdapterSelection;
  readonly logprobs?: boolean;
  readonly logitsProcessors?: readonly LogitsProcessor[];
  readonly enableThinking?: boolean;
  readonly reasoningEffort?: ReasoningEffort;
  /** Drops tokens from the front of a prompt that is too long, instead of refusing it. */
  readonly truncateSequence?: boolean;
  readonly webSearch?: WebSearchOptions;
  readonly codeExecution?: boolean;
  readonly shell?: boolean | ShellOptions;
  readonly agentPermission?: AgentPermission;
  readonly codeExecutionPermission?: AgentPermission;
  readonly onApproval?: ApprovalHandler;
  readonly sessionId?: string;
  readonly maxToolRounds?: number;
  readonly toolDispatchUrl?: string;
  readonly files?: readonly RequestedFile[];
  readonly inputFiles?: readonly InputFile[];
  /** Same request and seed give the same answer, whatever else runs. */
  readonly seed?: number;
}

/** Everything `Model` takes as a chat. */
export type RequestLike = TextMessages | MultimodalMessages | RequestBuilder | ChatRequest;

/** Options of a raw completion: no template, special tokens added to a text prompt. */
export interface CompletionParams {
  readonly sampling?: SamplingParams;
  /** Puts the prompt in front of the answer. */
  readonly echo?: boolean;
  /** Generates this many answers and returns the `sampling.nChoices` most likely ones. */
  readonly bestOf?: number;
  /** Text that follows the gap: fills in the middle where the tokenizer can, else it is put behind the answer. */
  readonly suffix?: string;
  readonly constraint?: Constraint;
  readonly adapter?: AdapterSelection;
  readonly logprobs?: boolean;
  readonly logitsProcessors?: readonly LogitsProcessor[];
  readonly truncateSequence?: boolean;
  readonly seed?: number;
}

/** No filter and no penalty: temperature 1 unless the model's defaults say otherwise. */
export function neutralSampling(): SamplingParams {
  return {};
}

/** The most likely token at every step. */
export function deterministicSampling(): SamplingParams {
  return { topK: 1 };
}
