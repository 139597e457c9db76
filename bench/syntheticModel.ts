/** Models with random weights: their answers mean nothing, their speed does. */
import fs from 'node:fs';
import { type StorageType, type StorageTypeName, storageType } from '../src/core/dtype.ts';
import { quantize } from '../src/quant/index.ts';

export interface Sizes {
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly intermediate: number;
  readonly context: number;
}

export const DEFAULT_SIZES: Sizes = {
  ...{ hidden: 2048, layers: 8, heads: 32, kvHeads: 8, intermediate: 5632 },
  context: 8192,
};

const ALIGNMENT = 32;
/** Distinct rows of a matrix; their bytes are then repeated, which no kernel can notice. */
const DISTINCT_ROWS = 64;
/** Standard deviation of the weights: keeps the activations of a model of this shape near one. */
const DEVIATION = 0.02;
/**
 * Tokens that are hardly ever chosen, for their rows are short: special ones and parts of characters, which make no text
 * that a stream could show.
 */
const QUIET_TOKENS = 1024;
const QUIET = 1 / 4;
const U32 = 4;
const F32 = 6;
const STRING = 8;
const ARRAY = 9;
const VALUE_BYTES: Readonly<Record<number, number>> = {
  0: 1,
  1: 1,
  2: 2,
  3: 2,
  4: 4,
  5: 4,
  6: 4,
  7: 1,
  10: 8,
  11: 8,
  12: 8,
};

interface Tensor {
  readonly name: string;
  /** Row-major. */
  readonly shape: readonly number[];
  readonly type: StorageType;
}

/**
 * Writes a GGUF file of the llama architecture with random matrices of type `format` (norms are f32, the output matrix is
 * the token table) and the tokenizer of another GGUF file, so that every engine that reads such files runs it.
 */
export function writeSynthetic(path: string, vocabulary: string, format: StorageTypeName, sizes = DEFAULT_SIZES): void {
  const tokenizer = tokenizerOf(fs.readFileSync(vocabulary));
  const keys = [
    ...tokenizer.keys,
    ...[text('general.architecture', 'llama'), text('general.name', `synthetic ${format}`)],
    u32('general.quantization_version', 2),
    u32('llama.block_count', sizes.layers),
    u32('llama.context_length', sizes.context),
    u32('llama.embedding_length', sizes.hidden),
    u32('llama.feed_forward_length', sizes.intermediate),
    u32('llama.attention.head_count', sizes.heads),
    u32('llama.attention.head_count_kv', sizes.kvHeads),
    u32('llama.rope.dimension_count', sizes.hidden / sizes.heads),
    u32('llama.vocab_size', tokenizer.tokens),
    ...[f32('llama.rope.freq_base', 10_000), f32('llama.attention.layer_norm_rms_epsilon', 1e-5)],
  ];
  const tensors = tensorsOf(sizes, tokenizer.tokens, storageType(format));
  const file = fs.openSync(path, 'w');
  try {
    const head = Buffer.concat([Buffer.from('GGUF'), word(3), long(tensors.length), long(keys.length), ...keys]);
    let offset = 0;
    const entries = tensors.map((t) => {
      const dims = t.shape.toReversed();
      const entry = [string(t.name), word(dims.length), ...dims.map(long), word(t.type.ggml as number), long(offset)];
      offset += padded(bytesOf(t));
      return Buffer.concat(entry);
    });
    writePadded(file, Buffer.concat([head, ...entries]));
    const rows = new Map<string, Uint8Array>();
    for (const t of tensors) writeTensor(file, t, rows);
  } finally {
    fs.closeSync(file);
  }
}

function tensorsOf(
  { hidden, layers, heads, kvHeads, intermediate }: Sizes,
  tokens: number,
  type: StorageType,
): Tensor[] {
  const kv = (hidden / heads) * kvHeads;
  const norm = (name: string): Tensor => ({ name, shape: [hidden], type: storageType('F32') });
  const matrix = (name: string, rows: number, columns: number): Tensor => ({ name, shape: [rows, columns], type });
  const layer = (b: string): readonly Tensor[] => [
    norm(`${b}.attn_norm.weight`),
    matrix(`${b}.attn_q.weight`, hidden, hidden),
    matrix(`${b}.attn_k.weight`, kv, hidden),
    matrix(`${b}.attn_v.weight`, kv, hidden),
    matrix(`${b}.attn_output.weight`, hidden, hidden),
    norm(`${b}.ffn_norm.weight`),
    matrix(`${b}.ffn_gate.weight`, intermediate, hidden),
    matrix(`${b}.ffn_up.weight`, intermediate, hidden),
    matrix(`${b}.ffn_down.weight`, hidden, intermediate),
  ];
  const blocks = Array.from({ length: layers }, (_, i) => layer(`blk.${i}`)).flat();
  return [matrix('token_embd.weight', tokens, hidden), ...blocks, norm('output_norm.weight')];
}

