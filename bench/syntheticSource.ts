/** Weights of a Llama of any size that are made while they are read: nothing is written to a disk. */
import { rowBytes, type StorageType, storageType } from '../src/core/dtype.ts';
import type { SourceTensor, WeightSource } from '../src/core/weights.ts';
import { quantize } from '../src/quant/index.ts';
import type { Sizes } from './syntheticModel.ts';

/** Distinct rows of a matrix; their bytes are then repeated, which no kernel can notice. */
const DISTINCT_ROWS = 16;
/** Keeps the activations of such a model near one. */
const DEVIATION = 0.02;

export interface SyntheticModel {
  /** As in a config.json. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly source: WeightSource;
  /** Of all matrices but the token table, which a step reads a row of. */
  readonly matrixBytes: number;
  /** Multiply-adds of one token. */
  readonly multiplyAdds: number;
}

export function syntheticLlama(sizes: Sizes & { readonly vocab: number }, type: StorageType): SyntheticModel {
  const { hidden, layers, heads, kvHeads, intermediate, context, vocab } = sizes;
  const kv = (hidden / heads) * kvHeads;
  const tensors = new Map<string, SourceTensor>();
  const rows = new Map<number, Uint8Array>();
  let matrixBytes = 0;
  let multiplyAdds = 0;
  const matrix = (name: string, height: number, width: number) => {
    if (!rows.has(width)) rows.set(width, someRows(type, width));
    const some = rows.get(width) as Uint8Array;
    const row = some.length / DISTINCT_ROWS;
    if (name !== 'model.embed_tokens.weight') {
      matrixBytes += height * row;
      multiplyAdds += height * width;
    }
    tensors.set(name, {
      ...{ name, type, shape: [height, width], order: tensors.size },
      readRows: async (first, count, target) => {
        for (let r = 0; r < count; r++) {
          const from = ((first + r) % DISTINCT_ROWS) * row;
          target.set(some.subarray(from, from + row), r * row);
        }
      },
    });
  };
  const norm = (name: string) => {
    const ones = new Uint8Array(new Float32Array(hidden).fill(1).buffer);
    tensors.set(name, {
      ...{ name, type: storageType('F32'), shape: [hidden], order: tensors.size },
      readRows: async (_first, _count, target) => target.set(ones.subarray(0, target.length)),
    });
  };
  matrix('model.embed_tokens.weight', vocab, hidden);
  for (let i = 0; i < layers; i++) {
    const layer = `model.layers.${i}`;
    norm(`${layer}.input_layernorm.weight`);
    matrix(`${layer}.self_attn.q_proj.weight`, hidden, hidden);
    matrix(`${layer}.self_attn.k_proj.weight`, kv, hidden);
    matrix(`${layer}.self_attn.v_proj.weight`, kv, hidden);
    matrix(`${layer}.self_attn.o_proj.weight`, hidden, hidden);
    norm(`${layer}.post_attention_layernorm.weight`);
    matrix(`${layer}.mlp.gate_proj.weight`, intermediate, hidden);
    matrix(`${layer}.mlp.up_proj.weight`, intermediate, hidden);
    matrix(`${layer}.mlp.down_proj.weight`, hidden, intermediate);
  }
  norm('model.norm.weight');
  matrix('lm_head.weight', vocab, hidden);
  return {
    config: {
      architectures: ['LlamaForCausalLM'],
      ...{ hidden_size: hidden, num_hidden_layers: layers, num_attention_heads: heads, num_key_value_heads: kvHeads },
      ...{ intermediate_size: intermediate, vocab_size: vocab, max_position_embeddings: context },
      ...{ rms_norm_eps: 1e-5, rope_theta: 10_000, hidden_act: 'silu', tie_word_embeddings: false },
    },
    source: { get: (name) => tensors.get(name), names: () => tensors.keys() },
    matrixBytes,
    multiplyAdds,
  };
}

function someRows(type: StorageType, width: number): Uint8Array {
  const values = new Float32Array(DISTINCT_ROWS * width);
  let state = width;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  for (let i = 0; i < values.length; i++) {
    values[i] = (uniform() + uniform() + uniform() + uniform() - 2) * Math.sqrt(3) * DEVIATION;
  }
  const row = rowBytes(type, width) as number;
  const bytes = quantize(type.name, values, width);
  return bytes.length === DISTINCT_ROWS * row ? bytes : bytes.slice(0, DISTINCT_ROWS * row);
}
