/** Encoding of mixed text: prose, other scripts, code, numbers. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Model } from '../src/index.ts';
import { between, now, type Sample } from './sample.ts';

export type EncodeInput = Readonly<Record<string, never>>;

export async function encode(model: Model, _: EncodeInput): Promise<Sample> {
  const text = readFileSync(fileURLToPath(import.meta.resolve('tramontane/package.json')), 'utf8');
  const start = now();
  const ids = await model.tokenize(text);
  return {
    units: text.length,
    ...between(start, now()),
    checksum: ids.reduce((a, b) => (Math.imul(a, 31) + b) >>> 0, 0),
  };
}
