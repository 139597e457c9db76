/** Packs rows on several threads where the built package can start them, else on this one. */
import { messageOf, WeightError } from '../../core/errors.ts';
import { type PackJob, packRows } from './packRows.ts';

/** Work worth a thread: about a fifth of a second of the slowest types. */
const MIN_ELEMENTS = 1 << 18;

/**
 * Plain JavaScript of the oldest runtime, started from a string, so that no bundler has to know of it. A worker of Node has
 * `require` and no `self`.
 */
const WORKER_SOURCE = `
const port = typeof self === 'undefined' ? require('node:worker_threads').parentPort : self;
let packer;
const handle = async ({ id, url, job }) => {
  try {
    packer ??= await import(url);
    if (!job) return port.postMessage({ id });
    const bytes = packer.packRows(job);
    port.postMessage({ id, bytes }, [bytes.buffer]);
  } catch (error) {
    port.postMessage({ id, error: String(error && error.message || error) });
  }
};
if (port.on) port.on('message', handle);
else port.onmessage = (event) => handle(event.data);
`;

interface Reply {
  readonly id: number;
  readonly bytes?: Uint8Array;
  readonly error?: string;
}

interface Handle {
  post(message: unknown, transfer: readonly ArrayBuffer[]): void;
  terminate(): unknown;
}

interface Waiting {
  resolve(bytes: Uint8Array): void;
  reject(error: Error): void;
}

export interface PackerOptions {
  /** Threads, this one included. */
  readonly threads: number;
  /** Address of the built module that exports `packRows`; absent, the one beside this module. */
  readonly url?: string | undefined;
}

/** A few threads that pack rows. Without any, everything runs inline, with the same result. */
export class Packers {
  readonly #threads: number;
  readonly #url: string | undefined;
  #workers: Promise<readonly Handle[]> | undefined;
  readonly #waiting = new Map<number, Waiting>();
  #next = 0;
  #disposed = false;

  constructor({ threads, url = moduleUrl() }: PackerOptions) {
    this.#threads = threads;
    this.#url = url;
  }

  /** Workers that answer; 0 where everything runs inline. */
  async start(): Promise<number> {
    return (await this.#started()).length;
  }

  /** The packed rows. Large jobs are shared between all threads. */
  async pack(job: PackJob): Promise<Uint8Array> {
    const rows = (job.bytes.length / job.from.blockBytes) * (job.from.blockSize / job.columns);
    const most = Math.floor((rows * job.columns) / MIN_ELEMENTS);
    if (this.#threads <= 1 || most <= 1 || rows <= 1) return packRows(job);
    const workers = await this.#started();
    if (workers.length === 0) return packRows(job);
    const parts = Math.min(workers.length, most, rows);
    const rowBytes = job.bytes.length / rows;
    const packed = await Promise.all(
      Array.from({ length: parts }, (_, i) => {
        const from = Math.floor((i * rows) / parts);
        const to = Math.floor(((i + 1) * rows) / parts);
        // A copy: its memory moves to the worker.
        const bytes = job.bytes.slice(from * rowBytes, to * rowBytes);
        return this.#ask(workers[i]!, { ...job, bytes });
      }),
    );
    const out = new Uint8Array(packed.reduce((n, p) => n + p.length, 0));
    let at = 0;
    for (const p of packed) {
      out.set(p, at);
      at += p.length;
    }
    return out;
  }

  async dispose(): Promise<void> {
    this.#disposed = true;
    const workers = await this.#workers;
    for (const { reject } of this.#waiting.values()) reject(new WeightError('packing: stopped'));
    this.#waiting.clear();
    await Promise.all((workers ?? []).map((w) => w.terminate()));
  }

  #started(): Promise<readonly Handle[]> {
    this.#workers ??= this.#startAll();
    return this.#workers;
  }

  /** Every worker is asked to load its module; if any cannot, none is used. */
  async #startAll(): Promise<readonly Handle[]> {
    if (this.#disposed || this.#url === undefined || this.#threads <= 1) return [];
    const handles: Handle[] = [];
    try {
      for (let i = 0; i < this.#threads; i++) {
        handles.push(
          await startWorker(
            (reply) => this.#answer(reply),
            (message) => this.#fail(message),
          ),
        );
      }
      await Promise.all(handles.map((h) => this.#ask(h, undefined)));
      return handles;
    } catch {
      await Promise.all(handles.map((h) => h.terminate()));
      return [];
    }
  }

  #ask(worker: Handle, job: PackJob | undefined): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      const id = this.#next++;
      this.#waiting.set(id, { resolve, reject });
      worker.post({ id, url: this.#url, job }, job ? [job.bytes.buffer as ArrayBuffer] : []);
    });
  }

  #answer({ id, bytes, error }: Reply): void {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (error !== undefined) waiting?.reject(new WeightError(error));
    else waiting?.resolve(bytes ?? new Uint8Array(0));
  }

  #fail(message: string): void {
    for (const { reject } of this.#waiting.values()) reject(new WeightError(`packing: a thread failed: ${message}`));
    this.#waiting.clear();
  }
}

/** Where builds put the module of the workers. */
function moduleUrl(): string | undefined {
  // Written out: bundles for CommonJS put their own address in its place.
  const url: unknown = import.meta.url;
  if (typeof url !== 'string' || /\.ts$/.test(url)) return undefined;
  const name = './packer.js';
  return new URL(name, url).href;
}

interface NodeWorker {
  on(event: string, listener: (value: unknown) => void): void;
  postMessage(message: unknown, transfer: readonly ArrayBuffer[]): void;
  unref(): void;
  terminate(): Promise<number>;
}

async function startWorker(onReply: (r: Reply) => void, onError: (message: string) => void): Promise<Handle> {
  const { process } = globalThis as {
    process?: { versions?: { node?: string }; getBuiltinModule?(name: string): unknown };
  };
  if (typeof Worker === 'function' && ('unref' in Worker.prototype || process?.versions?.node === undefined)) {
    const url = URL.createObjectURL(new Blob([WORKER_SOURCE], { type: 'text/javascript' }));
    const worker = new Worker(url, { type: 'module', name: 'tramontane-packer' });
    worker.onmessage = (event: MessageEvent<Reply>) => {
      URL.revokeObjectURL(url);
      onReply(event.data);
    };
    worker.onerror = (event) => {
      event.preventDefault?.();
      onError(event.message ?? 'it did not start');
    };
    return {
      post: (message, transfer) => worker.postMessage(message, [...transfer]),
      terminate: () => worker.terminate(),
    };
  }
  const name = 'node:worker_threads';
  const { Worker: Thread } = (process?.getBuiltinModule?.(name) ??
    (await import(/* @vite-ignore */ /* webpackIgnore: true */ name))) as {
    Worker: new (code: string, options: object) => NodeWorker;
  };
  const worker = new Thread(WORKER_SOURCE, { eval: true, name: 'tramontane-packer' });
  worker.on('message', (reply) => onReply(reply as Reply));
  worker.on('error', (error) => onError(messageOf(error)));
  return { post: (message, transfer) => worker.postMessage(message, transfer), terminate: () => worker.terminate() };
}
