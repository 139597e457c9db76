/** A byte source over an HTTP resource, read by range. */
import { FormatError, UnsupportedError } from '../errors.ts';
import type { HttpOptions, OpenResponse } from './http.ts';
import { checkStatus, contentRange, retrying, send, shown, streamRange, strongEtag } from './http.ts';
import { bytesSource } from './memory.ts';
import { checkRange } from './range.ts';
import { readAhead } from './readAhead.ts';
import type { ByteSource } from './source.ts';

/** The first request asks for this much, so that small files and most headers come with it. */
const HEAD_BYTES = 2 ** 20;
/** Without range support a resource is kept in memory as a whole, up to this size. */
const MAX_WHOLE_BYTES = 2 ** 29;

export interface HttpSourceOptions extends HttpOptions {
  /** Bytes that a server without range support may send; larger resources are refused. Default 512 MiB. */
  readonly maxWholeBytes?: number | undefined;
  /** Asks for more than each read wants, and before it is wanted. For a file that is read in order. */
  readonly readAhead?: boolean | undefined;
}

/**
 * Opens a URL for reads by range. A server that ignores ranges is downloaded once when it is small enough, else
 * `UnsupportedError`. Reads retry and resume; a short body never passes for a whole one.
 */
export function openHttp(url: string, options: HttpSourceOptions = {}): Promise<ByteSource> {
  return retrying(url, options, async () => {
    const response = await send(url, options, `bytes=0-${HEAD_BYTES - 1}`);
    try {
      return await openResponse(url, response, options);
    } finally {
      response.cancel();
    }
  });
}

async function openResponse(url: string, response: OpenResponse, options: HttpSourceOptions): Promise<ByteSource> {
  if (response.status === 416 && response.headers.get('content-range') === 'bytes */0') {
    return bytesSource(new Uint8Array(0), shown(url));
  }
  checkStatus(url, response);
  if (response.status === 200) return bytesSource(await readWhole(url, response, options), shown(url));
  const range = contentRange(url, response);
  if (range.total === undefined || range.start !== 0) {
    throw new UnsupportedError(`${shown(url)}: expected a range from 0 with the total size; the server gives none`);
  }
  const head = new Uint8Array(Math.min(range.end, HEAD_BYTES));
  let at = 0;
  for (let piece = await response.read(); piece !== undefined && at < head.length; piece = await response.read()) {
    const part = piece.subarray(0, head.length - at);
    head.set(part, at);
    at += part.length;
  }
  if (at < head.length) throw new Error(`expected ${head.length} bytes, the connection ended after ${at}`);
  const source = rangedSource(url, range.total, head, strongEtag(response), options);
  return options.readAhead ? readAhead(source) : source;
}

function rangedSource(
  url: string,
  size: number,
  head: Uint8Array,
  etag: string | undefined,
  options: HttpOptions,
): ByteSource {
  const source: ByteSource = {
    name: shown(url),
    size,
    async slice(start, end) {
      checkRange(source, start, end);
      if (end <= head.length) return head.slice(start, end);
      const bytes = new Uint8Array(end - start);
      await source.readInto(start, bytes);
      return bytes;
    },
    async readInto(start, target) {
      const end = start + target.length;
      checkRange(source, start, end);
      const known = head.subarray(start, end);
      target.set(known);
      let at = known.length;
      await streamRange(
        url,
        start + at,
        end,
        (bytes) => {
          target.set(bytes, at);
          at += bytes.length;
        },
        options,
        etag,
      );
    },
    async close() {},
  };
  return source;
}

async function readWhole(url: string, response: OpenResponse, options: HttpSourceOptions): Promise<Uint8Array> {
  const limit = options.maxWholeBytes ?? MAX_WHOLE_BYTES;
  const encoded = response.headers.has('content-encoding');
  const length = response.headers.get('content-length');
  const expected = length === null || encoded ? undefined : Number(length);
  const refuse = (got: string): never => {
    throw new UnsupportedError(
      `${shown(url)}: the server has no range support and the content is ${got}, more than the ${limit} bytes that are ` +
        'read as a whole; download the file first',
      { feature: 'http ranges' },
    );
  };
  if (expected !== undefined && !(expected >= 0)) {
    throw new FormatError(`${shown(url)}: expected a Content-Length, got ${JSON.stringify(length)}`);
  }
  if (expected !== undefined && expected > limit) refuse(`${expected} bytes`);
  const pieces: Uint8Array[] = [];
  let total = 0;
  for (let piece = await response.read(); piece !== undefined; piece = await response.read()) {
    total += piece.length;
    if (total > limit) refuse(`at least ${total} bytes`);
    pieces.push(piece);
  }
  if (expected !== undefined && total !== expected) {
    throw new Error(`expected ${expected} bytes, the connection ended after ${total}`);
  }
  const whole = new Uint8Array(total);
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
