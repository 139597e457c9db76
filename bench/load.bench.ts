/**
 * A process that loads a model, takes one token and reports what that took. Run by `bench/run.ts`, which says in
 * BENCH_T0_MS when it started the process:
 *
 *     node .cache/bench/load.bench.mjs '{"dist": "/path/dist", "model": "file.gguf", "options": {"threads": 1}}'
 */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type * as Tramontane from '../src/index.ts';
import type { SubjectInput } from './subject.ts';

export interface LoadReport {
  readonly importMs: number;
  readonly loadMs: number;
  /** From the start of the process to the first token. */
  readonly firstTokenMs: number;
  readonly cpuMs: number;
  /** The most memory the process ever held. */
  readonly peakMb: number;
  readonly token: number;
}

const PROMPT = Uint32Array.of(1, 2, 3, 4, 5);

const started = Number(process.env['BENCH_T0_MS'] ?? performance.timeOrigin) - performance.timeOrigin;
const { dist, model: path, options } = JSON.parse(process.argv[2] ?? '{}') as SubjectInput;

const beforeImport = performance.now();
const { loadModel } = (await import(pathToFileURL(join(dist, 'index.js')).href)) as typeof Tramontane;
const beforeLoad = performance.now();
const model = await loadModel(path, options);
const loaded = performance.now();
let token = -1;
for await (const { choices } of model.streamComplete(PROMPT, { sampling: { topK: 1, ignoreEos: true, maxLen: 1 } })) {
  token = choices[0]?.tokenIds[0] ?? token;
  if (token >= 0) break;
}
const end = performance.now();
const { user, system } = process.cpuUsage();
await model.dispose();
const report: LoadReport = {
  importMs: beforeLoad - beforeImport,
  loadMs: loaded - beforeLoad,
  firstTokenMs: end - started,
  cpuMs: (user + system) / 1000,
  // Kilobytes on every system.
  peakMb: process.resourceUsage().maxRSS / 1024,
  token,
};
console.log(JSON.stringify(report));
