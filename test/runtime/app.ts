/** The folder in which the package is installed for these tests, and what they ask of it. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { EMBEDDED_MODEL } from '../../src/embedded.ts';
import type { GreedyCase } from '../e2e/embedded.ts';
import { loadTiny, TINY_FOLDER } from '../e2e/tiny.ts';

export const root = fileURLToPath(new URL('../..', import.meta.url));
export const APP = fileURLToPath(new URL('../../.cache/runtimes/app', import.meta.url));
export const MODEL_FILE = fileURLToPath(new URL(`../../models/${EMBEDDED_MODEL.file}`, import.meta.url));
/** Where the servers of these tests have it. */
export const MODEL_PATH = `/models/${EMBEDDED_MODEL.file}`;
/** Folders of the servers. */
export const MOUNTS = {
  app: APP,
  models: fileURLToPath(new URL('../../models', import.meta.url)),
  tiny: fileURLToPath(TINY_FOLDER),
};

/** The embedded model, or a random one of a few hundred kilobytes: software adapters are slow. */
export type ModelName = 'embedded' | 'tiny';
export type BackendName = 'cpu' | 'webgpu';
export const BACKENDS: readonly BackendName[] = ['cpu', 'webgpu'];

/** What `smoke.mjs` asks and expects; the best token wins by far at every step. */
interface Answers {
  readonly chat: { readonly text: string; readonly out: string };
  readonly raw: { readonly text: string; readonly ids: readonly number[]; readonly out: string };
  readonly tokens: number;
}

function embeddedAnswers(tokens: number): Answers {
  const file = new URL('../fixtures/e2e/greedy.json', import.meta.url);
  const cases = JSON.parse(readFileSync(file, 'utf8')) as readonly GreedyCase[];
  const byText = (text: string) => cases.find((c) => c.text === text) as GreedyCase;
  const chat = byText('Count from 1 to 20.');
  const raw = byText('1, 2, 3, 4,');
  return {
    chat: { text: chat.text, out: chat.out },
    raw: { text: raw.text, ids: raw.prompt, out: raw.out },
    tokens,
  };
}

async function tinyAnswers(): Promise<Answers> {
  // Of twenty texts the one with the widest margins.
  const text = 'Good morning';
  const sampling = { topK: 1, maxLen: 8, ignoreEos: true };
  const model = await loadTiny({ device: 'reference' });
  const chat = await model.sendChatRequest({ messages: [{ role: 'user', content: text }], sampling });
  const raw = await model.complete(text, { sampling });
  const ids = [...(await model.tokenize(text))];
  await model.dispose();
  return {
    chat: { text, out: chat.choices[0]?.message.content ?? '' },
    raw: { text, ids, out: raw.choices[0]?.text ?? '' },
    tokens: sampling.maxLen,
  };
}

/** What `smoke.mjs` is told about a device, with the model as a file and at a server of these tests. */
export async function taskOf(device: BackendName, origin: string, model: ModelName = 'embedded'): Promise<object> {
  const answers = model === 'tiny' ? await tinyAnswers() : embeddedAnswers(device === 'cpu' ? 20 : 6);
  return {
    device,
    ...(device === 'webgpu' ? { adapter: 'software' } : {}),
    file: model === 'tiny' ? fileURLToPath(new URL('model.gguf', TINY_FOLDER)) : MODEL_FILE,
    url: `${origin}${model === 'tiny' ? '/tiny/model.gguf' : MODEL_PATH}`,
    ...answers,
  };
}

/** The task of loading from servers whose connections break. */
export function badNetworkTask(breaksOnce: string, breaksAlways: string): object {
  return {
    scenario: 'badNetwork',
    breaksOnce: `${breaksOnce}${MODEL_PATH}`,
    breaksAlways: `${breaksAlways}${MODEL_PATH}`,
    ...embeddedAnswers(20),
  };
}

/** The task of going on from a few tokens with the small model: as little as shows that a device computes. */
export async function continuationTask(device: BackendName, origin: string): Promise<object> {
  const model = await loadTiny({ device: 'reference' });
  const ids = [...(await model.tokenize('zzz'))];
  const sampling = { topK: 1, maxLen: 8, ignoreEos: true };
  const expected = [...((await model.complete(ids, { sampling })).choices[0]?.tokenIds ?? [])];
  await model.dispose();
  const adapter = device === 'webgpu' ? { adapter: 'software' } : {};
  return { scenario: 'continuation', device, ...adapter, url: `${origin}/tiny/model.gguf`, ids, expected };
}
