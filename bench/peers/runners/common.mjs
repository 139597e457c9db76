// Shared by the JavaScript runners: arguments, the clock that starts with the process, and the result line.
import fs from 'node:fs';
import { parseArgs } from 'node:util';

const names = [
  'model',
  'prompts',
  'threads',
  'reps',
  'decode',
  'batch',
  'batch-decode',
  'contexts',
  'serving',
  'serving-prompts',
];
const { values } = parseArgs({ options: Object.fromEntries(names.map((n) => [n, { type: 'string' }])) });

export const model = values.model;
export const prompts = JSON.parse(fs.readFileSync(values.prompts, 'utf8'));
export const threads = Number(values.threads);
export const reps = Number(values.reps);
export const decode = Number(values.decode);
export const batchDecode = Number(values['batch-decode']);
export const batch = values.batch.split(',').filter(Boolean).map(Number);
export const contexts = values.contexts.split(',').filter(Boolean).map(Number);
/** How many requests run at a time, and the lengths of their prompts, in turn. */
export const serving = (values.serving ?? '').split(',').filter(Boolean).map(Number);
export const servingPrompts = (values['serving-prompts'] ?? '').split(',').filter(Boolean).map(Number);
/** Requests of one level; more where more run at a time. */
export const servingRequests = 8;
/** Of a long prompt: what goes through every engine as one batch. */
export const prefillTokens = 512;
export const context = Math.max(1024, ...contexts.map((n) => n + decode));
export const spawned = Number(process.env.BENCH_T0_MS || performance.timeOrigin);
export const now = () => performance.timeOrigin + performance.now();

/** Milliseconds of CPU time of this process. */
export function cpu() {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

export function median(list) {
  const sorted = [...list].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? null;
}

export function emit(result) {
  process.stdout.write(`\n${JSON.stringify(result)}\n`);
}
