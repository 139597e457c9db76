/** A server that answers like the hub: model info, file tree in pages, downloads by range behind a redirect. */
import { createHash } from 'node:crypto';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface FakeFile {
  readonly data: Uint8Array;
  /** Large files are named by SHA-256, others by git's SHA-1. */
  readonly large?: boolean;
}

const text = new TextEncoder();
const hash = (algorithm: string, ...parts: Uint8Array[]): string => {
  const h = createHash(algorithm);
  for (const part of parts) h.update(part);
  return h.digest('hex');
};

export const etagOf = ({ data, large }: FakeFile): string =>
  large ? hash('sha256', data) : hash('sha1', text.encode(`blob ${data.length}\0`), data);

export class FakeHub {
  readonly id = 'org/tiny';
  readonly commit = 'c0ffee'.padEnd(40, '0');
  files: Record<string, FakeFile> = {};
  /** What the tree says instead of the truth, by path. */
  lies: Record<string, object> = {};
  token: string | undefined;
  errorCode: string | undefined;
  ranges = true;
  /** Bytes of a download after which the connection breaks, once each. */
  breaks: number[] = [];
  /** Called when a download has begun. */
  onDownload: ((path: string) => void) | undefined;
  pageSize = 2;
  requests: string[] = [];
  endpoint = '';
  #server: Server | undefined;

  async start(): Promise<this> {
    this.#server = createServer((request, response) => this.#answer(request, response));
    await new Promise<void>((done) => this.#server!.listen(0, '127.0.0.1', done));
    this.endpoint = `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
    return this;
  }

  stop(): void {
    this.#server?.closeAllConnections();
    this.#server?.close();
  }

  /** Downloads asked for: path and range. */
  get downloads(): string[] {
    return this.requests.filter((r) => r.startsWith('/cdn/'));
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url!, this.endpoint);
    const path = decodeURIComponent(url.pathname);
    // Pages of other origins may read everything, as on the hub.
    response.setHeader('Access-Control-Allow-Origin', '*');
    response.setHeader('Access-Control-Expose-Headers', '*');
    this.requests.push(path + (path.startsWith('/cdn/') ? ` ${request.headers.range ?? ''}` : ''));
    const info = /^\/api\/models\/([^/]+\/[^/]+)\/revision\/(.+)$/.exec(path);
    const resolve = `/${this.id}/resolve/${this.commit}/`;
    if (path.startsWith('/cdn/')) this.#send(path.slice(5), request, response);
    else if (this.token !== undefined && request.headers.authorization !== `Bearer ${this.token}`) {
      refuse(response, 401, this.errorCode);
    } else if (info) {
      if (info[1] !== this.id) refuse(response, 404, 'RepoNotFound');
      else if (!['main', 'refs/pr/1', this.commit].includes(info[2]!)) refuse(response, 404, 'RevisionNotFound');
      else json(response, { _id: '1', id: this.id, sha: this.commit, lastModified: '2026-01-01' });
    } else if (path === `/api/models/${this.id}/tree/${this.commit}`) this.#tree(url, response);
    else if (path.startsWith(resolve)) {
      // As the hub does for large files; the token must not be needed there.
      response.writeHead(302, { Location: `/cdn/${encodeURIComponent(path.slice(resolve.length))}` }).end();
    } else refuse(response, 404);
  }

  #tree(url: URL, response: ServerResponse): void {
    const from = Number(url.searchParams.get('cursor') ?? 0);
    const names = Object.keys(this.files);
    const page = names.slice(from, from + this.pageSize).map((path) => {
      const file = this.files[path]!;
      const etag = etagOf(file);
      const lfs = file.large ? { lfs: { oid: etag, size: file.data.length, pointerSize: 130 } } : {};
      return {
        type: 'file',
        path,
        size: file.data.length,
        oid: file.large ? '0'.repeat(40) : etag,
        ...lfs,
        ...this.lies[path],
      };
    });
    const next = new URL(url);
    next.searchParams.set('cursor', String(from + this.pageSize));
    if (from + this.pageSize < names.length) response.setHeader('Link', `<${next.href}>; rel="next"`);
    json(response, [...page, { type: 'directory', path: 'sub', size: 0, oid: '1'.repeat(40) }]);
  }

  #send(path: string, request: IncomingMessage, response: ServerResponse): void {
    const file = this.files[path];
    if (file === undefined) {
      refuse(response, 404, 'EntryNotFound');
      return;
    }
    this.onDownload?.(path);
    const match = this.ranges ? /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') : null;
    const start = Number(match?.[1] ?? 0);
    const end = Math.min(file.data.length, match ? Number(match[2]) + 1 : file.data.length);
    if (match) response.writeHead(206, { 'Content-Range': `bytes ${start}-${end - 1}/${file.data.length}` });
    else response.writeHead(200, { 'Content-Length': file.data.length });
    const cut = this.breaks.shift();
    if (cut === undefined) response.end(file.data.subarray(start, end));
    else
      response.write(file.data.subarray(start, Math.min(end, start + cut)), () =>
        setTimeout(() => response.destroy(), 20),
      );
  }
}

function refuse(response: ServerResponse, status: number, code?: string): void {
  response.writeHead(status, code === undefined ? {} : { 'X-Error-Code': code }).end();
}

function json(response: ServerResponse, value: unknown): void {
  response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(value));
}
