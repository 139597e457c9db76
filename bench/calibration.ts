/**
 * What calibration on live traffic gains: divergence from the model at full precision, before and after
 * `applyCalibration`, on text that it was not calibrated on.
 *
 *     npm run bench:calibration -- [--model PATH] [--types Q2K,Q3K] [--text FILE] [--tokens 1024] [--threads 1]
 *
 * Two models: the given one, calibrated on answers to a few questions, and one of random weights whose norms make some
 * columns matter more than others, calibrated on random tokens. Full precision is what their files hold, expanded to floats.
 */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { writeSafetensors } from '../src/core/io/safetensorsWrite.ts';
import type * as Tramontane from '../src/index.ts';
import type { LoadOptions, Model } from '../src/index.ts';

const root = path.dirname(fileURLToPath(import.meta.resolve('tramontane/package.json')));
const { values: flags } = parseArgs({
  options: {
    model: { type: 'string', default: path.join(root, 'models/smollm2-135m-instruct-q4_1.gguf') },
    types: { type: 'string', default: 'Q2K,Q3K' },
    text: { type: 'string', default: path.join(root, 'README.md') },
    tokens: { type: 'string', default: '1024' },
    threads: { type: 'string', default: '1' },
  },
});
const address = pathToFileURL(path.join(root, 'dist/index.js')).href;
const { loadModel, measurePerplexity } = (await import(address)) as typeof Tramontane;

const QUESTIONS = [
  'Why is the sky blue?',
  'Write a short story about a lighthouse.',
  'How do I bake bread without yeast?',
  'Explain how a hash table works, with an example in Python.',
  'What were the causes of the First World War?',
  'Give me five tips for learning a language.',
  'Summarize the plot of Hamlet.',
  'How does a computer keep files in folders?',
  'What is the difference between a virus and a bacterium?',
  'Write an email that asks for a day off.',
  'How are rainbows made?',
  'What should I know before I adopt a dog?',
];
const ANSWER_TOKENS = 96;
const WINDOW = 512;

interface Subject {
  readonly name: string;
  readonly model: string;
  /** What it is measured on. */
  text(model: Model): Promise<Uint32Array>;
  traffic(model: Model): Promise<unknown>;
}

const given: Subject = {
  name: path.basename(flags.model),
  model: flags.model,
  text: (model) => model.tokenize(fs.readFileSync(flags.text, 'utf8'), { addSpecialTokens: false }),
  traffic: (model) =>
    Promise.all(
      QUESTIONS.map((content, seed) =>
        model.sendChatRequest({
          messages: [{ role: 'user', content }],
          sampling: { temperature: 0.8, maxLen: ANSWER_TOKENS },
          seed,
        }),
      ),
    ),
};

const VOCAB = 512;

function random(folder: string): Subject {
  writeRandom(folder);
  const next = generator(2);
  const some = (n: number) => Uint32Array.from({ length: n }, () => Math.floor(next() * VOCAB));
  return {
    name: 'random weights',
    model: folder,
    text: async () => some(Number(flags.tokens)),
    traffic: async (model) => {
      for (let i = 0; i < 4; i++) await model.complete(some(256), { sampling: { maxLen: 8, topK: 1 } });
    },
  };
}

function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** A Llama of two layers. Weights are near normal; those of norms are `e^x` of such, so that columns differ. */
function writeRandom(folder: string): void {
  const hidden = 512;
  const uniform = generator(1);
  const normal = () => (uniform() + uniform() + uniform() + uniform() - 2) * Math.sqrt(3);
  const tensors: [string, { type: 'F32'; shape: number[]; data: Float32Array }][] = [];
  const add = (name: string, shape: number[], value: () => number) =>
    tensors.push([
      name,
      { type: 'F32', shape, data: Float32Array.from({ length: shape.reduce((a, b) => a * b) }, value) },
    ]);
  const matrix = (name: string, rows: number) => add(name, [rows, hidden], () => normal() / (2 * Math.sqrt(hidden)));
  const norm = (name: string) => add(name, [hidden], () => Math.exp(0.8 * normal()));
  add('model.embed_tokens.weight', [VOCAB, hidden], normal);
  for (const at of [0, 1].map((i) => `model.layers.${i}`)) {
    norm(`${at}.input_layernorm.weight`);
    norm(`${at}.post_attention_layernorm.weight`);
    for (const part of 'qkvo') matrix(`${at}.self_attn.${part}_proj.weight`, hidden);
    for (const part of ['gate', 'up', 'down']) matrix(`${at}.mlp.${part}_proj.weight`, hidden);
  }
  norm('model.norm.weight');
  matrix('lm_head.weight', VOCAB);
  const config = {
    architectures: ['LlamaForCausalLM'],
    ...{ hidden_size: hidden, intermediate_size: hidden, num_hidden_layers: 2, vocab_size: VOCAB },
    ...{ num_attention_heads: 8, num_key_value_heads: 8, max_position_embeddings: 1024 },
    ...{ rms_norm_eps: 1e-5, rope_theta: 10_000, hidden_act: 'silu', tie_word_embeddings: false },
  };
  fs.writeFileSync(path.join(folder, 'config.json'), JSON.stringify(config));
  fs.writeFileSync(path.join(folder, 'model.safetensors'), writeSafetensors(tensors));
}

async function measure(subject: Subject): Promise<object[]> {
  const load = (options: LoadOptions) =>
    loadModel(subject.model, { device: 'cpu', threads: Number(flags.threads), maxModelLen: 1024, ...options });
  const reference = await load({ dtype: 'f32' });
  const ids = (await subject.text(reference)).subarray(0, Number(flags.tokens));
  const rows: object[] = [];
  for (const isq of flags.types.split(',')) {
    const model = await load({ isq });
    const look = async (calibrated: string) => {
      const { perplexity, divergence } = await measurePerplexity(model, ids, { chunk: WINDOW, reference });
      rows.push({
        ...{ model: subject.name, type: isq, calibrated },
        'KL divergence': divergence?.mean.toPrecision(3),
        '±': divergence?.meanError.toPrecision(1),
        'same top token': `${(100 * (divergence?.sameTop ?? 0)).toFixed(1)} %`,
        perplexity: perplexity.toFixed(2),
      });
      return divergence?.mean ?? Number.NaN;
    };
    const before = await look('no');
    await model.beginCalibration();
    await subject.traffic(model);
    const { maxRows } = await model.applyCalibration();
    const after = await look(`on ${maxRows} rows`);
    if (!(after < before)) process.exitCode = 1;
    await model.dispose();
  }
  await reference.dispose();
  return rows;
}

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'tramontane-calibration-'));
try {
  console.table([...(await measure(given)), ...(await measure(random(folder)))]);
} finally {
  fs.rmSync(folder, { recursive: true });
}