function writeTensor(file: number, tensor: Tensor, made: Map<string, Uint8Array>): void {
  const { name, shape, type } = tensor;
  const [rows = 1, columns] = shape;
  if (columns === undefined) {
    writePadded(file, new Uint8Array(new Float32Array(rows).fill(1).buffer));
    return;
  }
  const quiet = name === 'token_embd.weight' ? Math.min(rows, QUIET_TOKENS) : 0;
  const bytes = new Uint8Array(bytesOf(tensor));
  const loud = (bytes.length / rows) * quiet;
  tile(bytes.subarray(0, loud), distinctRows(type, columns, QUIET * DEVIATION, made));
  tile(bytes.subarray(loud), distinctRows(type, columns, DEVIATION, made));
  writePadded(file, bytes);
}

function distinctRows(
  type: StorageType,
  columns: number,
  deviation: number,
  made: Map<string, Uint8Array>,
): Uint8Array {
  const key = `${columns} ${deviation}`;
  const rows = made.get(key) ?? quantize(type.name, gaussian(DISTINCT_ROWS * columns, deviation), columns);
  made.set(key, rows);
  return rows;
}

function tile(bytes: Uint8Array, piece: Uint8Array): void {
  for (let at = 0; at < bytes.length; at += piece.length) bytes.set(piece.subarray(0, bytes.length - at), at);
}

/** Normally distributed values (Box–Muller), the same every time. */
function gaussian(count: number, deviation: number): Float32Array {
  let state = 1;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  const values = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    values[i] = deviation * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  }
  return values;
}

/** The `tokenizer.…` keys of a GGUF file, as they are stored, and the number of tokens. */
function tokenizerOf(file: Buffer): { readonly keys: readonly Uint8Array[]; readonly tokens: number } {
  let at = 24;
  const length = () => Number(file.readBigUInt64LE((at += 8) - 8));
  const skip = (type: number): number => {
    if (type === STRING) {
      const bytes = length();
      at += bytes;
    } else if (type === ARRAY) {
      const item = file.readUInt32LE((at += 4) - 4);
      const items = length();
      for (let i = 0; i < items; i++) skip(item);
      return items;
    } else {
      at += VALUE_BYTES[type] as number;
    }
    return 1;
  };
  const keys: Uint8Array[] = [];
  let tokens = 0;
  for (let left = Number(file.readBigUInt64LE(16)); left > 0; left--) {
    const start = at;
    const size = length();
    const name = file.toString('utf8', at, at + size);
    at += size;
    const items = skip(file.readUInt32LE((at += 4) - 4));
    if (name === 'tokenizer.ggml.tokens') tokens = items;
    if (name.startsWith('tokenizer.')) keys.push(file.subarray(start, at));
  }
  return { keys, tokens };
}

function bytesOf({ shape, type }: Tensor): number {
  return (shape.reduce((n, x) => n * x, 1) / type.blockSize) * type.blockBytes;
}

function padded(size: number): number {
  return Math.ceil(size / ALIGNMENT) * ALIGNMENT;
}

function writePadded(file: number, bytes: Uint8Array): void {
  for (const part of [bytes, new Uint8Array(padded(bytes.length) - bytes.length)]) {
    for (let done = 0; done < part.length; ) done += fs.writeSync(file, part, done);
  }
}

function word(value: number): Buffer {
  const b = Buffer.alloc(4);
  b.writeUInt32LE(value);
  return b;
}

function long(value: number): Buffer {
  const b = Buffer.alloc(8);
  b.writeBigUInt64LE(BigInt(value));
  return b;
}

function string(value: string): Buffer {
  const b = Buffer.from(value);
  return Buffer.concat([long(b.length), b]);
}

function text(key: string, value: string): Buffer {
  return Buffer.concat([string(key), word(STRING), string(value)]);
}

function u32(key: string, value: number): Buffer {
  return Buffer.concat([string(key), word(U32), word(value)]);
}

function f32(key: string, value: number): Buffer {
  const b = Buffer.alloc(4);
  b.writeFloatLE(value);
  return Buffer.concat([string(key), word(F32), b]);
}
