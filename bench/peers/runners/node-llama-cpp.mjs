// llama.cpp native, through the prebuilt CPU binary of node-llama-cpp (it picks the variant for this CPU).
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import {
  batch,
  batchDecode,
  context,
  decode,
  emit,
  median,
  model,
  now,
  prompts,
  reps,
  spawned,
  threads,
} from './common.mjs';

const entry = path.resolve(process.env.PEERS_DIR, 'node_modules/node-llama-cpp/dist/index.js');
const { getLlama, LlamaLogLevel } = await import(pathToFileURL(entry).href);
const llama = await getLlama({
  gpu: false,
  build: 'never',
  skipDownload: true,
  progressLogs: false,
  logLevel: LlamaLogLevel.error,
  maxThreads: threads,
});
const loaded = await llama.loadModel({ modelPath: model });
const tokenize = (text) => {
  const ids = loaded.tokenize(text, false);
  return loaded.tokens.shouldPrependBosToken ? [loaded.tokens.bos, ...ids] : ids;
};
const open = (contextSize, sequences) =>
  loaded.createContext({ contextSize, sequences, batchSize: 512, threads: { ideal: threads, min: threads } });

async function generate(sequence, tokens, count) {
  const start = now();
  const ids = [];
  let first = 0;
  for await (const id of sequence.evaluate(tokens, { temperature: 0, yieldEogToken: true })) {
    first ||= now();
    ids.push(id);
    if (ids.length >= count) break;
  }
  return { ids, start, first, end: now() };
}

const single = await open(context, 1);
const sequence = single.getSequence();
const rates = { decode: [], prefill: [] };
let ttft;
let text;
for (let k = 0; k < reps; k++) {
  if (k) await sequence.clearHistory();
  const r = await generate(sequence, tokenize(prompts.short), decode);
  ttft ??= (r.first - spawned) / 1000;
  text ??= loaded.detokenize(r.ids);
  rates.decode.push((r.ids.length - 1) / ((r.end - r.first) / 1000));
}
for (let k = 0; k < reps; k++) {
  await sequence.clearHistory();
  const tokens = tokenize(prompts.long[k % prompts.long.length]);
  const r = await generate(sequence, tokens, 1);
  rates.prefill.push(tokens.length / ((r.first - r.start) / 1000));
}
await single.dispose();

const together = {};
for (const n of batch) {
  const shared = await open(256, n);
  const sequences = Array.from({ length: n }, () => shared.getSequence());
  const starts = prompts.batch.slice(0, n).map(tokenize);
  await Promise.all(sequences.map((s, i) => s.evaluateWithoutGeneratingNewTokens(starts[i].slice(0, -1))));
  const t = now();
  const done = await Promise.all(sequences.map((s, i) => generate(s, starts[i].slice(-1), batchDecode)));
  together[n] = done.reduce((sum, r) => sum + r.ids.length, 0) / ((now() - t) / 1000);
  await shared.dispose();
}
emit({ decode_tps: median(rates.decode), prefill_tps: median(rates.prefill), ttft_s: ttft, batch: together, text });
process.exit(0);
