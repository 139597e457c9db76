/** The embedded model and what llama.cpp answers with it. */
import { readFileSync } from 'node:fs';
import { type LoadOptions, loadModel, type Model } from '../../src/index.ts';

export interface GreedyCase {
  readonly kind: 'chat' | 'raw';
  readonly text: string;
  readonly prompt: readonly number[];
  readonly ids: readonly number[];
  readonly out: string;
  /** Smallest distance of the two best logits along the answer, in exact arithmetic. */
  readonly margin: number;
}

export const greedyCases = JSON.parse(
  readFileSync(new URL('../fixtures/e2e/greedy.json', import.meta.url), 'utf8'),
) as readonly GreedyCase[];

/** The embedded model on one thread, unless said otherwise. */
export function loadEmbedded(options: LoadOptions = {}): Promise<Model> {
  return loadModel('embedded', { device: 'cpu', threads: 1, ...options });
}

/** Logits of every position of a prompt. */
export async function allLogits(model: Model, ids: ArrayLike<number>): Promise<Float32Array> {
  const { logitsChunks } = await model.sendRawTokens(ids);
  const chunks = await Promise.all(logitsChunks.map((chunk) => chunk.toFloat32Array()));
  const all = new Float32Array(chunks.reduce((n, chunk) => n + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    all.set(chunk, at);
    at += chunk.length;
  }
  return all;
}

/** Length of the difference over the length of `b`. */
export function relativeError(a: Float32Array, b: Float32Array): number {
  if (a.length !== b.length) throw new Error(`expected ${b.length} values, got ${a.length}`);
  let difference = 0;
  let size = 0;
  for (let i = 0; i < a.length; i++) {
    difference += (a[i]! - b[i]!) ** 2;
    size += b[i]! ** 2;
  }
  return Math.sqrt(difference / size);
}
