/**
 * Whether llama.cpp reads the GGUF files that are written here, and computes the same: the embedded model in every type, and
 * tiny models of every architecture that both know.
 *
 *     npm run bench:gguf -- [--types Q4K,Q8_0,…] [--models llama,qwen3,…] [--tokens 24] [--out FILE]
 *
 * Every file is given to llama.cpp in a process of its own (`node-llama-cpp`, looked for in PEERS_DIR, else where
 * `bench:peers` installs it; without it nothing is compared, and that is said). Compared are the probabilities of the
 * likeliest tokens after each token of a text, and a greedy continuation; here in 32-bit floats, while llama.cpp rounds
 * activations to 8 or 16 bits.
 */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import type * as Tramontane from '../../src/index.ts';

const root = path.dirname(fileURLToPath(import.meta.resolve('tramontane/package.json')));
const peers = path.resolve(process.env['PEERS_DIR'] ?? path.join(root, 'bench/peers/.installed'));
const runner = path.join(root, 'bench/peers/runners/llama-reads.mjs');
const fixtures = path.join(root, 'test/fixtures/models');
const { loadModel, quantizeModel } = (await import(
  pathToFileURL(path.join(root, 'dist/index.js')).href
)) as typeof Tramontane;

const TYPES = 'Q4_0,Q4_1,Q5_0,Q5_1,Q8_0,Q2K,Q3K,Q4K,Q5K,Q6K,IQ4_NL,IQ4_XS,MXFP4';
const MODELS = [
  ...[
    'llama',
    'llama_l3',
    'llama_llama3rope_tied',
    'llama_longrope',
    'llama_yarn_af',
    'mixtral',
    'ministral3',
    'qwen2',
  ],
  ...[
    'qwen3',
    'gemma',
    'gemma2',
    'gemma3_text',
    'gemma4_text_moe',
    'phi',
    'phi3',
    'phi3_longrope',
    'granite',
    'glm4',
    'starcoder2',
  ],
  ...['olmo2', 'olmo3', 'cohere2', 'gpt2', 'gptneox', 'stablelm', 'stablelm_qk_parallel', 'deepseek_v3', 'glm4_moe'],
  ...['gpt_oss', 'gpt_oss_mxfp4', 'hunyuan_v1_dense', 'hunyuan_v1_moe', 'ernie4_5_moe', 'granitemoehybrid'],
  ...['qwen3_next', 'qwen3_5_text', 'qwen3_5_moe_text', 'lfm2', 'lfm2_moe'],
];
const YARN = { rope_type: 'yarn', rope_theta: 300, factor: 6, original_max_position_embeddings: 24 };
/** What must change in configurations so that files, or llama.cpp, can say it: it has rules of its own for some rotations. */
const CHANGES: Readonly<Record<string, object>> = {
  gemma2: { query_pre_attn_scalar: 16 },
  gemma3_text: { query_pre_attn_scalar: 16 },
  starcoder2: { sliding_window: null },
  phi3_longrope: { original_max_position_embeddings: 1024 },
  llama_longrope: { original_max_position_embeddings: 1024 },
  gpt_oss: { rope_parameters: { rope_type: 'default', rope_theta: 150 } },
  gpt_oss_mxfp4: { rope_parameters: { rope_type: 'default', rope_theta: 150 } },
  llama_yarn_af: { rope_parameters: { ...YARN, attention_factor: 1.4 } },
  deepseek_v3: { rope_parameters: { rope_type: 'default', rope_theta: 1e4 } },
};
/** Tiny models that llama.cpp cannot compute, though their published relatives it can. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  phimoe: 'no sparse mixer there',
  seed_oss: 'biases behind attention and in the MLP have no place there',
  glm: 'heads are of hidden size over heads there',
  exaone4: 'heads are of hidden size over heads there',
  nemotron: 'heads are of hidden size over heads there',
  deepseek_v2: 'queries without a latent are known by 26 or 27 layers there',
  olmoe_v1: 'no tied output matrix there',
  olmo_clip: 'biases of attention have no place there',
  cohere_qk: 'norms of queries and keys are known by 64 layers there',
  granitemoehybrid_dense_rope: 'biases of projections have no place there',
  qwen3_next_uneven: 'every nth layer attends there',
  gemma4_text_ple: 'shared keys and values are those of the last two layers there',
};
const TEXT = 'The mistral is a strong, cold wind that blows from the north of France towards';
const IDS = [3, 17, 5, 80, 41, 2, 9, 66, 12, 13, 14, 15, 90, 7, 33];
/** Of probabilities, on average. llama.cpp has activations of 8 bits beside block formats, and BF16 in the tiny models. */
const TOLERANCE = { blocks: 0.06, floats: 0.01 };

