/** The fluent form of a chat request. */
import type { LogitsProcessor, SamplingParams } from '../engine/types.ts';
import type {
  AudioInput,
  ChatMessage,
  ImageInput,
  InputFile,
  MultimodalMessages,
  Role,
  TextMessages,
  ToolCall,
  VideoInput,
} from './messages.ts';
import { mediaContent } from './messages.ts';
import type { ReasoningEffort } from './reasoning.ts';
import type {
  AdapterSelection,
  AgentPermission,
  ApprovalHandler,
  ChatRequest,
  Constraint,
  DryParams,
  RequestedFile,
  ShellOptions,
  ShellSkill,
  Tool,
  ToolChoice,
  WebSearchOptions,
} from './request.ts';
import { deterministicSampling } from './request.ts';

type Draft = { -readonly [K in keyof ChatRequest]: ChatRequest[K] };
type SamplingDraft = { -readonly [K in keyof SamplingParams]: SamplingParams[K] };

/**
 * Builds a chat request step by step. It starts greedy (`topK` 1): setting a temperature alone keeps the answer greedy
 * until `setSamplerTopK` or `setSampling` lifts that. `toRequest` gives the equal plain object.
 */
export class RequestBuilder {
  readonly #messages: ChatMessage[] = [];
  #fields: Omit<Draft, 'messages' | 'sampling'> = {};
  #sampling: SamplingDraft = deterministicSampling();
  #samplingGiven = false;
  #topKGiven = false;

  /** A builder that starts from a message collection or a plain request. */
  static from(source: TextMessages | MultimodalMessages | ChatRequest): RequestBuilder {
    const request = 'toRequest' in source ? source.toRequest() : source;
    const { messages, sampling, ...fields } = request;
    const builder = new RequestBuilder();
    builder.#messages.push(...messages);
    builder.#fields = { ...fields };
    if (sampling !== undefined) builder.setSampling(sampling);
    return builder;
  }

  // Messages

  addMessage(role: Role, text: string): this {
    return this.#add({ role, content: text });
  }

  addImageMessage(role: Role, text: string, images: readonly ImageInput[]): this {
    return this.#add({ role, content: mediaContent(text, { images }) });
  }

  addAudioMessage(role: Role, text: string, audios: readonly AudioInput[]): this {
    return this.#add({ role, content: mediaContent(text, { audios }) });
  }

  addVideoMessage(role: Role, text: string, videos: readonly VideoInput[]): this {
    return this.#add({ role, content: mediaContent(text, { videos }) });
  }

  addMultimodalMessage(
    role: Role,
    text: string,
    images: readonly ImageInput[],
    audios: readonly AudioInput[],
    videos: readonly VideoInput[],
  ): this {
    return this.#add({ role, content: mediaContent(text, { images, audios, videos }) });
  }

  /** The result of a tool call. */
  addToolMessage(content: string, toolCallId: string): this {
    return this.#add({ role: 'tool', content, toolCallId });
  }

  /** An assistant turn that called tools. */
  addMessageWithToolCall(role: Role, text: string, calls: readonly ToolCall[]): this {
    return this.#add({ role, content: text, toolCalls: [...calls] });
  }

  // Sampling

  setSampling(params: SamplingParams): this {
    this.#sampling = { ...params };
    this.#samplingGiven = true;
    this.#topKGiven = true;
    return this;
  }

  setDeterministicSampler(): this {
    return this.setSampling(deterministicSampling());
  }

  setSamplerTemperature(temperature: number): this {
    return this.#sample({ temperature });
  }

  setSamplerTopK(topK: number): this {
    this.#topKGiven = true;
    return this.#sample({ topK });
  }

  setSamplerTopP(topP: number): this {
    return this.#sample({ topP });
  }

  setSamplerMinP(minP: number): this {
    return this.#sample({ minP });
  }

  setSamplerTopNLogprobs(topNLogprobs: number): this {
    return this.#sample({ topNLogprobs });
  }

  setSamplerFrequencyPenalty(frequencyPenalty: number): this {
    return this.#sample({ frequencyPenalty });
  }

  setSamplerPresencePenalty(presencePenalty: number): this {
    return this.#sample({ presencePenalty });
  }

  setSamplerRepetitionPenalty(repetitionPenalty: number): this {
    return this.#sample({ repetitionPenalty });
  }

  setSamplerStopToks(stopToks: NonNullable<SamplingParams['stopToks']>): this {
    return this.#sample({ stopToks });
  }

  setSamplerMaxLen(maxLen: number): this {
    return this.#sample({ maxLen });
  }

