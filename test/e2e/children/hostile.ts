/** Loads models that cannot work, one after the other; prints what each ended with, how long it took and what it held. */
import { readFileSync } from 'node:fs';
import { loadModel, TramontaneError } from '../../../src/index.ts';

declare const gc: () => void;

export interface Outcome {
  readonly path: string;
  /** Name of the error class, `none` where the model loaded and answered, or `untyped`. */
  readonly kind: string;
  readonly message: string;
  readonly seconds: number;
  /** By how much the highest memory use of the process rose. */
  readonly bytes: number;
}

const [list = '', good = '', device = 'cpu'] = process.argv.slice(2);
const paths = JSON.parse(readFileSync(list, 'utf8')) as readonly string[];
const options = { device: device as 'cpu' | 'reference', threads: 1, offline: true } as const;

async function attempt(path: string): Promise<readonly [string, string]> {
  try {
    const model = await loadModel(path, options);
    try {
      await model.complete([1, 2, 3], { sampling: { topK: 1, maxLen: 2, ignoreEos: true } });
    } finally {
      await model.dispose();
    }
    return ['none', ''];
  } catch (error) {
    const { name, message } = error as Error;
    return [error instanceof TramontaneError ? name : 'untyped', message];
  }
}

const peak = () => process.resourceUsage().maxRSS * 1024;
// Once in good order, so that code is compiled and memory taken.
for (let i = 0; i < 3; i++) await attempt(good);
const outcomes: Outcome[] = [];
for (const path of paths) {
  gc();
  const before = peak();
  const started = process.cpuUsage();
  const [kind, message] = await attempt(path);
  const { user, system } = process.cpuUsage(started);
  outcomes.push({ path, kind, message, seconds: (user + system) / 1e6, bytes: peak() - before });
}
console.log(JSON.stringify(outcomes));
