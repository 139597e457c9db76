/** The folder in which the package is installed for these tests, and what they ask of it. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { EMBEDDED_MODEL } from '../../src/embedded.ts';
import type { GreedyCase } from '../e2e/embedded.ts';

export const root = fileURLToPath(new URL('../..', import.meta.url));
export const APP = fileURLToPath(new URL('../../.cache/runtimes/app', import.meta.url));
export const MODEL_FILE = fileURLToPath(new URL(`../../models/${EMBEDDED_MODEL.file}`, import.meta.url));
/** Where the servers of these tests have it. */
export const MODEL_PATH = `/models/${EMBEDDED_MODEL.file}`;
/** Folders of the servers. */
export const MOUNTS = { app: APP, models: fileURLToPath(new URL('../../models', import.meta.url)) };

export type BackendName = 'cpu' | 'webgpu';
export const BACKENDS: readonly BackendName[] = ['cpu', 'webgpu'];

/** Answers whose best token wins by far at every step. */
const cases = JSON.parse(readFileSync(new URL('../fixtures/e2e/greedy.json', import.meta.url), 'utf8')) as GreedyCase[];
const byText = (text: string) => cases.find((c) => c.text === text) as GreedyCase;
const chat = byText('Count from 1 to 20.');
const raw = byText('1, 2, 3, 4,');

const answers = {
  chat: { text: chat.text, out: chat.out },
  raw: { text: raw.text, ids: raw.prompt, out: raw.out },
};

/** What `smoke.mjs` is told; software adapters are slow, and welcome here. */
export function taskOf(device: BackendName, origin: string): object {
  return {
    device,
    ...(device === 'webgpu' ? { adapter: 'software' } : {}),
    file: MODEL_FILE,
    url: `${origin}${MODEL_PATH}`,
    ...answers,
    tokens: device === 'cpu' ? 20 : 6,
  };
}

/** The task of loading from servers whose connections break. */
export function badNetworkTask(breaksOnce: string, breaksAlways: string): object {
  return {
    scenario: 'badNetwork',
    breaksOnce: `${breaksOnce}${MODEL_PATH}`,
    breaksAlways: `${breaksAlways}${MODEL_PATH}`,
    ...answers,
    tokens: 20,
  };
}
