/** Stored hybrid models, rewritten the way GGUF files have them: names, orders, values. Logits must stay what they were. */
import { readFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import { ReferenceBackend } from '../../src/backends/reference/index.ts';
import { storageType } from '../../src/core/dtype.ts';
import type { Checkpoint, TensorInfo } from '../../src/core/io/checkpoint.ts';
import { ggufModel } from '../../src/core/io/ggufModel.ts';
import { bytesSource } from '../../src/core/io/memory.ts';
import { readValues } from '../../src/core/weights.ts';
import { codec, fixtures, furthest, LoadedModel, openModel, readPrompts } from './harness.ts';

interface Matrix {
  readonly shape: readonly number[];
  readonly values: Float32Array;
}
type Count =
  | 'attention_multiplier'
  | 'conv_L_cache'
  | 'embedding_multiplier'
  | 'head_dim'
  | 'hidden_size'
  | 'intermediate_size'
  | 'linear_conv_kernel_dim'
  | 'linear_key_head_dim'
  | 'linear_num_key_heads'
  | 'linear_num_value_heads'
  | 'linear_value_head_dim'
  | 'logits_scaling'
  | 'mamba_d_conv'
  | 'mamba_d_state'
  | 'mamba_expand'
  | 'mamba_n_groups'
  | 'mamba_n_heads'
  | 'max_position_embeddings'
  | 'moe_intermediate_size'
  | 'norm_eps'
  | 'num_attention_heads'
  | 'num_dense_layers'
  | 'num_experts'
  | 'num_experts_per_tok'
  | 'num_hidden_layers'
  | 'num_key_value_heads'
  | 'num_local_experts'
  | 'residual_multiplier'
  | 'rms_norm_eps'
  | 'shared_intermediate_size';
interface Config extends Readonly<Record<Count | FalconFactor, number>> {
  readonly mlp_multipliers: readonly number[];
  readonly ssm_multipliers: readonly number[];
  readonly layer_types: readonly string[];
  readonly model_type: string;
  readonly position_embedding_type: string | null;
  readonly rope_parameters: { readonly rope_theta: number; readonly partial_rotary_factor: number };
}
type FalconFactor =
  | 'attention_in_multiplier'
  | 'attention_out_multiplier'
  | 'key_multiplier'
  | 'lm_head_multiplier'
  | 'mamba_d_ssm'
  | 'ssm_in_multiplier'
  | 'ssm_out_multiplier';
type Rewrite = (name: string, t: Matrix, c: Config) => readonly (readonly [string, Matrix])[];

const map = (t: Matrix, f: (v: number) => number): Matrix => ({ ...t, values: t.values.map(f) });
const flat = (t: Matrix, ...shape: number[]): Matrix => ({ ...t, shape });
/** Rows in another order: row `i` of the result is row `from[i]`. */
const rows = (t: Matrix, from: readonly number[]): Matrix => {
  const width = t.values.length / (t.shape[0] as number);
  const values = new Float32Array(from.length * width);
  from.forEach((r, i) => {
    values.set(t.values.subarray(r * width, (r + 1) * width), i * width);
  });
  return { shape: [from.length, ...t.shape.slice(1)], values };
};
const columns = (t: Matrix, from: readonly number[]): Matrix => {
  const width = t.shape[1] as number;
  return { ...t, values: t.values.map((_, i) => t.values[i - (i % width) + (from[i % width] as number)]!) };
};
const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);

/** Rows of each head in neighbouring pairs. */
const paired = (t: Matrix, heads: number): Matrix => {
  const dim = (t.shape[0] as number) / heads;
  return rows(
    t,
    range(0, heads * dim).map((r) => {
      const inHead = r % dim;
      return r - inHead + (inHead % 2) * (dim / 2) + Math.floor(inHead / 2);
    }),
  );
};

const stems: Record<string, string> = {
  'model.embed_tokens': 'token_embd',
  'model.norm': 'output_norm',
  'model.final_layernorm': 'output_norm',
  'model.embedding_norm': 'token_embd_norm',
  lm_head: 'output',
};
const block = (name: string, table: Record<string, string>): string => {
  const top = name.replace(/\.weight$/, '');
  if (stems[top]) return `${stems[top]}.weight`;
  const [, layer, rest] = /^model\.layers\.(\d+)\.(.+)$/.exec(name) as unknown as [string, string, string];
  const found = Object.entries(table).find(([from]) => rest === from || rest.startsWith(`${from}.`));
  if (!found) throw new Error(`no name for ${name}`);
  return `blk.${layer}.${found[1]}${rest.slice(found[0].length)}`;
};

