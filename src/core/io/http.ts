/** HTTP reads that survive bad connections: a range is streamed, and resumed where it broke off. */
import { AbortError, FormatError, ModelLoadError, messageOf, TramontaneError } from '../errors.ts';

/** Tries of one request before giving up. */
const ATTEMPTS = 5;
/** A connection that delivers nothing for this long counts as broken. */
const STALL_MS = 30_000;
/** First pause between two tries; doubles each time. */
const RETRY_DELAY_MS = 250;
/** The longest pause, also when a server asks for more. */
const MAX_DELAY_MS = 10_000;
/** Delivering this much between two failures starts the count of tries anew. */
const PROGRESS_BYTES = 2 ** 20;
const RETRY_STATUS: ReadonlySet<number> = new Set([408, 425, 429, 500, 502, 503, 504]);

export interface HttpOptions {
  readonly fetch?: typeof fetch | undefined;
  readonly headers?: Readonly<Record<string, string>> | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly attempts?: number | undefined;
  readonly stallMs?: number | undefined;
  readonly retryDelayMs?: number | undefined;
}

/** A status that no retry mends. `status` is for callers that can say more about it. */
export class HttpStatusError extends ModelLoadError {
  static override readonly kind: string = 'HttpStatusError';
  readonly status: number;
  readonly code: string | undefined;
  constructor(url: string, status: number, code: string | undefined) {
    super(`${shown(url)}: expected status 200 or 206, got ${status}${code === undefined ? '' : ` (${code})`}`);
    this.status = status;
    this.code = code;
  }
}

/** The connection failed on every try. */
export class ConnectionError extends ModelLoadError {
  static override readonly kind: string = 'ConnectionError';
}

/** A response whose body has not been read; `read` gives the next piece, `undefined` at the end. */
export interface OpenResponse {
  readonly status: number;
  readonly headers: Headers;
  read(): Promise<Uint8Array | undefined>;
  cancel(): void;
}

/** URL without query and credentials, for messages: both may hold secrets. */
export function shown(url: string): string {
  try {
    const u = new URL(url);
    return u.origin === 'null' ? `${u.protocol}${u.pathname}` : `${u.origin}${u.pathname}`;
  } catch {
    return url;
  }
}

/** Sends one GET, no retry. Rejects with `AbortError` when the caller's signal fired. */
export async function send(url: string, options: HttpOptions, range?: string): Promise<OpenResponse> {
  const { signal, stallMs = STALL_MS } = options;
  if (signal?.aborted) throw aborted(url);
  const control = new AbortController();
  const stop = (): void => control.abort();
  signal?.addEventListener('abort', stop, { once: true });
  let timer: ReturnType<typeof setTimeout> | undefined;
  const watched = async <T>(work: Promise<T>): Promise<T> => {
    let stalled = false;
    timer = setTimeout(() => {
      stalled = true;
      control.abort();
    }, stallMs);
    try {
      return await work;
    } catch (error) {
      if (signal?.aborted) throw aborted(url);
      throw stalled ? new Error(`no data for ${stallMs} ms`) : error;
    } finally {
      clearTimeout(timer);
    }
  };
  const release = (): void => signal?.removeEventListener('abort', stop);
  try {
    const headers: Record<string, string> = { ...options.headers, 'Accept-Encoding': 'identity' };
    if (range !== undefined) headers['Range'] = range;
    const response = await watched((options.fetch ?? fetch)(url, { headers, signal: control.signal }));
    const reader = response.body?.getReader();
    return {
      status: response.status,
      headers: response.headers,
      async read() {
        if (!reader) return undefined;
        try {
          const { done, value } = await watched(reader.read());
          if (!done) return value;
          release();
          return undefined;
        } catch (error) {
          release();
          throw error;
        }
      },
      cancel() {
        release();
        control.abort();
      },
    };
  } catch (error) {
    release();
    throw error;
  }
}

/** Runs one try after another until it succeeds, fails for good, or the tries are used up. */
export async function retrying<T>(url: string, options: HttpOptions, attempt: () => Promise<T>): Promise<T> {
  const attempts = options.attempts ?? ATTEMPTS;
  for (let failures = 1; ; failures++) {
    try {
      return await attempt();
    } catch (error) {
      await pause(url, error, failures, attempts, options);
    }
  }
}

