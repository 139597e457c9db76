/** What callers may write: checked by the compiler (`npm run check`); at run time nothing happens here. */
import { expectTypeOf, it } from 'vitest';
import type * as api from '../../src/index.ts';
import type {
  CallOptions,
  ChatCompletionResponse,
  ChatRequest,
  ChatStream,
  ChatStreamResponse,
  CompletionResponse,
  CompletionStream,
  EngineStats,
  LoadOptions,
  Model,
  ModelInfo,
  NamedForward,
  RawResponse,
  RequestBuilder,
  RequestLike,
  SamplingParams,
  Tensor,
  TextMessages,
} from '../../src/index.ts';

it('Model has the methods of the contract', () => {
  expectTypeOf<Model['chat']>().toEqualTypeOf<(message: string, options?: CallOptions) => Promise<string>>();
  expectTypeOf<Model['sendChatRequest']>().parameters.toEqualTypeOf<[request: RequestLike, options?: CallOptions]>();
  expectTypeOf<Model['sendChatRequest']>().returns.resolves.toEqualTypeOf<ChatCompletionResponse>();
  expectTypeOf<Model['streamChatRequest']>().returns.toEqualTypeOf<ChatStream>();
  expectTypeOf<Model['sendRawChatRequest']>().returns.resolves.toEqualTypeOf<RawResponse>();
  expectTypeOf<Model['sendRawTokens']>().parameter(0).toEqualTypeOf<ArrayLike<number>>();
  expectTypeOf<Model['complete']>().parameter(0).toEqualTypeOf<string | ArrayLike<number>>();
  expectTypeOf<Model['complete']>().returns.resolves.toEqualTypeOf<CompletionResponse>();
  expectTypeOf<Model['streamComplete']>().returns.toEqualTypeOf<CompletionStream>();
  expectTypeOf<Model['tokenize']>().returns.resolves.toEqualTypeOf<Uint32Array>();
  expectTypeOf<Model['detokenize']>().returns.resolves.toEqualTypeOf<string>();
  expectTypeOf<Model['config']>().returns.toEqualTypeOf<ModelInfo>();
  expectTypeOf<Model['maxSequenceLength']>().returns.toEqualTypeOf<number | undefined>();
  expectTypeOf<Model['inner']>().returns.toEqualTypeOf<NamedForward>();
  expectTypeOf<Model['engineStats']>().returns.toEqualTypeOf<EngineStats>();
  expectTypeOf<Model>().toExtend<AsyncDisposable>();
});

it('streams are async iterators with more', () => {
  expectTypeOf<ChatStream>().toExtend<AsyncIterableIterator<ChatStreamResponse>>();
  expectTypeOf<ChatStream['final']>().returns.resolves.toEqualTypeOf<ChatCompletionResponse>();
  expectTypeOf<CompletionStream['toText']>().returns.resolves.toEqualTypeOf<string>();
  expectTypeOf<ChatStream['cancel']>().returns.toEqualTypeOf<void>();
});

it('requests are what builders give', () => {
  expectTypeOf<RequestBuilder['toRequest']>().returns.toEqualTypeOf<ChatRequest>();
  expectTypeOf<TextMessages>().toExtend<RequestLike>();
  expectTypeOf<{ messages: { role: 'user'; content: string }[] }>().toExtend<RequestLike>();
  expectTypeOf<{ messages: { role: 'user' }[] }>().not.toExtend<RequestLike>();
  expectTypeOf<{ temperature: string }>().not.toExtend<SamplingParams>();
  expectTypeOf<RawResponse['logitsChunks']>().toEqualTypeOf<Tensor[]>();
});

it('choices always carry token ids', () => {
  expectTypeOf<ChatCompletionResponse['choices'][number]['tokenIds']>().toEqualTypeOf<Uint32Array>();
  expectTypeOf<CompletionResponse['choices'][number]['tokenIds']>().toEqualTypeOf<Uint32Array>();
  expectTypeOf<ChatStreamResponse['choices'][number]['tokenIds']>().toEqualTypeOf<Uint32Array>();
});

it('builders are fluent and refuse unknown words', () => {
  type Builder = InstanceType<typeof api.ModelBuilder>;
  expectTypeOf<Builder['withDevice']>().parameter(0).toEqualTypeOf<'auto' | 'cpu' | 'webgpu' | 'reference'>();
  expectTypeOf<Builder['withDtype']>().parameter(0).toEqualTypeOf<'auto' | 'f32'>();
  expectTypeOf<Builder['build']>().returns.resolves.toEqualTypeOf<Model>();
  expectTypeOf<ConstructorParameters<typeof api.GgufModelBuilder>>().toEqualTypeOf<
    [folderOrRepo: string, files: readonly string[]]
  >();
  expectTypeOf<typeof api.loadModel>().parameter(1).toEqualTypeOf<LoadOptions | undefined>();
});

it('errors narrow', () => {
  const narrow = (error: unknown, e: typeof api) => {
    if (error instanceof e.RequestValidationError) expectTypeOf(error.code).toExtend<string>();
    if (error instanceof e.UnsupportedError) expectTypeOf(error.feature).toEqualTypeOf<string>();
  };
  expectTypeOf(narrow).toBeFunction();
});
