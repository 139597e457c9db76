import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { AbortError, FormatError, ModelLoadError, UnsupportedError } from '../../src/core/errors.ts';
import { ConnectionError, shown } from '../../src/core/io/http.ts';
import { openHttp } from '../../src/core/io/httpSource.ts';
import { readSafetensors } from '../../src/core/io/safetensors.ts';
import { writeSafetensors } from '../../src/core/io/safetensorsWrite.ts';

const CONTENT = Uint8Array.from({ length: 3_000_000 }, (_, i) => (i * 31) % 253);
type Handler = (
  request: IncomingMessage,
  response: ServerResponse,
  range: readonly [number, number] | undefined,
) => void;
let handler: Handler;
let requests: string[] = [];
let server: Server;
let url = '';

beforeAll(async () => {
  server = createServer((request, response) => {
    const match = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
    requests.push(request.headers.range ?? 'whole');
    handler(request, response, match ? [Number(match[1]), Number(match[2]) + 1] : undefined);
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/file?token=secret`;
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
});
beforeEach(() => {
  requests = [];
  handler = ranged();
});

/** A server with range support. `send` may break the answer. */
function ranged(
  content: Uint8Array = CONTENT,
  send = (r: ServerResponse, body: Uint8Array) => void r.end(body),
  etag = '"1"',
): Handler {
  return (_, response, range) => {
    const [start, end] = range ?? [0, content.length];
    const stop = Math.min(end, content.length);
    response.writeHead(206, { 'Content-Range': `bytes ${start}-${stop - 1}/${content.length}`, ETag: etag });
    send(response, content.subarray(start, stop));
  };
}
const whole =
  (content: Uint8Array, headers = {}): Handler =>
  (_, response) => {
    response.writeHead(200, headers);
    response.end(content);
  };
/** Compared as a whole: element by element takes seconds for megabytes. */
const expectSame = (got: Uint8Array, expected: Uint8Array): void => expect(Buffer.compare(got, expected)).toBe(0);
const quick = { retryDelayMs: 1, attempts: 3, stallMs: 2000 };

describe('an HTTP source', () => {
  it('reads ranges, the beginning from its first request', async () => {
    const source = await openHttp(url, quick);
    expect(source.size).toBe(CONTENT.length);
    expect(source.name).not.toContain('secret');
    expect(await source.slice(5, 2000)).toEqual(CONTENT.slice(5, 2000));
    expect(requests).toEqual(['bytes=0-1048575']);
    expect(await source.slice(1_048_000, 1_049_000)).toEqual(CONTENT.slice(1_048_000, 1_049_000));
    const shared = new Uint8Array(new SharedArrayBuffer(1000));
    await source.readInto(2_999_000, shared);
    expect(Array.from(shared)).toEqual(Array.from(CONTENT.slice(2_999_000)));
    expect(requests.slice(1)).toEqual(['bytes=1048576-1048999', 'bytes=2999000-2999999']);
    await expect(source.slice(0, CONTENT.length + 1)).rejects.toThrow(FormatError);
  });

  it('sends the headers it was given', async () => {
    let seen: string | undefined;
    handler = (request, response, range) => {
      seen = request.headers.authorization;
      ranged()(request, response, range);
    };
    await openHttp(url, { ...quick, headers: { Authorization: 'Bearer x' } });
    expect(seen).toBe('Bearer x');
  });

  it('resumes where a connection broke', async () => {
    const source = await openHttp(url, quick);
    let breaks = 2;
    handler = (request, response, range) => {
      if (breaks-- <= 0) ranged()(request, response, range);
      else
        ranged(CONTENT, (r, body) => void r.write(body.subarray(0, 400_000), () => r.destroy()))(
          request,
          response,
          range,
        );
    };
    expectSame(await source.slice(1_500_000, 2_900_000), CONTENT.slice(1_500_000, 2_900_000));
    expect(requests.length).toBe(4);
  });

  it('asks again for the rest of a short answer', async () => {
    const source = await openHttp(url, quick);
    let short = true;
    handler = (request, response, range) => {
      const [start, end] = range!;
      const stop = short ? start + 1000 : end;
      short = false;
      ranged(CONTENT)(request, response, [start, stop]);
    };
    expect(await source.slice(2_000_000, 2_010_000)).toEqual(CONTENT.slice(2_000_000, 2_010_000));
    expect(requests.slice(1)).toEqual(['bytes=2000000-2009999', 'bytes=2001000-2009999']);
  });

  it('gives up after some tries, with the reason', async () => {
    const source = await openHttp(url, quick);
    handler = (_, response) => void response.destroy();
    const error = await source.slice(2_000_000, 2_000_010).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ConnectionError);
    expect(String(error)).toMatch(/\(3 tries\)/);
    expect(requests.length).toBe(4);
    handler = ranged(CONTENT, (response) => void response.end());
    await expect(source.slice(2_000_000, 2_000_010)).rejects.toThrow(
      /expected 10 bytes, the connection ended after 0 \(3 tries\)/,
    );
    expect(requests.length).toBe(7);
    await expect(openHttp('http://127.0.0.1:1/x', quick)).rejects.toThrow(/ECONNREFUSED|bad port/);
  });

  it('retries a busy server, not one that refuses', async () => {
    let busy = 2;
    const fine = ranged();
    handler = (request, response, range) => {
      if (busy-- > 0) response.writeHead(503).end();
      else fine(request, response, range);
    };
    expect((await openHttp(url, quick)).size).toBe(CONTENT.length);
    expect(requests.length).toBe(3);
    requests = [];
    handler = (_, response) => void response.writeHead(404).end();
    await expect(openHttp(url, quick)).rejects.toThrow(/expected status 200 or 206, got 404/);
    expect(requests.length).toBe(1);
  });

  it('breaks off a connection that stalls', async () => {
    handler = (_, response) => void response.writeHead(206, { 'Content-Range': 'bytes 0-9/10' }).write('abc');
    await expect(openHttp(url, { ...quick, attempts: 1, stallMs: 50 })).rejects.toThrow(/no data for 50 ms/);
  });

  it('notices that the content changed', async () => {
    const source = await openHttp(url, quick);
    handler = ranged(CONTENT, undefined, '"2"');
    await expect(source.slice(2_000_000, 2_000_010)).rejects.toThrow(
      /changed while it was read \(etag "1", then "2"\)/,
    );
  });

  it('can be cancelled', async () => {
    const stop = new AbortController();
    const source = await openHttp(url, { ...quick, signal: stop.signal });
    handler = () => undefined;
    const read = source.slice(2_000_000, 2_000_010);
    setTimeout(() => stop.abort(), 20);
    await expect(read).rejects.toThrow(AbortError);
    await expect(source.slice(2_000_000, 2_000_010)).rejects.toThrow(AbortError);
    await expect(openHttp(url, { ...quick, signal: stop.signal })).rejects.toThrow(AbortError);
  });

  it('takes a small resource whole when the server knows no ranges', async () => {
    handler = whole(CONTENT, { 'Content-Length': CONTENT.length });
    const source = await openHttp(url, quick);
    expectSame(await source.slice(1_000_000, 1_100_000), CONTENT.slice(1_000_000, 1_100_000));
    expect(requests.length).toBe(1);
    handler = whole(CONTENT);
    expect((await openHttp(url, quick)).size).toBe(CONTENT.length);
  });

  it('refuses a large resource without ranges before it is read', async () => {
    for (const headers of [{ 'Content-Length': CONTENT.length }, {}]) {
      handler = whole(CONTENT, headers);
      const error = await openHttp(url, { ...quick, maxWholeBytes: 100_000 }).catch((e: unknown) => e);
      expect(error).toBeInstanceOf(UnsupportedError);
      expect(String(error)).toMatch(/no range support .* more than the 100000 bytes/);
    }
  });

  it('takes a body that ends early for a failure, never for the file', async () => {
    handler = (_, response) => {
      response.writeHead(200, { 'Content-Length': 1000 });
      response.write('short', () => response.destroy());
    };
    await expect(openHttp(url, quick)).rejects.toThrow(ConnectionError);
  });

  it.each([
    ['no range', {}],
    ['words', { 'Content-Range': 'pages 1-2/3' }],
    ['a range of nothing', { 'Content-Range': 'bytes 9-3/10' }],
    ['an end beyond the total', { 'Content-Range': 'bytes 0-20/10' }],
    ['2^60 bytes', { 'Content-Range': `bytes 0-${2n ** 60n}/${2n ** 61n}` }],
  ])('refuses an answer with %s', async (_, headers) => {
    handler = (__, response) => void response.writeHead(206, headers).end('0123456789');
    await expect(openHttp(url, quick)).rejects.toThrow(/expected a Content-Range header/);
  });

  it('refuses an unknown size, a later range and more bytes than asked for', async () => {
    handler = (_, response) => void response.writeHead(206, { 'Content-Range': 'bytes 0-9/*' }).end('0123456789');
    await expect(openHttp(url, quick)).rejects.toThrow(UnsupportedError);
    handler = ranged();
    const source = await openHttp(url, quick);
    handler = (request, response) => ranged()(request, response, [2_500_000, 2_600_000]);
    await expect(source.slice(2_000_000, 2_000_010)).rejects.toThrow(/got a later range/);
    handler = (request, response) => ranged()(request, response, [2_000_000, 2_600_000]);
    await expect(source.slice(2_000_000, 2_000_010)).rejects.toThrow(/the server sends more/);
  });

  it('is empty for an empty file', async () => {
    handler = (_, response) => void response.writeHead(416, { 'Content-Range': 'bytes */0' }).end();
    expect((await openHttp(url, quick)).size).toBe(0);
  });

  it('serves the readers', async () => {
    handler = ranged(writeSafetensors({ x: { type: 'U8', shape: [3], data: new Uint8Array([1, 2, 3]) } }));
    const { tensors } = await readSafetensors(url);
    expect(tensors.get('x')!.shape).toEqual([3]);
    handler = whole(new TextEncoder().encode('<html>sign in</html>'));
    await expect(readSafetensors(url)).rejects.toThrow(ModelLoadError);
  });
});

describe('URLs in messages', () => {
  it('carry no query and no credentials', () => {
    expect(shown('https://user:pass@host/a/b?x=1#y')).toBe('https://host/a/b');
    expect(shown('no url')).toBe('no url');
  });
});
