/** A model of a few hundred kilobytes with a tokenizer and a chat template. */
import { readFileSync } from 'node:fs';
import { type LoadOptions, loadModel, type Model } from '../../src/index.ts';
import { fixtures } from '../models/harness.ts';

/** Holds `model.gguf`. */
export const TINY_FOLDER = new URL('gguf_llama_q8_0/', fixtures);
export const tinyBytes: Uint8Array = new Uint8Array(readFileSync(new URL('model.gguf', TINY_FOLDER)));
export const TINY_VOCAB = 264;
/** Blocks of the CPU back-end have this many positions. */
export const BLOCK_SIZE = 32;

/** On the CPU back-end, one thread, unless said otherwise. */
export function loadTiny(options: LoadOptions = {}, bytes: Uint8Array = tinyBytes): Promise<Model> {
  return loadModel(bytes, { device: 'cpu', threads: 1, ...options });
}

/** Random ids, none of them special. */
export function letters(n: number, seed: number): number[] {
  return Array.from({ length: n }, (_, i) => 33 + ((Math.imul(i + 1, seed * 2654435761) >>> 25) % 90));
}

/** One turn of the event loop. */
export const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