/** Throws unless `error` is worth another try, then waits. */
async function pause(
  url: string,
  error: unknown,
  failures: number,
  attempts: number,
  options: HttpOptions,
): Promise<void> {
  const busy = error instanceof HttpStatusError && RETRY_STATUS.has(error.status);
  if (error instanceof TramontaneError && !busy) throw error;
  if (failures >= attempts) {
    if (busy) throw error;
    throw new ConnectionError(`${shown(url)}: ${reason(error)} (${failures} tries)`, { cause: error });
  }
  const backoff = (options.retryDelayMs ?? RETRY_DELAY_MS) * 2 ** (failures - 1);
  await delay(Math.min(MAX_DELAY_MS, backoff * (0.75 + Math.random() / 2)), url, options.signal);
}

/** Throws `HttpStatusError` unless the response carries content. */
export function checkStatus(url: string, response: OpenResponse): void {
  if (response.status === 200 || response.status === 206) return;
  throw new HttpStatusError(url, response.status, response.headers.get('x-error-code') ?? undefined);
}

export interface ContentRange {
  readonly start: number;
  readonly end: number;
  readonly total: number | undefined;
}

/** `Content-Range: bytes 0-9/100` as `[0, 10)` of 100. */
export function contentRange(url: string, response: OpenResponse): ContentRange {
  const text = response.headers.get('content-range') ?? '';
  const match = /^bytes (\d{1,16})-(\d{1,16})\/(\d{1,16}|\*)$/.exec(text);
  const start = Number(match?.[1]);
  const end = Number(match?.[2]) + 1;
  const total = match?.[3] === '*' ? undefined : Number(match?.[3]);
  if (!match || !(start < end) || !Number.isSafeInteger(end) || (total !== undefined && end > total)) {
    throw new FormatError(`${shown(url)}: expected a Content-Range header, got ${JSON.stringify(text)}`);
  }
  return { start, end, total };
}

/**
 * Streams the bytes `[start, end)` of a resource into `sink`, in order and each once. A broken connection is taken up
 * again where it ended; a server without range support is read from its beginning. `etag` of the first response must
 * stay the same.
 */
export async function streamRange(
  url: string,
  start: number,
  end: number,
  sink: (bytes: Uint8Array) => void | Promise<void>,
  options: HttpOptions = {},
  etag?: string,
): Promise<void> {
  const attempts = options.attempts ?? ATTEMPTS;
  let at = start;
  let mark = start;
  let failures = 0;
  while (at < end) {
    try {
      const response = await send(url, options, `bytes=${at}-${end - 1}`);
      try {
        checkStatus(url, response);
        const tag = strongEtag(response);
        if (etag !== undefined && tag !== undefined && tag !== etag) {
          throw new FormatError(`${shown(url)}: the content changed while it was read (etag ${etag}, then ${tag})`);
        }
        etag ??= tag;
        let skip = response.status === 200 ? at : at - contentRange(url, response).start;
        if (skip < 0) throw new FormatError(`${shown(url)}: expected bytes from ${at}, got a later range`);
        for (let piece = await response.read(); piece !== undefined; piece = await response.read()) {
          const fresh = piece.subarray(Math.min(skip, piece.length));
          skip -= piece.length - fresh.length;
          if (fresh.length === 0) continue;
          if (at + fresh.length > end) {
            throw new FormatError(`${shown(url)}: expected ${end} bytes, the server sends more`);
          }
          await sink(fresh);
          at += fresh.length;
        }
      } finally {
        response.cancel();
      }
      if (at < end) throw new Error(`expected ${end - start} bytes, the connection ended after ${at - start}`);
    } catch (error) {
      failures = at - mark >= PROGRESS_BYTES ? 1 : failures + 1;
      mark = at;
      await pause(url, error, failures, attempts, options);
    }
  }
}

/** The entity tag, unless it is weak (those may stay while bytes change). */
export function strongEtag(response: OpenResponse): string | undefined {
  const tag = response.headers.get('etag') ?? undefined;
  return tag?.startsWith('W/') ? undefined : tag;
}

function aborted(url: string): AbortError {
  return new AbortError(`${shown(url)}: the read was cancelled`);
}

/** What `fetch` hides in its cause is the part that tells (`ECONNREFUSED`, `ENOTFOUND`). */
function reason(error: unknown): string {
  const cause = (error as { cause?: unknown } | undefined)?.cause;
  const text = messageOf(error);
  return cause === undefined ? text : `${text}: ${(cause as { code?: string }).code ?? messageOf(cause)}`;
}

function delay(ms: number, url: string, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((done, fail) => {
    const stop = (): void => {
      clearTimeout(timer);
      fail(aborted(url));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop);
      done();
    }, ms);
    signal?.addEventListener('abort', stop, { once: true });
    if (signal?.aborted) stop();
  });
}
