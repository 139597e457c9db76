/** One door for everything that bytes are read from. */
import { ModelLoadError, messageOf, UnsupportedError } from '../errors.ts';
import type { Platform } from '../platform.ts';
import type { HttpSourceOptions } from './httpSource.ts';
import { openHttp } from './httpSource.ts';
import { blobSource, bytesSource } from './memory.ts';
import type { ByteSource } from './source.ts';

/** A path, an `http(s):` or `file:` URL, a `Blob`, bytes, or a source that is open already. */
export type SourceInput = string | URL | Blob | Uint8Array | ArrayBufferLike | ByteSource;

export interface OpenOptions extends HttpSourceOptions {
  /** Opens paths; without it they are refused. */
  readonly platform?: Platform | undefined;
}

/** Opens any input as a byte source. A source that is passed in is returned as it is, and closed by whoever closes it. */
export async function openSource(input: SourceInput, options: OpenOptions = {}): Promise<ByteSource> {
  if (input instanceof Uint8Array || input instanceof ArrayBuffer) return bytesSource(input);
  if (typeof SharedArrayBuffer !== 'undefined' && input instanceof SharedArrayBuffer) return bytesSource(input);
  if (typeof Blob !== 'undefined' && input instanceof Blob) return blobSource(input);
  if (typeof input === 'string' || input instanceof URL) return openLocation(String(input), options);
  return input as ByteSource;
}

async function openLocation(location: string, options: OpenOptions): Promise<ByteSource> {
  if (isHttpUrl(location)) return openHttp(location, { readAhead: true, ...options });
  const { platform } = options;
  if (platform === undefined) {
    throw new UnsupportedError(`${location}: no platform was given to open paths with; pass bytes, a Blob or a URL`, {
      feature: 'files',
    });
  }
  return platform.openFile(location.startsWith('file:') ? pathOfFileUrl(location) : location);
}

export function isHttpUrl(text: string): boolean {
  return /^https?:\/\//i.test(text);
}

/** `file:///C:/a%20b` → `C:/a b`, `file:///tmp/x` → `/tmp/x`. */
export function pathOfFileUrl(url: string): string {
  try {
    const path = decodeURIComponent(new URL(url).pathname);
    return /^\/[A-Za-z]:/.test(path) ? path.slice(1) : path;
  } catch (error) {
    throw new ModelLoadError(`${url}: expected a file URL, got ${messageOf(error)}`, { cause: error });
  }
}
