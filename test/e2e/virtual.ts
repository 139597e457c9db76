/** Models of any size whose bytes are made when they are read. */
import type { ByteSource } from '../../src/core/io/source.ts';
import { f32, type GgufTensor, ggufFile, text, u32, type Value } from '../io/build.ts';

/** Q8_0: 32 codes behind a binary16 scale. */
const BLOCK = 34;
/** Blocks after which weights repeat; a prime, so that rows of a matrix differ. */
const PERIOD = 4099;
const ALIGNMENT = 32;

export interface VirtualLayer {
  /** Layers of one seed have the same weights. */
  readonly seed: number;
  /** What it adds to the stream is exactly zero, though it computes with ordinary numbers. */
  readonly silent: boolean;
}

export interface VirtualModel {
  readonly hidden: number;
  readonly feedForward: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly vocab: number;
  readonly context: number;
  readonly layers: readonly VirtualLayer[];
}

interface Matrix {
  readonly name: string;
  readonly columns: number;
  readonly rows: number;
  readonly seed: number;
  readonly silent: boolean;
}

function matricesOf(m: VirtualModel): Matrix[] {
  const kv = (m.hidden / m.heads) * m.kvHeads;
  const plain = { seed: 1000, silent: false };
  const table = { columns: m.hidden, rows: m.vocab, ...plain };
  return [
    { name: 'token_embd.weight', ...table },
    { name: 'output.weight', ...table, seed: 1001 },
    ...m.layers.flatMap(({ seed, silent }, i) => {
      const shapes = [
        ['attn_q', m.hidden, m.hidden],
        ['attn_k', m.hidden, kv],
        ['attn_v', m.hidden, kv],
        ['attn_output', m.hidden, m.hidden],
        ['ffn_gate', m.hidden, m.feedForward],
        ['ffn_up', m.hidden, m.feedForward],
        ['ffn_down', m.feedForward, m.hidden],
      ] as const;
      return shapes.map(([name, columns, rows], k) => ({
        name: `blk.${i}.${name}.weight`,
        columns,
        rows,
        seed: 10 * seed + k,
        silent: silent && (name === 'attn_output' || name === 'ffn_down'),
      }));
    }),
  ];
}

/** Bytes of all matrices. */
export function virtualBytes(m: VirtualModel): number {
  return matricesOf(m).reduce((n, { columns, rows }) => n + (columns / 32) * rows * BLOCK, 0);
}

/** A GGUF file of the Llama family without a tokenizer. */
export function virtualLlama(m: VirtualModel): ByteSource {
  const matrices = matricesOf(m);
  const norms = [
    'output_norm.weight',
    ...m.layers.flatMap((_, i) => [`blk.${i}.attn_norm.weight`, `blk.${i}.ffn_norm.weight`]),
  ];
  const ones = new Uint8Array(new Float32Array(m.hidden).fill(1).buffer);
  const key = (name: string, value: Value) => [`llama.${name}`, value] as const;
  let end = norms.length * Math.ceil(ones.length / ALIGNMENT) * ALIGNMENT;
  const places = matrices.map((w) => {
    const at = end;
    end += Math.ceil(((w.columns / 32) * w.rows * BLOCK) / ALIGNMENT) * ALIGNMENT;
    return at;
  });
  const header = ggufFile({
    metadata: [
      ['general.architecture', text('llama')],
      key('context_length', u32(m.context)),
      key('embedding_length', u32(m.hidden)),
      key('feed_forward_length', u32(m.feedForward)),
      key('block_count', u32(m.layers.length)),
      key('attention.head_count', u32(m.heads)),
      key('attention.head_count_kv', u32(m.kvHeads)),
      key('attention.layer_norm_rms_epsilon', f32(1e-5)),
      key('vocab_size', u32(m.vocab)),
    ],
    tensors: [
      ...norms.map((name): GgufTensor => ({ name, dims: [m.hidden], data: ones })),
      ...matrices.map(({ name, columns, rows }, i) => ({ name, dims: [columns, rows], type: 8, offset: places[i]! })),
    ],
  });
  // The norms are the last bytes of it; matrices follow.
  const dataStart = header.length - norms.length * Math.ceil(ones.length / ALIGNMENT) * ALIGNMENT;
  const loud = patterns(m.hidden);
  const quiet = loud.slice();
  for (let block = 0; block < 2 * PERIOD; block++) quiet.fill(0, block * BLOCK, block * BLOCK + 2);

  const fill = (start: number, target: Uint8Array): void => {
    target.set(header.subarray(Math.min(start, header.length), Math.min(start + target.length, header.length)));
    for (const [i, w] of matrices.entries()) {
      const first = dataStart + places[i]!;
      const from = Math.max(start, first);
      const to = Math.min(start + target.length, first + (w.columns / 32) * w.rows * BLOCK);
      const pattern = w.silent ? quiet : loud;
      for (let at = from; at < to; ) {
        const inside = (at - first + w.seed * 97 * BLOCK) % (PERIOD * BLOCK);
        const count = Math.min(to - at, pattern.length - inside);
        target.set(pattern.subarray(inside, inside + count), at - start);
        at += count;
      }
    }
  };
  return {
    name: 'virtual.gguf',
    size: dataStart + end,
    async slice(start, to) {
      const bytes = new Uint8Array(to - start);
      fill(start, bytes);
      return bytes;
    },
    async readInto(start, target) {
      fill(start, target);
    },
    async close() {},
  };
}

/** Two periods of blocks: random codes, scales that keep the size of a vector. */
function patterns(columns: number): Uint8Array {
  const bytes = new Uint8Array(2 * PERIOD * BLOCK);
  let state = 1;
  for (let i = 0; i < PERIOD * BLOCK; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[i] = state >>> 24;
  }
  // A power of two below 1 / (73 √columns), as binary16.
  const exponent = Math.floor(Math.log2(1 / (73 * Math.sqrt(columns)))) + 15;
  for (let block = 0; block < PERIOD; block++)
    new DataView(bytes.buffer).setUint16(block * BLOCK, exponent << 10, true);
  bytes.copyWithin(PERIOD * BLOCK, 0, PERIOD * BLOCK);
  return bytes;
}
