/**
 * What guessing tokens out of the text gains and costs: one model with and without `speculation.lookup`, on a prompt whose
 * answer repeats it and on one whose answer does not.
 *
 *     npm run bench:speculation -- [--model PATH] [--threads 1] [--tokens 160] [--reps 5] [--device cpu]
 *
 * Both take turns (A B B A) in one process; compared is processor time, which what else runs on the machine changes least.
 */
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import type * as Tramontane from '../src/index.ts';
import type { ChatRequest, LoadOptions, Model } from '../src/index.ts';

const root = dirname(fileURLToPath(import.meta.resolve('tramontane/package.json')));
const { values: flags } = parseArgs({
  options: {
    model: { type: 'string', default: join(root, 'models/smollm2-135m-instruct-q4_1.gguf') },
    threads: { type: 'string', default: '1' },
    tokens: { type: 'string', default: '160' },
    reps: { type: 'string', default: '5' },
    device: { type: 'string', default: 'cpu' },
  },
});

const TEXT = `The library of the harbour town was founded in 1834 by Captain Elias Thornbury, who left it four thousand books,
a brass telescope and a parrot named Octavius. During the flood of 1871 the keeper, Margaret Holloway, carried every
volume to the attic in nineteen hours. Today the building holds sixty thousand books, two reading rooms with green glass
lamps, and a garden where the descendants of Octavius still interrupt visitors on Thursday afternoons.`;

const CASES: readonly (readonly [name: string, prompt: string, temperature: number])[] = [
  ['repeats its prompt', `Copy the following text word for word.\n\n${TEXT}\n\nCopy it again, word for word.`, 0],
  ['free form', 'Write a long story about a lighthouse keeper, a storm and a lost letter.', 0.9],
];

const { loadModel } = (await import(pathToFileURL(join(root, 'dist/index.js')).href)) as typeof Tramontane;
const options: LoadOptions = { device: flags.device as 'cpu', threads: Number(flags.threads) };
const guessing: LoadOptions = { ...options, speculation: { lookup: true } };
// Two of each, since where weights happen to lie in memory makes a difference of some percent.
const models: Model[] = [];
for (const each of [options, guessing, guessing, options]) models.push(await loadModel(resolve(flags.model), each));
const drafted = [models[1], models[2]] as Model[];

/** Of both models that guess. */
const counted = (key: 'draftTokensProposed' | 'draftTokensAccepted' | 'generatedTokens') =>
  drafted.reduce((sum, model) => sum + model.engineStats()[key], 0);
const counts = () => ({
  proposed: counted('draftTokensProposed'),
  accepted: counted('draftTokensAccepted'),
  tokens: counted('generatedTokens'),
});

/** Milliseconds of processor time behind the prompt, and the answer. */
interface Run {
  readonly ms: number;
  readonly text: string;
}

async function run(model: Model, request: ChatRequest): Promise<Run> {
  let text = '';
  let start: NodeJS.CpuUsage | undefined;
  for await (const chunk of model.streamChatRequest(request)) {
    start ??= process.cpuUsage();
    text += chunk.choices[0]?.delta.content ?? '';
  }
  const { user, system } = process.cpuUsage(start);
  return { ms: (user + system) / 1000, text };
}

const median = (xs: readonly number[]) => xs.toSorted((a, b) => a - b)[xs.length >> 1] as number;

for (const [name, content, temperature] of CASES) {
  const request = (seed: number): ChatRequest => ({
    messages: [{ role: 'user', content }],
    sampling: { temperature, maxLen: Number(flags.tokens) },
    seed,
  });
  const ratios: number[] = [];
  const before = counts();
  for (let rep = -1; rep < Number(flags.reps); rep++) {
    const runs: Run[] = [];
    for (const model of models) runs.push(await run(model, request(rep + 2)));
    const [a, b, c, d] = runs as [Run, Run, Run, Run];
    if (runs.some(({ text }) => text !== a.text)) throw new Error(`${name}: expected the same answer from all`);
    if (rep >= 0) ratios.push((a.ms + d.ms) / (b.ms + c.ms));
  }
  const after = counts();
  const proposed = after.proposed - before.proposed;
  const accepted = after.accepted - before.accepted;
  const tokens = after.tokens - before.tokens;
  const [low, high] = [Math.min(...ratios), Math.max(...ratios)];
  console.log(
    `${name}: ${median(ratios).toFixed(2)}x (${low.toFixed(2)} to ${high.toFixed(2)}); ` +
      `${proposed} guesses for ${tokens} tokens, ${((100 * accepted) / Math.max(1, proposed)).toFixed(0)} % right`,
  );
}
for (const model of models) await model.dispose();
