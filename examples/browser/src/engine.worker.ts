/** The engine, off the page's thread: the page stays responsive also where the model computes on this thread alone. */
import { type LoadOptions, loadModel, type Model, type ModelSpec } from 'tramontane';
import { forget, KEPT, kept } from './kept.ts';
import type { CallName, Calls, FromWorker, LoadRequest, Source, ToWorker } from './protocol.ts';

type Context<N extends CallName> = { readonly signal: AbortSignal; readonly emit: (event: Calls[N]['event']) => void };
type Handlers = {
  [N in CallName]: (args: Calls[N]['args'], context: Context<N>) => Promise<Calls[N]['result']>;
};

const EMBEDDED = 'models/smollm2-135m-instruct-q4_1.gguf';

const port = globalThis as unknown as {
  postMessage(message: FromWorker): void;
  onmessage: ((event: MessageEvent<ToWorker>) => void) | null;
};

function handlers(): Handlers {
  let model: Model | undefined;
  const unload = async (): Promise<undefined> => {
    const old = model;
    model = undefined;
    await old?.dispose();
  };
  return {
    async load(request, { signal, emit }) {
      await unload();
      const { spec, options } = sourceOf(request.source);
      const loaded = await loadModel(spec, {
        ...options,
        device: request.device,
        ...cacheOptions(request),
        signal,
        onProgress: ({ stage, done, total }) => emit({ stage, done, total }),
      });
      model = loaded;
      const info = loaded.config();
      return {
        name: request.source.kind === 'embedded' ? 'SmolLM2 135M Instruct' : nameOf(request.source),
        architecture: info.kind.replace(/For(CausalLM|ConditionalGeneration)$/, ''),
        device: info.device,
        threads: info.backend.threads,
        variant: info.backend.simd,
        contextLength: info.maxSeqLen ?? 0,
        hasTemplate: info.hasChatTemplate,
        memoryBytes: bytesOf(loaded),
      };
    },

    async ask({ turns, sampling, seed }, { signal, emit }) {
      if (model === undefined) throw new Error('no model is loaded');
      const asked = model;
      const started = performance.now();
      const more = seed === undefined ? {} : { seed };
      const stream = asked.config().hasChatTemplate
        ? asked.streamChatRequest({ messages: [...turns], sampling, ...more })
        : asked.streamComplete(turns.at(-1)?.content ?? '', { sampling, ...more });
      // The answer so far is kept: the stream ends by itself at the next token.
      signal.addEventListener('abort', () => stream.cancel(), { once: true });
      let firstTokenMs = 0;
      let finishReason = 'canceled';
      let tokens = 0;
      let tokensPerSecond = 0;
      for await (const chunk of stream) {
        if (tokens === 0) firstTokenMs = performance.now() - started;
        const [choice] = chunk.choices;
        if (choice === undefined) continue;
        tokens += choice.tokenIds.length;
        finishReason = choice.finishReason ?? finishReason;
        tokensPerSecond = chunk.usage?.avgComplTokPerSec ?? tokensPerSecond;
        emit({ text: 'delta' in choice ? (choice.delta.content ?? '') : choice.text, tokens });
      }
      return { tokens, tokensPerSecond, firstTokenMs, finishReason, memoryBytes: bytesOf(asked) };
    },

    unload,
    kept,
    forget: async ({ repo }) => forget(repo),
  };
}

function sourceOf(source: Source): { readonly spec: ModelSpec; readonly options: LoadOptions } {
  switch (source.kind) {
    case 'embedded':
      // Beside the page, wherever its assets lie.
      return { spec: new URL(EMBEDDED, new URL('./', location.href.replace(/(src|assets)\/[^/]*$/, ''))), options: {} };
    case 'file':
      return { spec: source.file, options: {} };
    case 'hub':
      return {
        spec: source.repo,
        options: {
          ...(source.file ? { files: [source.file] } : {}),
          ...(source.keep ? { hfCachePath: KEPT } : {}),
          ...(source.endpoint ? { hfEndpoint: source.endpoint } : {}),
        },
      };
  }
}

/** One conversation at a time needs one sequence's cache. */
function cacheOptions({ contextLength }: LoadRequest): LoadOptions {
  return { maxNumSeqs: 1, maxModelLen: contextLength, pagedAttn: { memory: { contextSize: contextLength } } };
}

function nameOf(source: Exclude<Source, { kind: 'embedded' }>): string {
  if (source.kind === 'file') return source.file.name.replace(/\.gguf$/i, '');
  return source.file === undefined ? source.repo : `${source.repo} · ${source.file.replace(/\.gguf$/i, '')}`;
}

function bytesOf(model: Model): number {
  const { persistent, arena } = model.memory();
  return persistent + arena;
}

const calls = handlers();
const running = new Map<number, AbortController>();

port.onmessage = async ({ data }) => {
  const { id } = data;
  if ('abort' in data) {
    running.get(id)?.abort();
    return;
  }
  const control = new AbortController();
  running.set(id, control);
  try {
    const handler = calls[data.call] as (args: unknown, context: Context<CallName>) => Promise<unknown>;
    const result = await handler(data.args, {
      signal: control.signal,
      emit: (event) => port.postMessage({ id, event }),
    });
    port.postMessage({ id, result });
  } catch (error) {
    const { name, message } = error instanceof Error ? error : { name: 'Error', message: String(error) };
    port.postMessage({ id, failure: { name, message } });
  } finally {
    running.delete(id);
  }
};
