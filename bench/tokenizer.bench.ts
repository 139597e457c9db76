/** Encoding of text that was not seen before: prose, source code, numbers, several scripts. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Model } from '../src/index.ts';
import { between, now, type Sample } from './sample.ts';

export interface EncodeInput {
  /** Another part of the text each time: words of earlier ones may be remembered, as in a server. */
  readonly repetition: number;
}

const PARTS = 4;

const SCRIPTS = `The wind of 1709 froze the Rhône; 38.5 °C, €1,249.99, 2024-05-17T08:30:00Z, https://example.org/?q=a&b=%20.
Ветер дует с севера на юг, и небо становится ясным. Η θάλασσα είναι ήρεμη σήμερα το πρωί.
北风从山谷吹向大海,天空变得晴朗。風は谷から海へ吹き、空は晴れる。바람이 골짜기에서 바다로 분다.
الريح تهب من الشمال إلى الجنوب. उत्तर से दक्षिण की ओर हवा चलती है। Gió thổi từ bắc xuống nam. 🌬️👩‍🚀🏳️‍🌈
`;

export async function encode(model: Model, { repetition }: EncodeInput): Promise<Sample> {
  const text = textOf((repetition + 1) % PARTS);
  const start = now();
  const ids = await model.tokenize(text);
  const spent = between(start, now());
  const bytes = new TextEncoder().encode(text).length;
  return { units: bytes, ...spent, checksum: ids.reduce((sum, id) => (Math.imul(sum, 31) + id) >>> 0, 0) };
}

/** One of the parts: the repository's own sources and prose. */
function textOf(part: number): string {
  const root = dirname(fileURLToPath(import.meta.resolve('tramontane/package.json')));
  const prose = ['README.md', 'CONTRIBUTING.md', 'models/LICENSE.smollm2.txt', 'bench/peers/prompts.json'];
  const mine = [...prose.map((name) => join(root, name)), ...files(join(root, 'src'))].filter(
    (_, i) => i % PARTS === part,
  );
  return [SCRIPTS.repeat(4), ...mine.map((file) => readFileSync(file, 'utf8'))].join('\n');
}

function files(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? files(path) : [path];
  });
}
