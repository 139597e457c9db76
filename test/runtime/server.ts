/** A server of static files with ranges, and with headers and misbehaviour to order. */
import { once } from 'node:events';
import { createReadStream, existsSync, statSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join, normalize } from 'node:path';
import { pipeline } from 'node:stream/promises';

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.json': 'application/json',
  '.wasm': 'application/wasm',
};

/** What makes a page cross-origin isolated. */
export const ISOLATED: Readonly<Record<string, string>> = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
};

/** Pages of other servers may read, as from the hub. */
const FOR_EVERYONE = { 'Access-Control-Allow-Origin': '*', 'Access-Control-Expose-Headers': 'Content-Range' };

export interface ServerOptions {
  /** Folders by the first part of the path. */
  readonly mounts: Readonly<Record<string, string>>;
  readonly headers?: Readonly<Record<string, string>>;
  /** Bytes after which the connection of an answer breaks; `undefined`: it is sent as a whole. */
  readonly cut?: (path: string, start: number) => number | undefined;
}

export interface FileServer {
  /** Without a slash at the end. */
  readonly origin: string;
  stop(): Promise<void>;
}

/** Serves on a free port of this machine. */
export async function serve(options: ServerOptions): Promise<FileServer> {
  const server = createServer((request, response) => void answer(request, response, options));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async stop() {
      server.close();
      server.closeAllConnections();
      await once(server, 'close');
    },
  };
}

async function answer(request: IncomingMessage, response: ServerResponse, options: ServerOptions): Promise<void> {
  const path = normalize(decodeURIComponent(new URL(request.url ?? '/', 'http://x').pathname));
  const [, mount = '', ...rest] = path.split('/');
  const root = options.mounts[mount];
  const file = root === undefined ? undefined : join(root, ...rest);
  if (file === undefined || !existsSync(file) || !statSync(file).isFile()) {
    response.writeHead(404).end();
    return;
  }
  const { size } = statSync(file);
  const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
  const start = Number(range?.[1] ?? 0);
  const end = Math.min(size, range ? Number(range[2]) + 1 : size);
  response.writeHead(range ? 206 : 200, {
    ...FOR_EVERYONE,
    ...options.headers,
    'Content-Type': TYPES[extname(file)] ?? 'application/octet-stream',
    'Content-Length': end - start,
    'Cache-Control': 'no-store',
    ...(range ? { 'Content-Range': `bytes ${start}-${end - 1}/${size}` } : {}),
  });
  const cut = options.cut?.(path, start);
  const last = Math.min(end, cut === undefined ? end : start + cut);
  try {
    if (last > start) await pipeline(createReadStream(file, { start, end: last - 1 }), response, { end: false });
  } catch {
    // The client has left.
  }
  if (cut === undefined) response.end();
  else response.destroy();
}
