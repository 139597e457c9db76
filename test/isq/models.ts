/** Small random checkpoints in folders of their own, and the logits of models. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import { writeSafetensors } from '../../src/core/io/safetensorsWrite.ts';
import type { Model } from '../../src/index.ts';
import { dequantize, quantize } from '../../src/quant/rows.ts';

export type Matrices = Map<string, { shape: readonly number[]; data: Float32Array<ArrayBuffer> }>;

export interface Spec {
  readonly hidden: number;
  readonly inner: number;
  readonly layers: number;
  readonly vocab: number;
  readonly tied: boolean;
  /** Routed experts in place of the MLP. */
  readonly experts?: number;
}

export const SMALL: Spec = { hidden: 256, inner: 256, layers: 1, vocab: 96, tied: false };
const HEADS = 4;
const KV_HEADS = 1;

export function configOf(s: Spec): Record<string, unknown> {
  return {
    architectures: [s.experts ? 'MixtralForCausalLM' : 'LlamaForCausalLM'],
    model_type: s.experts ? 'mixtral' : 'llama',
    hidden_size: s.hidden,
    intermediate_size: s.inner,
    num_hidden_layers: s.layers,
    num_attention_heads: HEADS,
    num_key_value_heads: KV_HEADS,
    max_position_embeddings: 512,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    vocab_size: s.vocab,
    tie_word_embeddings: s.tied,
    hidden_act: 'silu',
    ...(s.experts ? { num_local_experts: s.experts, num_experts_per_tok: 2 } : {}),
  };
}

/** Random weights, the same for the same seed. */
export function matricesOf(s: Spec, seed = 1): Matrices {
  const out: Matrices = new Map();
  let state = seed >>> 0;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32 - 0.5;
  };
  const add = (name: string, ...shape: number[]) => {
    const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
    const scale = shape.length === 1 ? 0.1 : 3 / Math.sqrt(shape.at(-1)!);
    for (let i = 0; i < data.length; i++) data[i] = (shape.length === 1 ? 1 : 0) + scale * (uniform() + uniform());
    out.set(name, { shape, data });
  };
  const head = s.hidden / HEADS;
  add('model.embed_tokens.weight', s.vocab, s.hidden);
  for (let i = 0; i < s.layers; i++) {
    const at = `model.layers.${i}`;
    add(`${at}.input_layernorm.weight`, s.hidden);
    add(`${at}.post_attention_layernorm.weight`, s.hidden);
    add(`${at}.self_attn.q_proj.weight`, s.hidden, s.hidden);
    add(`${at}.self_attn.k_proj.weight`, KV_HEADS * head, s.hidden);
    add(`${at}.self_attn.v_proj.weight`, KV_HEADS * head, s.hidden);
    add(`${at}.self_attn.o_proj.weight`, s.hidden, s.hidden);
    if (s.experts) {
      add(`${at}.block_sparse_moe.gate.weight`, s.experts, s.hidden);
      for (let e = 0; e < s.experts; e++) {
        add(`${at}.block_sparse_moe.experts.${e}.w1.weight`, s.inner, s.hidden);
        add(`${at}.block_sparse_moe.experts.${e}.w3.weight`, s.inner, s.hidden);
        add(`${at}.block_sparse_moe.experts.${e}.w2.weight`, s.hidden, s.inner);
      }
    } else {
      add(`${at}.mlp.gate_proj.weight`, s.inner, s.hidden);
      add(`${at}.mlp.up_proj.weight`, s.inner, s.hidden);
      add(`${at}.mlp.down_proj.weight`, s.hidden, s.inner);
    }
  }
  add('model.norm.weight', s.hidden);
  if (!s.tied) add('lm_head.weight', s.vocab, s.hidden);
  return out;
}

const folders: string[] = [];
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'tramontane-isq-'));
  folders.push(folder);
  return folder;
}

/** Writes a model and returns its folder. */
export function writeModel(s: Spec, matrices = matricesOf(s), changes: object = {}): string {
  const folder = temporaryFolder();
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...configOf(s), ...changes }));
  const tensors = [...matrices].map(([name, { shape, data }]) => [name, { type: 'F32', shape, data }] as const);
  writeFileSync(join(folder, 'model.safetensors'), writeSafetensors(tensors));
  return folder;
}

/** Puts a value that is not a number into the middle of a tensor. */
export function damage(folder: string, tensor: string): void {
  const path = join(folder, 'model.safetensors');
  const file = readFileSync(path);
  const start = 8 + Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, start)) as Record<string, { data_offsets: [number, number] }>;
  const [from, to] = header[tensor]!.data_offsets;
  file.writeFloatLE(Number.NaN, start + 4 * Math.floor((from + to) / 8));
  writeFileSync(path, file);
}

export const PROMPT = [3, 17, 5, 80, 41, 2, 9, 66];

export async function logitsOf(model: Model, ids: readonly number[] = PROMPT): Promise<Float32Array> {
  const { logitsChunks } = await model.sendRawTokens(ids);
  const parts = await Promise.all(logitsChunks.map((t) => t.backend.read(t)));
  const out = new Float32Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** What a matrix is after it was stored as `type`. */
export function rounded(type: string, data: Float32Array<ArrayBuffer>, columns: number): Float32Array<ArrayBuffer> {
  if (type === 'F32') return data;
  // Groups along rows: each is a matrix of its own.
  if (!type.startsWith('HQQ')) return dequantize(type, quantize(type, data, columns), columns);
  const out = new Float32Array(data.length);
  for (let at = 0; at < data.length; at += 64) {
    out.set(dequantize(type, quantize(type, data.subarray(at, at + 64), 64), 64), at);
  }
  return out;
}

/** Root of the mean square of the difference, over that of `b`. */
export function relativeError(a: Float32Array, b: Float32Array): number {
  let error = 0;
  let size = 0;
  for (let i = 0; i < b.length; i++) {
    error += (a[i]! - b[i]!) ** 2;
    size += b[i]! ** 2;
  }
  return Math.sqrt(error / size);
}

/** Mean squares of what the first projections see, which can be said without a model: normalised embeddings. */
export function firstInputs(matrices: Matrices, table: Float32Array, rows: readonly number[]): Float64Array {
  const norm = matrices.get('model.layers.0.input_layernorm.weight')!.data;
  const width = norm.length;
  const out = new Float64Array(width);
  for (const id of rows) {
    const row = table.subarray(id * width, (id + 1) * width);
    const size = Math.sqrt(row.reduce((n, v) => n + v * v, 0) / width + 1e-5);
    for (let c = 0; c < width; c++) out[c]! += ((row[c]! / size) * norm[c]!) ** 2 / rows.length;
  }
  return out;
}
