/** From named tensors to a decoder: what is demanded, what is forgiven. */
import { describe, expect, it } from 'vitest';
import { ReferenceBackend } from '../../src/backends/reference/index.ts';
import { storageType } from '../../src/core/dtype.ts';
import { WeightError } from '../../src/core/errors.ts';
import { sourceOf } from '../../src/core/io/weightSource.ts';
import type { Shape } from '../../src/core/tensor.ts';
import { sizeOf } from '../../src/core/tensor.ts';
import type { SourceTensor } from '../../src/core/weights.ts';
import { Weights } from '../../src/core/weights.ts';
import { buildDecoder } from '../../src/models/arch.ts';
import { archOf } from '../../src/models/registry.ts';
import { codec, LoadedModel } from './harness.ts';

const H = 8;
const V = 12;
const I = 6;

const config = {
  architectures: ['LlamaForCausalLM'],
  vocab_size: V,
  hidden_size: H,
  intermediate_size: I,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  max_position_embeddings: 64,
};

type Shapes = Readonly<Record<string, Shape>>;

function shapes(prefix = 'model.'): Record<string, Shape> {
  const l = `${prefix}layers.0.`;
  return {
    [`${prefix}embed_tokens.weight`]: [V, H],
    [`${prefix}norm.weight`]: [H],
    [`${l}input_layernorm.weight`]: [H],
    [`${l}post_attention_layernorm.weight`]: [H],
    [`${l}self_attn.q_proj.weight`]: [H, H],
    [`${l}self_attn.k_proj.weight`]: [4, H],
    [`${l}self_attn.v_proj.weight`]: [4, H],
    [`${l}self_attn.o_proj.weight`]: [H, H],
    [`${l}mlp.gate_proj.weight`]: [I, H],
    [`${l}mlp.up_proj.weight`]: [I, H],
    [`${l}mlp.down_proj.weight`]: [H, I],
    'lm_head.weight': [V, H],
  };
}

/** Values depend on the last two parts of a name only, so that models under different prefixes are equal. */
function sourceFrom(all: Shapes) {
  const tensors = Object.entries(all).map(([name, shape], order): [string, SourceTensor] => {
    const width = shape[shape.length - 1]!;
    const seed = [...name.split('.').slice(-2).join('.')].reduce((n, c) => n + (c.codePointAt(0) ?? 0), 0);
    const data = Float32Array.from({ length: sizeOf(shape) }, (_, i) => Math.sin(seed * 7 + i * 1.3));
    return [
      name,
      {
        name,
        type: storageType('F32'),
        shape,
        order,
        async readRows(first, rows, target) {
          target.set(new Uint8Array(data.buffer, first * width * 4, rows * width * 4));
        },
      },
    ];
  });
  return sourceOf(new Map(tensors));
}

async function logits(all: Shapes, more: Record<string, unknown> = {}): Promise<readonly number[]> {
  const model = await LoadedModel.load(new ReferenceBackend(), 8, {
    config: { ...config, ...more },
    source: sourceFrom(all),
  });
  return [...(await model.prefill([1, 5, 2]))];
}

async function build(all: Shapes, more: Record<string, unknown> = {}) {
  const raw = { ...config, ...more };
  const arch = await archOf(raw);
  return buildDecoder(
    arch,
    Weights.open({ backend: new ReferenceBackend(), source: sourceFrom(all), codec }),
    arch.config(raw),
  );
}

function without(all: Record<string, Shape>, name: string): Shapes {
  const { [name]: _, ...rest } = all;
  return rest;
}

describe('building a decoder', () => {
  it('finds the model under each prefix it is saved with', async () => {
    const expected = await logits(shapes());
    const inner = (prefix: string) => ({ ...shapes(prefix), 'lm_head.weight': [V, H] });
    expect(await logits(inner('language_model.model.'))).toEqual(expected);
    expect(await logits(inner('model.language_model.'))).toEqual(expected);
    expect(await logits(inner(''))).toEqual(expected);
  });

  it('uses a stored output matrix even if the configuration ties it, and the table if there is none', async () => {
    const own = await logits(shapes());
    expect(await logits(shapes(), { tie_word_embeddings: true })).toEqual(own);
    const tied = await logits(without(shapes(), 'lm_head.weight'), { tie_word_embeddings: true });
    expect(tied).not.toEqual(own);
    await expect(build(without(shapes(), 'lm_head.weight'))).rejects.toThrow(/no tensor "lm_head.weight"/);
  });

  it('takes the output matrix as table where only that is stored', async () => {
    const all = without(shapes(), 'model.embed_tokens.weight');
    expect((await build(all, { tie_word_embeddings: true })).vocab).toBe(V);
    await expect(build(all)).rejects.toThrow(/no tensor "model.embed_tokens.weight"/);
  });

  it('reads biases as the configuration says, and by looking where it says nothing', async () => {
    const plain = await logits(shapes());
    const some = { ...shapes(), 'model.layers.0.self_attn.k_proj.bias': [4] };
    expect(await logits(some)).not.toEqual(plain);
    await expect(build(some, { attention_bias: false })).rejects.toThrow(/got also .*k_proj\.bias/);
    await expect(build(some, { attention_bias: true })).rejects.toThrow(/no tensor ".*q_proj\.bias"/);
  });

  it('names up to five tensors that nobody reads, and passes over known buffers', async () => {
    const buffers = { ...shapes(), 'model.layers.0.self_attn.rotary_emb.inv_freq': [2] };
    expect((await build(buffers)).hidden).toBe(H);
    const extra = Object.fromEntries(Array.from({ length: 7 }, (_, i) => [`extra.${i}`, [2]]));
    const failed = build({ ...shapes(), ...extra });
    await expect(failed).rejects.toThrow(WeightError);
    await expect(failed).rejects.toThrow(/extra\.0, extra\.1, extra\.2, extra\.3, extra\.4 and 2 more/);
  });

  it('refuses shapes that contradict the configuration', async () => {
    const wrong = { ...shapes(), 'model.layers.0.self_attn.k_proj.weight': [8, H] };
    await expect(build(wrong)).rejects.toThrow(/"model\.layers\.0\.self_attn\.k_proj\.weight": expected shape \[4,8\]/);
    const swapped = { ...shapes(), 'model.layers.0.mlp.down_proj.weight': [I, H] };
    await expect(build(swapped)).rejects.toThrow(/down_proj\.weight": expected shape \[8,6\], got \[6,8\]/);
    const norm = { ...shapes(), 'model.norm.weight': [H + 1] };
    await expect(build(norm)).rejects.toThrow(/"model\.norm\.weight": expected shape \[8\]/);
  });

  it('makes only logits that are wanted, in the order in which they are wanted', async () => {
    const model = await LoadedModel.load(new ReferenceBackend(), 8, { config, source: sourceFrom(shapes()) });
    const all = await model.prefill([1, 5, 2]);
    const some = await model.step([{ track: model.track([1, 5, 2]), count: 3 }], [2, 0]);
    expect([...some]).toEqual([...all.slice(2 * V), ...all.slice(0, V)]);
    expect((await model.step([{ track: model.track([1, 5]), count: 2 }], [])).length).toBe(0);
  });
});