const attention = {
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'self_attn.q_norm': 'attn_q_norm',
  'self_attn.k_norm': 'attn_k_norm',
  input_layernorm: 'attn_norm',
};

const mambaNames = {
  'mamba.in_proj': 'ssm_in',
  'mamba.out_proj': 'ssm_out',
  'mamba.conv1d': 'ssm_conv1d',
  'mamba.norm': 'ssm_norm',
  'mamba.dt_bias': 'ssm_dt.bias',
  'mamba.A_log': 'ssm_a',
  'mamba.D': 'ssm_d',
};
/** Tensors of a Mamba 2 layer beside its matrices, which have another value or shape in files. */
const mambaTensor = (name: string, t: Matrix, c: Config): Matrix | undefined => {
  const decay = () => map(t, (v) => -Math.exp(v));
  if (/A_log$/.test(name)) return flat(decay(), c.mamba_n_heads, 1);
  if (/mamba\.D$/.test(name)) return flat(t, c.mamba_n_heads, 1);
  if (/mamba\.norm/.test(name)) return flat(t, c.mamba_n_groups, t.values.length / c.mamba_n_groups);
  if (/conv1d\.weight/.test(name)) return flat(t, t.shape[0] as number, t.shape[2] as number);
  return undefined;
};

const granite: Rewrite = (name, t, c) => {
  const table = {
    ...attention,
    post_attention_layernorm: 'ffn_norm',
    ...mambaNames,
    'block_sparse_moe.router.layer': 'ffn_gate_inp',
    'block_sparse_moe.input_linear': 'in',
    'block_sparse_moe.output_linear': 'ffn_down_exps',
    'shared_mlp.input_linear': 'shared_in',
    'shared_mlp.output_linear': c.num_local_experts ? 'ffn_down_shexp' : 'ffn_down',
  };
  const to = block(name, table);
  const small = mambaTensor(name, t, c);
  if (small) return [[to, small]];
  if (/q_proj/.test(name)) return [[to, paired(t, c.num_attention_heads)]];
  if (/k_proj/.test(name)) return [[to, paired(t, c.num_key_value_heads)]];
  if (/shared_mlp\.input/.test(name)) {
    const half = (t.shape[0] as number) / 2;
    const ending = c.num_local_experts ? '_shexp.weight' : '.weight';
    const as = (stem: string) => to.replace('shared_in.weight', `ffn_${stem}${ending}`);
    return [
      [as('gate'), rows(t, range(0, half))],
      [as('up'), rows(t, range(half, 2 * half))],
    ];
  }
  if (/sparse_moe\.input/.test(name)) {
    const [experts, both, hidden] = t.shape as [number, number, number];
    const half = both / 2;
    const all = flat(t, experts * both, hidden);
    const part = (from: number) =>
      rows(
        all,
        range(0, experts).flatMap((e) => range(e * both + from, e * both + from + half)),
      );
    const as = (stem: string) => to.replace('in.weight', `ffn_${stem}_exps.weight`);
    return [
      [as('gate'), flat(part(0), experts, half, hidden)],
      [as('up'), flat(part(half), experts, half, hidden)],
    ];
  }
  return [[to, t]];
};

/** Factors of all parts go into the weights; the output matrix, whose factor is another, is no longer the table. */
const falcon: Rewrite = (name, t, c) => {
  const to = block(name, {
    ...attention,
    pre_ff_layernorm: 'ffn_norm',
    'feed_forward.gate_proj': 'ffn_gate',
    'feed_forward.up_proj': 'ffn_up',
    'feed_forward.down_proj': 'ffn_down',
    ...mambaNames,
  });
  const times = (factor: number) => map(t, (v) => v * factor);
  // A factor of the input does not touch the bias.
  const input = (factor: number) => (name.endsWith('.bias') ? 1 : factor);
  if (/embed_tokens/.test(name)) {
    return [
      [to, times(c.embedding_multiplier)],
      ['output.weight', times(c.lm_head_multiplier)],
    ];
  }
  const small = mambaTensor(name, t, c);
  if (small) return [[to, small]];
  if (/[qv]_proj/.test(name)) return [[to, times(input(c.attention_in_multiplier))]];
  if (/k_proj/.test(name)) return [[to, times(c.key_multiplier * input(c.attention_in_multiplier))]];
  if (/o_proj/.test(name)) return [[to, times(c.attention_out_multiplier)]];
  if (/out_proj/.test(name)) return [[to, times(c.ssm_out_multiplier)]];
  if (/gate_proj/.test(name)) return [[to, times(c.mlp_multipliers[0] as number)]];
  if (/down_proj/.test(name)) return [[to, times(c.mlp_multipliers[1] as number)]];
  if (/in_proj/.test(name)) {
    const shared = c.mamba_n_groups * c.mamba_d_state;
    const sizes = [c.mamba_d_ssm, c.mamba_d_ssm, shared, shared, c.mamba_n_heads];
    const factors = sizes.flatMap((n, i) => new Array<number>(n).fill(c.ssm_multipliers[i] as number));
    const width = t.values.length / (t.shape[0] as number);
    const scaled = t.values.map((v, i) => v * (factors[Math.floor(i / width)] as number) * input(c.ssm_in_multiplier));
    return [[to, { ...t, values: scaled }]];
  }
  return [[to, t]];
};

