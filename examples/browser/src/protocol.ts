/** What the page and the worker with the engine say to each other. */
import type { SamplingParams } from 'tramontane';

export type Source =
  | { readonly kind: 'embedded' }
  | { readonly kind: 'file'; readonly file: File }
  | {
      readonly kind: 'hub';
      readonly repo: string;
      readonly file: string | undefined;
      /** Whether the download stays in the browser's storage. */
      readonly keep: boolean;
      readonly endpoint: string | undefined;
    };

export type Device = 'auto' | 'cpu' | 'webgpu';

export interface LoadRequest {
  readonly source: Source;
  readonly device: Device;
  readonly contextLength: number;
}

export interface LoadedModel {
  readonly name: string;
  readonly architecture: string;
  readonly device: string;
  readonly threads: number;
  /** Instruction set, or adapter. */
  readonly variant: string;
  readonly contextLength: number;
  /** Without a template the model continues texts. */
  readonly hasTemplate: boolean;
  readonly memoryBytes: number;
}

export interface Turn {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

export interface AskRequest {
  readonly turns: readonly Turn[];
  readonly sampling: SamplingParams;
  readonly seed: number | undefined;
}

export interface AnswerSummary {
  readonly tokens: number;
  readonly tokensPerSecond: number;
  readonly firstTokenMs: number;
  readonly finishReason: string;
  readonly memoryBytes: number;
}

export interface KeptModel {
  readonly repo: string;
  readonly bytes: number;
}

/** Calls of the worker: what they take, report on the way, and give back. */
export interface Calls {
  load: { args: LoadRequest; event: LoadEvent; result: LoadedModel };
  ask: { args: AskRequest; event: AnswerEvent; result: AnswerSummary };
  unload: { args: undefined; event: never; result: undefined };
  kept: { args: undefined; event: never; result: readonly KeptModel[] };
  forget: { args: { readonly repo: string }; event: never; result: undefined };
}

export type CallName = keyof Calls;

export interface LoadEvent {
  readonly stage: 'download' | 'load' | 'warmup';
  readonly done: number;
  readonly total: number;
}

export interface AnswerEvent {
  readonly text: string;
  readonly tokens: number;
}

export interface Failure {
  readonly name: string;
  readonly message: string;
}

export type ToWorker =
  | { readonly id: number; readonly call: CallName; readonly args: unknown }
  | { readonly id: number; readonly abort: true };

export type FromWorker =
  | { readonly id: number; readonly event: unknown }
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly failure: Failure };
