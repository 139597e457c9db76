// What llama.cpp makes of a file: the likeliest tokens after each of the given ones, and a greedy continuation.
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

const names = ['model', 'ids', 'text', 'tokens'];
const { values } = parseArgs({ options: Object.fromEntries(names.map((n) => [n, { type: 'string' }])) });
const KEPT = 8;

const entry = path.resolve(process.env.PEERS_DIR, 'node_modules/node-llama-cpp/dist/index.js');
const { getLlama, LlamaLogLevel } = await import(pathToFileURL(entry).href);
const llama = await getLlama({
  ...{ gpu: false, build: 'never', skipDownload: true, progressLogs: false, maxThreads: 1 },
  logLevel: LlamaLogLevel.error,
});
const model = await llama.loadModel({ modelPath: values.model });
const context = await model.createContext({ contextSize: 256, batchSize: 256, threads: 1 });
const sequence = context.getSequence();
const ids = values.text === undefined ? JSON.parse(values.ids) : [...model.tokenize(values.text, true)];
const evaluated = await sequence.controlledEvaluate(ids.map((id) => [id, { generateNext: { probabilities: true } }]));
const likeliest = evaluated.map(({ next }) => [...next.probabilities].slice(0, KEPT));
await sequence.clearHistory();
const greedy = [];
for await (const id of sequence.evaluate(ids, { temperature: 0, yieldEogToken: true })) {
  greedy.push(id);
  if (greedy.length >= Number(values.tokens)) break;
}
process.stdout.write(`\n${JSON.stringify({ ids, likeliest, greedy, text: model.detokenize(greedy) })}\n`);
process.exit(0);