const { values: options } = parseArgs({
  options: {
    types: { type: 'string', default: TYPES },
    models: { type: 'string', default: MODELS.join() },
    tokens: { type: 'string', default: '24' },
    out: { type: 'string' },
  },
});

interface Theirs {
  readonly ids: readonly number[];
  readonly likeliest: readonly (readonly (readonly [token: number, probability: number])[])[];
  readonly greedy: readonly number[];
  readonly text: string;
}

interface Row {
  readonly file: string;
  /** The largest difference of a probability after a token, its mean over the text. */
  readonly difference?: number;
  /** By how much the likeliest token here is likelier than the one taken there, at most. */
  readonly behind?: number;
  /** Equal tokens of the continuations up to the first other one. */
  readonly equal?: string;
  readonly note?: string;
  readonly passed: boolean;
}

function llamaCpp(model: string, input: readonly string[]): Theirs | string {
  const args = [runner, '--model', model, '--tokens', options.tokens, ...input];
  const child = spawnSync(process.execPath, args, { encoding: 'utf8', env: { ...process.env, PEERS_DIR: peers } });
  const line = child.stdout.split('\n').findLast((l) => l.startsWith('{'));
  if (child.status === 0 && line) return JSON.parse(line) as Theirs;
  const lines = child.stderr.split('\n').filter((l) => /error|assert|missing|unknown/i.test(l));
  return (lines[0] ?? child.stderr.trim().split('\n').at(-1) ?? `ended with ${child.signal ?? child.status}`).slice(
    0,
    160,
  );
}

async function compare(file: string, model: string, input: readonly string[], tolerance: number): Promise<Row> {
  const theirs = llamaCpp(model, input);
  if (typeof theirs === 'string') return { file, note: theirs, passed: false };
  const ours = await loadModel(model, { device: 'cpu', dtype: 'f32', maxModelLen: 256 });
  try {
    const { ids, likeliest, greedy } = theirs;
    const probabilities = await probabilitiesOf(ours, [...ids, ...greedy.slice(0, -1)]);
    const off = likeliest.map((list, i) =>
      Math.max(...list.map(([token, p]) => Math.abs(p - probabilities[i]![token]!))),
    );
    const difference = off.reduce((a, b) => a + b) / off.length;
    const most = probabilities.slice(ids.length - 1).map((p) => Math.max(...p));
    const behind = Math.max(...greedy.map((token, i) => most[i]! - probabilities[ids.length - 1 + i]![token]!));
    const sampling = { topK: 1, maxLen: greedy.length, ignoreEos: true };
    const { choices } = await ours.complete(Uint32Array.from(ids), { sampling });
    const first = greedy.findIndex((id, i) => id !== choices[0]?.tokenIds[i]);
    const equal = `${first < 0 ? greedy.length : first} of ${greedy.length}`;
    return { file, difference, behind, equal, passed: difference <= tolerance && behind <= 2 * tolerance };
  } finally {
    await ours.dispose();
  }
}