const mlp = {
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
  'mlp.gate': 'ffn_gate_inp',
  'mlp.shared_expert_gate': 'ffn_gate_inp_shexp',
  'mlp.shared_expert.gate_proj': 'ffn_gate_shexp',
  'mlp.shared_expert.up_proj': 'ffn_up_shexp',
  'mlp.shared_expert.down_proj': 'ffn_down_shexp',
};

const qwen: Rewrite = (name, t, c) => {
  const table = {
    ...attention,
    ...mlp,
    post_attention_layernorm: 'post_attention_norm',
    'linear_attn.in_proj_qkvz': 'qkvz',
    'linear_attn.in_proj_qkv': 'attn_qkv',
    'linear_attn.in_proj_z': 'attn_gate',
    'linear_attn.in_proj_ba': 'ssm_ba',
    'linear_attn.in_proj_b': 'ssm_beta',
    'linear_attn.in_proj_a': 'ssm_alpha',
    'linear_attn.conv1d': 'ssm_conv1d',
    'linear_attn.norm': 'ssm_norm',
    'linear_attn.out_proj': 'ssm_out',
    'linear_attn.dt_bias': 'ssm_dt.bias',
    'linear_attn.A_log': 'ssm_a',
  };
  const to = block(name, table);
  const { linear_num_key_heads: keyHeads, linear_num_value_heads: heads } = c;
  const { linear_key_head_dim: keyDim, linear_value_head_dim: dim } = c;
  const keys = keyHeads * keyDim;
  const served = heads / keyHeads;
  const tiled = c.model_type !== 'qwen3_next';
  /** Value heads in turn: the first of every key head, then the second ones. */
  const turned = (each: number, from = 0) =>
    range(0, heads).flatMap((h) => {
      const stored = tiled ? (h % keyHeads) * served + Math.floor(h / keyHeads) : h;
      return range(from + stored * each, from + (stored + 1) * each);
    });
  if (/A_log$/.test(name)) return [[to, map(rows(t, turned(1)), (v) => -Math.exp(v))]];
  if (/dt_bias$|in_proj_[ab]\./.test(name)) return [[to, rows(t, turned(1))]];
  if (/in_proj_z\./.test(name)) return [[to, rows(t, turned(dim))]];
  if (/in_proj_qkv\./.test(name)) return [[to, rows(t, [...range(0, 2 * keys), ...turned(dim, 2 * keys)])]];
  if (/conv1d/.test(name)) {
    const taps = flat(t, t.shape[0] as number, t.shape[2] as number);
    return [[to, rows(taps, [...range(0, 2 * keys), ...turned(dim, 2 * keys)])]];
  }
  if (/linear_attn\.out_proj/.test(name)) return [[to, columns(t, turned(dim))]];
  if (/in_proj_qkvz/.test(name)) {
    const values = served * dim;
    const stride = 2 * keyDim + 2 * values;
    const part = (from: number, count: number) =>
      range(0, keyHeads).flatMap((k) => range(k * stride + from, k * stride + from + count));
    const qkv = [...part(0, keyDim), ...part(keyDim, keyDim), ...part(2 * keyDim, values)];
    return [
      [to.replace('qkvz', 'attn_qkv'), rows(t, qkv)],
      [to.replace('qkvz', 'attn_gate'), rows(t, part(2 * keyDim + values, values))],
    ];
  }
  if (/norm\.weight$/.test(name) && !/linear_attn\.norm/.test(name)) return [[to, map(t, (v) => v + 1)]];
  return [[to, t]];
};

