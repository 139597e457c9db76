import { createReadStream, statSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { defineConfig, type Plugin } from 'vite';

const repository = fileURLToPath(new URL('../..', import.meta.url));

/** Shared memory, and with it threads, exists only in pages that are isolated from other origins. */
const headers = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
};

/** Serves `models/` of the repository at `/models/`, by ranges, without copying it into the build. */
function modelFiles(): Plugin {
  const serve = (request: IncomingMessage, response: ServerResponse, next: () => void): void => {
    const name = basename(decodeURIComponent((request.url ?? '').replace(/[?#].*$/, '')));
    const path = join(repository, 'models', name);
    const size = name.endsWith('.gguf') ? statSync(path, { throwIfNoEntry: false })?.size : undefined;
    if (size === undefined) {
      next();
      return;
    }
    const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? [];
    const start = Number(from ?? 0);
    const end = Math.min(size, to ? Number(to) + 1 : size);
    response.setHeader('Accept-Ranges', 'bytes');
    response.setHeader('Content-Type', 'application/octet-stream');
    if (start >= end) {
      response.writeHead(416, { 'Content-Range': `bytes */${size}` }).end();
      return;
    }
    response.setHeader('Content-Length', end - start);
    if (from !== undefined) response.setHeader('Content-Range', `bytes ${start}-${end - 1}/${size}`);
    response.writeHead(from === undefined ? 200 : 206);
    const file = createReadStream(path, { start, end: end - 1 });
    response.on('close', () => file.destroy());
    file.pipe(response);
  };
  return {
    name: 'model-files',
    configureServer: ({ middlewares }) => void middlewares.use('/models/', serve),
    configurePreviewServer: ({ middlewares }) => void middlewares.use('/models/', serve),
  };
}

export default defineConfig({
  // Relative addresses: the build may lie in any folder of a site.
  base: './',
  plugins: [modelFiles()],
  server: { headers, fs: { allow: [repository] } },
  preview: { headers },
  worker: { format: 'es' },
  build: { target: 'es2022' },
});
