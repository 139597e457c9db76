/** Chat messages: the plain shapes, the fluent collections, and the JSON-like form that chat templates read. */
import type { ReasoningEffort } from './reasoning.ts';
import type { ChatRequest } from './request.ts';

/** Who speaks. Any other string reaches the chat template unchanged. */
export type Role = 'user' | 'assistant' | 'system' | 'tool' | (string & {});

/** Raw RGBA pixels, an encoded picture, or where to find one (data URL, path, URL). */
export type ImageInput = { readonly data: Uint8Array; readonly width: number; readonly height: number } | MediaSource;

/** Samples in −1…1, interleaved by channel, or an encoded file, or where to find one. */
export type AudioInput =
  | { readonly samples: Float32Array; readonly sampleRate: number; readonly channels: number }
  | MediaSource;

/** Frames sampled from a video, or where to find one. */
export type VideoInput =
  | {
      readonly frames: readonly ImageInput[];
      readonly fps?: number;
      readonly totalNumFrames?: number;
      readonly sampledIndices?: readonly number[];
    }
  | MediaSource;

export type MediaSource = Uint8Array | string | URL;

/** A file that a caller hands to the model. */
export interface InputFile {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly mimeType?: string;
}

export type ContentPart =
  | { readonly type: 'text'; readonly text: string }
  | { readonly type: 'image'; readonly image: ImageInput }
  | { readonly type: 'audio'; readonly audio: AudioInput }
  | { readonly type: 'video'; readonly video: VideoInput }
  | { readonly type: 'file'; readonly file: InputFile };

/** A tool call of an assistant turn; `arguments` is JSON text. */
export interface ToolCall {
  readonly index: number;
  readonly id: string;
  readonly type: 'function';
  readonly function: { readonly name: string; readonly arguments: string };
}

export interface ChatMessage {
  readonly role: Role;
  readonly content: string | readonly ContentPart[];
  readonly name?: string;
  /** Of a `tool` message: the call it answers. */
  readonly toolCallId?: string;
  readonly toolCalls?: readonly ToolCall[];
  readonly reasoningContent?: string;
}

/** The content of a message with media: all images, audios and videos in that order, then the text. */
export function mediaContent(
  text: string,
  media: {
    readonly images?: readonly ImageInput[];
    readonly audios?: readonly AudioInput[];
    readonly videos?: readonly VideoInput[];
  },
): string | ContentPart[] {
  const parts: ContentPart[] = [
    ...(media.images ?? []).map((image) => ({ type: 'image', image }) as const),
    ...(media.audios ?? []).map((audio) => ({ type: 'audio', audio }) as const),
    ...(media.videos ?? []).map((video) => ({ type: 'video', video }) as const),
  ];
  return parts.length === 0 ? text : [...parts, { type: 'text', text }];
}

/** What the collections of messages share. */
abstract class Conversation {
  readonly #messages: ChatMessage[] = [];
  #enableThinking: boolean | undefined;
  #reasoningEffort: ReasoningEffort | undefined;

  addMessage(role: Role, text: string): this {
    return this.add(role, text);
  }

  /** Removes all messages; the thinking switches stay. */
  clear(): this {
    this.#messages.length = 0;
    return this;
  }

  enableThinking(enabled: boolean): this {
    this.#enableThinking = enabled;
    return this;
  }

  withReasoningEffort(effort: ReasoningEffort): this {
    this.#reasoningEffort = effort;
    return this;
  }

  /** The same chat as a plain object. */
  toRequest(): ChatRequest {
    return {
      messages: [...this.#messages],
      ...(this.#enableThinking === undefined ? {} : { enableThinking: this.#enableThinking }),
      ...(this.#reasoningEffort === undefined ? {} : { reasoningEffort: this.#reasoningEffort }),
    };
  }

  protected add(role: Role, content: ChatMessage['content']): this {
    this.#messages.push({ role, content });
    return this;
  }
}

/** A chat of text messages, sampled greedily. */
export class TextMessages extends Conversation {}

/** A chat whose messages may carry pictures, sound and video, sampled greedily. */
export class MultimodalMessages extends Conversation {
  addImageMessage(role: Role, text: string, images: readonly ImageInput[]): this {
    return this.add(role, mediaContent(text, { images }));
  }

  addAudioMessage(role: Role, text: string, audios: readonly AudioInput[]): this {
    return this.add(role, mediaContent(text, { audios }));
  }

  addVideoMessage(role: Role, text: string, videos: readonly VideoInput[]): this {
    return this.add(role, mediaContent(text, { videos }));
  }

  addMultimodalMessage(
    role: Role,
    text: string,
    images: readonly ImageInput[],
    audios: readonly AudioInput[],
    videos: readonly VideoInput[],
  ): this {
    return this.add(role, mediaContent(text, { images, audios, videos }));
  }
}