const lfm2: Rewrite = (name, t) => {
  const table = {
    ...attention,
    operator_norm: 'attn_norm',
    ffn_norm: 'ffn_norm',
    'self_attn.out_proj': 'attn_output',
    'self_attn.q_layernorm': 'attn_q_norm',
    'self_attn.k_layernorm': 'attn_k_norm',
    'conv.conv': 'shortconv.conv',
    'conv.in_proj': 'shortconv.in_proj',
    'conv.out_proj': 'shortconv.out_proj',
    'feed_forward.w1': 'ffn_gate',
    'feed_forward.w2': 'ffn_down',
    'feed_forward.w3': 'ffn_up',
    'feed_forward.gate': 'ffn_gate_inp',
    'feed_forward.expert_bias': 'exp_probs_b.bias',
  };
  const to = block(name, table);
  if (/conv\.conv\.weight/.test(name)) return [[to, flat(t, t.shape[0] as number, t.shape[2] as number)]];
  return [[to, t]];
};

const common = (c: Config) => ({
  block_count: c.num_hidden_layers,
  context_length: c.max_position_embeddings,
  embedding_length: c.hidden_size,
  'attention.head_count': c.num_attention_heads,
  'attention.head_count_kv': c.num_key_value_heads,
  'attention.layer_norm_rms_epsilon': c.rms_norm_eps ?? c.norm_eps,
  'rope.freq_base': c.rope_parameters.rope_theta,
  ...(c.head_dim ? { 'attention.key_length': c.head_dim, 'attention.value_length': c.head_dim } : {}),
});
const expertKeys = (c: Config) => ({
  expert_count: c.num_experts,
  expert_used_count: c.num_experts_per_tok,
  expert_feed_forward_length: c.moe_intermediate_size,
});
const kvByLayer = (c: Config) => ({
  'attention.head_count_kv': c.layer_types.map((t) => (t === 'full_attention' ? c.num_key_value_heads : 0)),
});
const deltaKeys = (c: Config) => ({
  ...common(c),
  'rope.dimension_count': Math.floor(c.head_dim * c.rope_parameters.partial_rotary_factor),
  'ssm.conv_kernel': c.linear_conv_kernel_dim,
  'ssm.state_size': c.linear_key_head_dim,
  'ssm.group_count': c.linear_num_key_heads,
  'ssm.time_step_rank': c.linear_num_value_heads,
  'ssm.inner_size': c.linear_value_head_dim * c.linear_num_value_heads,
  full_attention_interval: 4,
});
const graniteKeys = (c: Config) => ({
  ...common(c),
  ...kvByLayer(c),
  feed_forward_length: c.intermediate_size,
  'attention.scale': c.attention_multiplier,
  embedding_scale: c.embedding_multiplier,
  residual_scale: c.residual_multiplier,
  logit_scale: c.logits_scaling,
  expert_shared_feed_forward_length: c.shared_intermediate_size,
  ...(c.num_local_experts ? { expert_count: c.num_local_experts, expert_used_count: c.num_experts_per_tok } : {}),
  'rope.scaling.finetuned': c.position_embedding_type === 'rope',
  'ssm.conv_kernel': c.mamba_d_conv,
  'ssm.state_size': c.mamba_d_state,
  'ssm.group_count': c.mamba_n_groups,
  'ssm.inner_size': c.mamba_expand * c.hidden_size,
  'ssm.time_step_rank': c.mamba_n_heads,
});
const falconKeys = (c: Config) => ({
  ...common(c),
  feed_forward_length: c.intermediate_size,
  'ssm.conv_kernel': c.mamba_d_conv,
  'ssm.state_size': c.mamba_d_state,
  'ssm.group_count': c.mamba_n_groups,
  'ssm.inner_size': c.mamba_d_ssm,
  'ssm.time_step_rank': c.mamba_n_heads,
});
const lfm2Keys = (c: Config) => ({
  ...common(c),
  ...kvByLayer(c),
  feed_forward_length: c.intermediate_size,
  'shortconv.l_cache': c.conv_L_cache,
});