  setSamplerIgnoreEos(ignoreEos: boolean): this {
    return this.#sample({ ignoreEos });
  }

  setSamplerLogitsBias(logitsBias: ReadonlyMap<number, number>): this {
    return this.#sample({ logitsBias });
  }

  setSamplerNChoices(nChoices: number): this {
    return this.#sample({ nChoices });
  }

  setSamplerDryParams(dryParams: DryParams): this {
    return this.#sample({ dryParams });
  }

  setSeed(seed: number): this {
    return this.#set({ seed });
  }

  /** Runs after earlier ones, after penalties and bias, before the temperature. */
  addLogitsProcessor(processor: LogitsProcessor): this {
    return this.#set({ logitsProcessors: [...(this.#fields.logitsProcessors ?? []), processor] });
  }

  returnLogprobs(enabled: boolean): this {
    return this.#set({ logprobs: enabled });
  }

  // Shape of the answer

  setConstraint(constraint: Constraint): this {
    return this.#set({ constraint });
  }

  setAdapter(adapter: AdapterSelection): this {
    return this.#set({ adapter });
  }

  enableThinking(enabled: boolean): this {
    return this.#set({ enableThinking: enabled });
  }

  withReasoningEffort(effort: ReasoningEffort): this {
    return this.#set({ reasoningEffort: effort });
  }

  withTruncateSequence(enabled: boolean): this {
    return this.#set({ truncateSequence: enabled });
  }

  // Tools and agents

  setTools(tools: readonly Tool[]): this {
    return this.#set({ tools: [...tools] });
  }

  setToolChoice(choice: ToolChoice): this {
    return this.#set({ toolChoice: choice });
  }

  withMaxToolRounds(rounds: number): this {
    return this.#set({ maxToolRounds: rounds });
  }

  withToolDispatchUrl(url: string): this {
    return this.#set({ toolDispatchUrl: url });
  }

  withWebSearchOptions(options: WebSearchOptions): this {
    return this.#set({ webSearch: options });
  }

  withCodeExecution(): this {
    return this.#set({ codeExecution: true });
  }

  withShellExecution(): this {
    return this.#set({ shell: this.#fields.shell || true });
  }

  withShellOptions(options: ShellOptions): this {
    return this.#set({ shell: { skills: [...options.skills] } });
  }

  withShellSkill(name: string, description: string, path: string): this {
    const shell = this.#fields.shell;
    const skills: readonly ShellSkill[] = typeof shell === 'object' ? shell.skills : [];
    return this.#set({ shell: { skills: [...skills, { name, description, sourcePath: path }] } });
  }

  withAgentPermission(permission: AgentPermission): this {
    return this.#set({ agentPermission: permission });
  }

  /** Also sets the permission of all other tools. */
  withCodeExecutionPermission(permission: AgentPermission): this {
    return this.#set({ codeExecutionPermission: permission, agentPermission: permission });
  }

  /** A handler that throws counts as a refusal. */
  withAgentApprovalCallback(handler: ApprovalHandler): this {
    return this.#set({ onApproval: handler });
  }

  withSessionId(id: string): this {
    return this.#set({ sessionId: id });
  }

  requireFile(name: string): this {
    return this.#set({ files: [...(this.#fields.files ?? []), { name }] });
  }

  requireFileDescribed(name: string, format: string, description: string): this {
    return this.#set({ files: [...(this.#fields.files ?? []), { name, format, description }] });
  }

  withFiles(files: readonly RequestedFile[]): this {
    return this.#set({ files: [...files] });
  }

  withInputFile(file: InputFile): this {
    return this.#set({ inputFiles: [...(this.#fields.inputFiles ?? []), file] });
  }

  withInputFiles(files: readonly InputFile[]): this {
    return this.#set({ inputFiles: [...files] });
  }

  /** The same request as a plain object. */
  toRequest(): ChatRequest {
    return {
      messages: [...this.#messages],
      ...this.#fields,
      ...(this.#samplingGiven ? { sampling: { ...this.#sampling } } : {}),
    };
  }

  /** Whether a temperature was set that the greedy default makes useless. */
  get isTemperatureUnused(): boolean {
    return (this.#sampling.temperature ?? 0) > 0 && !this.#topKGiven;
  }

  #add(message: ChatMessage): this {
    this.#messages.push(message);
    return this;
  }

  #set(fields: Omit<Draft, 'messages' | 'sampling'>): this {
    Object.assign(this.#fields, fields);
    return this;
  }

  #sample(params: SamplingParams): this {
    Object.assign(this.#sampling, params);
    this.#samplingGiven = true;
    return this;
  }
}
