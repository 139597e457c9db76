/** What a worker runs, as text: it is started from a string, so that no bundler has to know of it. */
import { messageOf, UnsupportedError } from '../../core/errors.ts';

/** A module to instantiate; the first one ever is the interpreter. */
export interface Installation {
  readonly module: WebAssembly.Module;
  /** Number of the memory it works on. */
  readonly memory: number;
  readonly tableBase: number;
}

export interface WorkerMessage {
  readonly tid: number;
  readonly nt: number;
  /** Memories it does not know yet. */
  readonly memories: readonly WebAssembly.Memory[];
  readonly install: readonly Installation[];
  /** Command to go on with, once everything is installed; absent: wait for another message. */
  readonly position: number | undefined;
  /** Whether to answer `ready` before going on. */
  readonly answer: boolean;
}

/** A worker says that it is about to go on, that all commands up to a signal are done, or what went wrong. */
export type WorkerReply = 'ready' | 'done' | { readonly error: string };

/**
 * Plain JavaScript of the oldest runtime. `post` and the handler are found as the runtime offers them: a worker of Node
 * has `require` and no `self`.
 */
const WORKER_SOURCE = `
const port = typeof self === 'undefined' ? require('node:worker_threads').parentPort : self;
const memories = [];
let table, run;
const copy = (to, target, from, source, bytes) =>
  new Uint8Array(memories[to].buffer, target >>> 0, bytes)
    .set(new Uint8Array(memories[from].buffer, source >>> 0, bytes));
const handle = (message) => {
  try {
    memories.push(...message.memories);
    for (const { module, memory, tableBase } of message.install) {
      const env = { memory: memories[memory], table, tableBase, copy, signal: () => port.postMessage('done') };
      const { exports } = new WebAssembly.Instance(module, { env });
      if (exports.run) ({ table, run } = exports);
    }
    if (message.answer) port.postMessage('ready');
    if (message.position !== undefined) run(message.tid, message.nt, message.position);
  } catch (error) {
    port.postMessage({ error: String(error && error.stack || error) });
  }
};
if (port.on) port.on('message', handle);
else port.onmessage = (event) => handle(event.data);
`;

/** A worker of any runtime. */
export interface WorkerHandle {
  post(message: WorkerMessage): void;
  /** Whether the worker keeps the process alive. */
  keepAlive(yes: boolean): void;
  terminate(): Promise<void>;
}

export interface WorkerEvents {
  onReply(reply: WorkerReply): void;
  onError(message: string): void;
}

interface NodeWorker {
  on(event: 'message', listener: (reply: WorkerReply) => void): void;
  on(event: 'error' | 'messageerror', listener: (error: unknown) => void): void;
  postMessage(message: WorkerMessage): void;
  ref(): void;
  unref(): void;
  terminate(): Promise<number>;
}

/** Starts a worker. Rejects where the runtime or its content policy forbids it. */
export async function startWorker(events: WorkerEvents): Promise<WorkerHandle> {
  if (prefersWebWorkers()) return startWebWorker(events);
  if (!hasNodeModules()) throw new UnsupportedError('this runtime has none', { feature: 'workers' });
  const { Worker: Thread } = await nodeModule<{ Worker: new (code: string, o: object) => NodeWorker }>(
    'node:worker_threads',
  );
  const worker = new Thread(WORKER_SOURCE, { eval: true, name: 'tramontane' });
  worker.on('message', (reply) => events.onReply(reply));
  worker.on('error', (error) => events.onError(messageOf(error)));
  worker.on('messageerror', (error) => events.onError(messageOf(error)));
  worker.unref();
  return {
    post: (message) => worker.postMessage(message),
    keepAlive: (yes) => (yes ? worker.ref() : worker.unref()),
    terminate: async () => {
      await worker.terminate();
    },
  };
}

/** Browsers and Bun. The web workers of Deno cannot be left alone at exit; its workers in the manner of Node can. */
function prefersWebWorkers(): boolean {
  return typeof Worker === 'function' && ('unref' in Worker.prototype || !hasNodeModules());
}

function hasNodeModules(): boolean {
  const { process } = globalThis as { process?: { versions?: { node?: string } } };
  return process?.versions?.node !== undefined;
}

function startWebWorker(events: WorkerEvents): WorkerHandle {
  const url = URL.createObjectURL(new Blob([WORKER_SOURCE], { type: 'text/javascript' }));
  // Bun and Deno let workers hold the process; their extension of the interface releases it.
  const worker = new Worker(url, { type: 'module', name: 'tramontane' }) as Worker & { ref?(): void; unref?(): void };
  worker.onmessage = (event: MessageEvent<WorkerReply>) => {
    URL.revokeObjectURL(url);
    events.onReply(event.data);
  };
  worker.onerror = (event) => {
    event.preventDefault?.();
    events.onError(event.message ?? 'the worker failed to start');
  };
  worker.onmessageerror = () => events.onError('a message to or from the worker could not be read');
  worker.unref?.();
  return {
    post: (message) => worker.postMessage(message),
    keepAlive: (yes) => (yes ? worker.ref?.() : worker.unref?.()),
    terminate: async () => worker.terminate(),
  };
}

/** A module of Node that bundlers for browsers must not see. */
export async function nodeModule<T>(name: string): Promise<T> {
  const { process } = globalThis as { process?: { getBuiltinModule?(name: string): unknown } };
  return (process?.getBuiltinModule?.(name) ?? (await import(/* @vite-ignore */ /* webpackIgnore: true */ name))) as T;
}