/** Of all tokens after each of `ids`. */
async function probabilitiesOf(model: Tramontane.Model, ids: readonly number[]): Promise<readonly Float64Array[]> {
  const { logitsChunks } = await model.sendRawTokens(ids);
  const rows: Float64Array[] = [];
  for (const chunk of logitsChunks) {
    const logits = Float64Array.from(await chunk.backend.read(chunk));
    const vocab = chunk.shape.at(-1) as number;
    for (let at = 0; at < logits.length; at += vocab) {
      const row = logits.subarray(at, at + vocab);
      const most = row.reduce((a, b) => Math.max(a, b));
      const total = row.reduce((sum, x) => sum + Math.exp(x - most), 0);
      rows.push(row.map((x) => Math.exp(x - most) / total));
    }
  }
  return rows;
}

/** A tokenizer of single bytes, as many as a tiny model has tokens. */
function byteTokenizer(size: number): object {
  const plain = [...Array(256).keys()].filter((b) => (b > 32 && b < 127) || (b > 160 && b !== 173));
  let next = 256;
  const chars = Array.from({ length: 256 }, (_, b) => String.fromCodePoint(plain.includes(b) ? b : next++));
  const step = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
  const vocab = Object.fromEntries(chars.slice(0, size).map((c, b) => [c, b]));
  return {
    ...{ version: '1.0', added_tokens: [], normalizer: null, pre_tokenizer: step, post_processor: null, decoder: step },
    model: { type: 'BPE', vocab, merges: [], byte_fallback: false, ignore_merges: false },
  };
}

async function fixture(name: string, folder: string): Promise<string> {
  // Its name would make llama.cpp look for tokens of published models.
  const own = path.join(folder, 'tiny');
  fs.rmSync(own, { recursive: true, force: true });
  fs.mkdirSync(own);
  const config = JSON.parse(fs.readFileSync(path.join(fixtures, name, 'config.json'), 'utf8')) as {
    readonly vocab_size: number;
  };
  fs.writeFileSync(path.join(own, 'config.json'), JSON.stringify({ ...config, ...CHANGES[name] }));
  fs.symlinkSync(path.join(fixtures, name, 'model.safetensors'), path.join(own, 'model.safetensors'));
  fs.writeFileSync(path.join(own, 'tokenizer.json'), JSON.stringify(byteTokenizer(config.vocab_size)));
  const out = path.join(folder, `${name}.gguf`);
  await quantizeModel(own, out, { topology: { '/(embed_tokens|wte|embed_in)\\.weight$/': { isq: 'Q8_0' } } });
  return out;
}

const rows: Row[] = [];
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'tramontane-gguf-'));
const list = (names: string) => names.split(',').filter(Boolean);
const figure = (n: number | undefined) => (n === undefined ? undefined : Number(n.toFixed(4)));
const note = (row: Row) => {
  rows.push({ ...row, difference: figure(row.difference), behind: figure(row.behind) } as Row);
  const figures = `${row.difference?.toFixed(4)} ${row.behind?.toFixed(4)}  ${row.equal} greedy tokens`;
  console.error(`${row.passed ? ' ' : '!'} ${row.file.padEnd(28)} ${row.note ?? figures}`);
};
try {
  if (!fs.existsSync(path.join(peers, 'node_modules/node-llama-cpp'))) {
    console.log(`skipped: node-llama-cpp: expected it in ${peers}; run npm run bench:peers once, or set PEERS_DIR`);
  } else {
    for (const isq of list(options.types)) {
      const out = path.join(folder, 'embedded.gguf');
      await quantizeModel('embedded', out, { isq });
      note(await compare(`embedded as ${isq}`, out, ['--text', TEXT], TOLERANCE.blocks));
    }
    for (const name of list(options.models)) {
      const out = await fixture(name, folder).catch((e: unknown) => e as Error);
      if (typeof out !== 'string') note({ file: name, note: out.message, passed: false });
      else note(await compare(name, out, ['--ids', JSON.stringify(IDS)], TOLERANCE.floats));
    }
    for (const [file, reason] of Object.entries(ELSEWHERE))
      note({ file, note: `not compared: ${reason}`, passed: true });
  }
} finally {
  fs.rmSync(folder, { recursive: true });
}
console.table(rows);
if (options.out) fs.writeFileSync(options.out, `${JSON.stringify(rows, null, 1)}\n`);
if (!rows.every((r) => r.passed)) process.exitCode = 1;
