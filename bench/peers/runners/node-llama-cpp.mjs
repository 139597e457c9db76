// llama.cpp native, through the prebuilt CPU binary of node-llama-cpp (it picks the variant for this CPU).
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import {
  batch,
  batchDecode,
  context,
  contexts,
  cpu,
  decode,
  emit,
  median,
  model,
  now,
  prefillTokens,
  prompts,
  reps,
  serving,
  servingPrompts,
  servingRequests,
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
  loaded.createContext({ contextSize, sequences, batchSize: prefillTokens, threads: { ideal: threads, min: threads } });

async function generate(sequence, tokens, count) {
  const start = now();
  const startCpu = cpu();
  const ids = [];
  let first = 0;
  let firstCpu = 0;
  for await (const id of sequence.evaluate(tokens, { temperature: 0, yieldEogToken: true })) {
    first ||= now();
    firstCpu ||= cpu();
    ids.push(id);
    if (ids.length >= count) break;
  }
  const per = (n, ms) => (n * 1000) / ms;
  const [rest, prompt] = [ids.length - 1, tokens.length];
  return {
    ...{ ids, first },
    ...{ decode: per(rest, now() - first), decodeCpu: per(rest, cpu() - firstCpu) },
    ...{ prefill: per(prompt, first - start), prefillCpu: per(prompt, firstCpu - startCpu) },
  };
}

if (serving.length > 0) {
  emit(await serve());
  process.exit(0);
}

/** Levels of requests at a time, each on as many sequences of one context. */
async function serve() {
  const text = prompts.long.flatMap(tokenize);
  let start = 0;
  const next = (length) => {
    const from = 37 * start++;
    return Array.from({ length }, (_, i) => text[(from + i) % text.length]);
  };
  const rates = { serving: {}, serving_cpu: {} };
  for (const level of serving) {
    const shared = await open(Math.max(...servingPrompts) + decode, level);
    const sequences = Array.from({ length: level }, () => shared.getSequence());
    // A first request alone, as warm-up.
    await generate(sequences[0], next(servingPrompts[0]), decode);
    await sequences[0].clearHistory();
    const requests = Array.from({ length: Math.max(servingRequests, level) }, (_, i) =>
      next(servingPrompts[i % servingPrompts.length]),
    );
    const tokens = requests.reduce((n, r) => n + r.length + decode, 0);
    const waiting = requests.values();
    const [began, beganCpu] = [now(), cpu()];
    await Promise.all(
      sequences.map(async (s) => {
        for (const request of waiting) {
          await generate(s, request, decode);
          await s.clearHistory();
        }
      }),
    );
    rates.serving[level] = (1000 * tokens) / (now() - began);
    rates.serving_cpu[level] = (1000 * tokens) / (cpu() - beganCpu);
    await shared.dispose();
  }
  return rates;
}

const single = await open(context, 1);
const sequence = single.getSequence();
const rates = { decode: [], decodeCpu: [], prefill: [], prefillCpu: [] };
let ttft;
let answer;
for (let k = 0; k < reps; k++) {
  if (k) await sequence.clearHistory();
  const r = await generate(sequence, tokenize(prompts.short), decode);
  ttft ??= (r.first - spawned) / 1000;
  answer ??= loaded.detokenize(r.ids);
  rates.decode.push(r.decode);
  rates.decodeCpu.push(r.decodeCpu);
}
for (let k = 0; k < reps; k++) {
  await sequence.clearHistory();
  const tokens = tokenize(prompts.long[k % prompts.long.length]).slice(0, prefillTokens);
  const r = await generate(sequence, tokens, 1);
  rates.prefill.push(r.prefill);
  rates.prefillCpu.push(r.prefillCpu);
}
const behind = { context: {}, context_cpu: {} };
const text = prompts.long.flatMap(tokenize);
for (const n of contexts) {
  await sequence.clearHistory();
  const r = await generate(
    sequence,
    Array.from({ length: n }, (_, i) => text[i % text.length]),
    decode,
  );
  behind.context[n] = r.decode;
  behind.context_cpu[n] = r.decodeCpu;
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
emit({
  ...{ decode_tps: median(rates.decode), decode_cpu_tps: median(rates.decodeCpu) },
  ...{ prefill_tps: median(rates.prefill), prefill_cpu_tps: median(rates.prefillCpu) },
  ...{ ttft_s: ttft, ...behind, batch: together, text: answer },
});
process.exit(0);
