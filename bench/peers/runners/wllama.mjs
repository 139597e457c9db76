// llama.cpp compiled to WebAssembly (wllama), in headless Chromium with cross-origin isolation, so that it has threads.
// The browser is /usr/bin/chromium, or CHROMIUM.
import fs from 'node:fs';
import http from 'node:http';
import { createRequire } from 'node:module';
import path from 'node:path';
import {
  batch,
  batchDecode,
  context,
  decode,
  emit,
  median,
  model,
  prompts,
  reps,
  spawned,
  threads,
} from './common.mjs';

const { chromium } = createRequire(path.join(process.env.PEERS_DIR, 'x.js'))('playwright-core');
const dist = path.join(process.env.PEERS_DIR, 'node_modules/@wllama/wllama');
const TYPES = { '.js': 'text/javascript', '.wasm': 'application/wasm' };
const server = http.createServer((request, response) => {
  const url = decodeURIComponent(request.url.split('?')[0]);
  const headers = {
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Embedder-Policy': 'require-corp',
    'Cross-Origin-Resource-Policy': 'same-origin',
  };
  if (url === '/') {
    response.writeHead(200, { ...headers, 'content-type': 'text/html' });
    return response.end('<!doctype html><title>wllama</title>');
  }
  const file = url === '/model.gguf' ? model : path.join(dist, path.normalize(url.replace(/^\/w\//, '')));
  if (!fs.existsSync(file)) return response.writeHead(404).end();
  response.writeHead(200, {
    ...headers,
    'content-type': TYPES[path.extname(file)] ?? 'application/octet-stream',
    'content-length': fs.statSync(file).size,
  });
  return fs.createReadStream(file).pipe(response);
});
await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
  headless: true,
  args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-background-networking', '--disable-component-update'],
});
const page = await browser.newPage();
page.setDefaultTimeout(0);
await page.goto(`http://127.0.0.1:${server.address().port}/`);
const options = { threads, reps, decode, batch, batchDecode, context };
const result = await page.evaluate(
  async ({ options: o, prompts }) => {
    const now = () => performance.timeOrigin + performance.now();
    const { Wllama, LoggerWithoutDebug } = await import('/w/esm/index.js');
    const load = async (extra) => {
      const w = new Wllama(
        { default: '/w/esm/wasm/wllama.wasm' },
        { logger: LoggerWithoutDebug, suppressNativeLog: true },
      );
      const blob = await (await fetch('/model.gguf')).blob();
      await w.loadModel([blob], {
        n_ctx: o.context,
        n_batch: 512,
        n_ubatch: 512,
        n_threads: o.threads,
        n_gpu_layers: 0,
        ...extra,
      });
      return w;
    };
    const generate = async (w, prompt, count) => {
      const r = { start: now(), first: 0, end: 0, pieces: 0, timings: undefined };
      await w.createCompletion({
        prompt,
        max_tokens: count,
        temperature: 0,
        top_k: 1,
        ignore_eos: true,
        cache_prompt: false,
        stream: true,
        onData(chunk) {
          r.timings = chunk.timings ?? r.timings;
          const choice = chunk.choices[0];
          if (!choice?.text && choice?.finish_reason) return;
          r.first ||= now();
          r.end = now();
          r.pieces++;
        },
      });
      return r;
    };
    const w = await load({ n_parallel: 1 });
    const out = { decode: [], prefill: [], batch: {}, first: 0 };
    for (let k = 0; k < o.reps; k++) {
      const r = await generate(w, prompts.short, o.decode);
      out.first ||= r.first;
      out.decode.push(((r.timings?.predicted_n ?? r.pieces) - 1) / ((r.end - r.first) / 1000));
    }
    for (let k = 0; k < o.reps; k++) {
      const r = await generate(w, prompts.long[k % prompts.long.length], 1);
      out.prefill.push(r.timings.prompt_n / ((r.first - r.start) / 1000));
    }
    await w.exit();
    for (const n of o.batch) {
      const shared = await load({ n_parallel: n, n_ctx: 256 * n });
      const all = await Promise.all(prompts.batch.slice(0, n).map((p) => generate(shared, p, o.batchDecode)));
      const seconds = (Math.max(...all.map((r) => r.end)) - Math.min(...all.map((r) => r.first))) / 1000;
      out.batch[n] = all.reduce((sum, r) => sum + (r.timings?.predicted_n ?? r.pieces), 0) / seconds;
      await shared.exit();
    }
    return out;
  },
  { options, prompts },
);
await browser.close();
server.close();
emit({
  decode_tps: median(result.decode),
  prefill_tps: median(result.prefill),
  ttft_s: (result.first - spawned) / 1000,
  batch: result.batch,
});
process.exit(0);