const cases: readonly [string, string, Rewrite, (c: Config) => Record<string, unknown>][] = [
  ['granitemoehybrid', 'granitehybrid', granite, graniteKeys],
  ['granitemoehybrid_dense_rope', 'granitehybrid', granite, graniteKeys],
  ['granitemoehybrid_groups', 'granitehybrid', granite, graniteKeys],
  [
    'qwen3_next',
    'qwen3next',
    qwen,
    (c) => ({ ...deltaKeys(c), ...expertKeys(c), feed_forward_length: c.intermediate_size }),
  ],
  ['qwen3_5_text', 'qwen35', qwen, (c) => ({ ...deltaKeys(c), feed_forward_length: c.intermediate_size })],
  ['qwen3_5_text_uneven', 'qwen35', qwen, (c) => ({ ...deltaKeys(c), feed_forward_length: c.intermediate_size })],
  ['qwen3_5_moe_text', 'qwen35moe', qwen, (c) => ({ ...deltaKeys(c), ...expertKeys(c) })],
  ['lfm2', 'lfm2', lfm2, lfm2Keys],
  [
    'lfm2_moe',
    'lfm2moe',
    lfm2,
    (c) => ({
      ...lfm2Keys(c),
      ...expertKeys(c),
      leading_dense_block_count: c.num_dense_layers,
      expert_gating_func: 2,
    }),
  ],
];

/** Experts that are stored one by one, as one tensor of each kind. */
const EXPERT = /^(model\.layers\.\d+\.(?:mlp|feed_forward)\.experts)\.(\d+)\.(\w+)\.weight$/;
const KINDS: Record<string, string> = {
  gate_proj: 'gate',
  w1: 'gate',
  up_proj: 'up',
  w3: 'up',
  down_proj: 'down',
  w2: 'down',
};

async function rewritten(name: string, arch: string, rewrite: Rewrite, keys: (c: Config) => Record<string, unknown>) {
  const folder = new URL(`${name}/`, fixtures);
  const config = JSON.parse(readFileSync(new URL('config.json', folder), 'utf8')) as Config;
  const { source } = await openModel(folder);
  const tensors = new Map<string, Matrix>();
  for (const from of source.names()) {
    const t = source.get(from)!;
    const matrix = { shape: t.shape, values: await readValues(t, codec) };
    const expert = EXPERT.exec(from);
    if (!expert) {
      for (const [to, changed] of rewrite(from, matrix, config)) tensors.set(to, changed);
      continue;
    }
    const [, at, index, stem] = expert as unknown as [string, string, string, string];
    const to = `blk.${at.split('.')[2]}.ffn_${KINDS[stem]}_exps.weight`;
    const all = tensors.get(to) ?? {
      shape: [config.num_experts, ...t.shape],
      values: new Float32Array(config.num_experts * matrix.values.length),
    };
    all.values.set(matrix.values, Number(index) * matrix.values.length);
    tensors.set(to, all);
  }
  const infos = [...tensors].map(([to, { shape, values }]): [string, TensorInfo] => {
    const bytes = bytesSource(new Uint8Array(values.buffer));
    return [to, { name: to, type: storageType('F32'), shape, offset: 0, bytes: values.byteLength, source: bytes }];
  });
  const metadata = Object.entries(keys(config)).map(([key, value]): [string, unknown] => [`${arch}.${key}`, value]);
  const checkpoint: Checkpoint = {
    tensors: new Map(infos),
    metadata: new Map([['general.architecture', arch], ...metadata]),
    close: async () => {},
  };
  return { folder, model: await ggufModel(checkpoint) };
}

describe('rewritten as GGUF', () => {
  const backend = new ReferenceBackend();
  afterAll(() => backend.dispose());

  it.each(cases)('%s as %s', async (name, arch, rewrite, keys) => {
    const { folder, model } = await rewritten(name, arch, rewrite, keys);
    const loaded = await LoadedModel.load(backend, 8, model);
    for (const p of await readPrompts(folder)) {
      expect(furthest(await loaded.prefill(p.ids), p.logits)).toBeLessThan(2e-4);
    }
    loaded.dispose();
  });

  it('falcon_h1 as falcon-h1, whose files have norms behind gates', async () => {
    const { folder, model } = await rewritten('falcon_h1', 'falcon-h1', falcon, falconKeys);
    const { config, source } = await openModel(folder);
    const gateFirst = { ...(config as object), mamba_norm_before_gate: false };
    const expected = await LoadedModel.load(backend, 8, { config: gateFirst, source });
    const loaded = await LoadedModel.load(backend, 8, model);
    for (const { ids } of await readPrompts(folder)) {
      expect(furthest(await loaded.prefill(ids), await expected.prefill(ids))).toBeLessThan(2e-4);
    }
    loaded.dispose();
    expected.dispose();
  });
});
