/** GGUF architectures in Hugging Face terms: class, tensor names, and what their files store differently. */
import { DENSE_ARCHES } from './ggufDense.ts';
import type { GgufFacts } from './ggufExperts.ts';
import * as experts from './ggufExperts.ts';
import * as hybrid from './ggufHybrid.ts';

export interface GgufArch {
  /** The `architectures` entry. `windowed` stands in its place where the file states a sliding window. */
  readonly hf: string;
  readonly windowed?: string;
  readonly modelType: string;
  /** Where blocks lie; `model.layers` when absent. */
  readonly blocks?: string;
  /** Names outside of blocks that differ from `MODEL`. */
  readonly ends?: Readonly<Record<string, string>>;
  /** Layers are of several kinds: those without attention have no key heads, and widths may be left out. */
  readonly mixedLayers?: boolean;
  /** Names of block tensors that differ from `BARE`. */
  readonly bare?: Readonly<Record<string, string>>;
  /** Stems of block tensors that differ from `BLOCK`. */
  readonly names?: Readonly<Record<string, string>>;
  /** Query and key rows are stored so that neighbouring pairs rotate. */
  readonly pairedRows?: boolean;
  /** Norm weights are stored with the one already added. */
  readonly normsAddOne?: boolean;
  /** A part of each head may rotate. */
  readonly partialRotary?: boolean;
  /** Rotation of windowed layers has a base of its own. */
  readonly localRope?: boolean;
  /** Names and configuration of files of the architecture that have experts, where those are another class. */
  readonly withExperts?: Omit<GgufArch, 'withExperts' | 'windowed'>;
  /** Keys of the configuration beyond the common ones, or in place of them. */
  readonly config?: (facts: GgufFacts) => Readonly<Record<string, unknown>>;
  /** The configuration's key of the epsilon of layer norms; norms are RMS norms when absent. */
  readonly epsilon?: string;
  /** Sizes may differ from layer to layer; `config` tells which. */
  readonly layered?: boolean;
  /** The logarithmic multiplier of YaRN divides the magnitude of the rotation. */
  readonly yarnMagnitude?: 'ratio';
  /** Keys and values of all heads are made from a latent. */
  readonly latent?: boolean;
  /** Keys that only some architectures have. */
  readonly reads?: readonly string[];
  /** Blocks that draft tokens are read as layers behind the last one. */
  readonly drafts?: boolean;
  /** Layers of the largest size, which scales queries by hidden size over heads instead of the head size. */
  readonly wideScaleLayers?: number;
}

const MODEL: Readonly<Record<string, string>> = {
  token_embd: 'model.embed_tokens',
  output_norm: 'model.norm',
  output: 'lm_head',
};

const BLOCK: Readonly<Record<string, string>> = {
  attn_norm: 'input_layernorm',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_qkv: 'self_attn.qkv_proj',
  attn_output: 'self_attn.o_proj',
  attn_q_norm: 'self_attn.q_norm',
  attn_k_norm: 'self_attn.k_norm',
  ffn_norm: 'post_attention_layernorm',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
  ffn_gate_inp: 'mlp.gate',
  ffn_gate_exps: 'mlp.experts.gate_proj',
  ffn_up_exps: 'mlp.experts.up_proj',
  ffn_down_exps: 'mlp.experts.down_proj',
  'nextn.eh_proj': 'eh_proj',
  'nextn.enorm': 'enorm',
  'nextn.hnorm': 'hnorm',
  'nextn.embed_tokens': 'embed_tokens',
  'nextn.shared_head_norm': 'shared_head.norm',
  'nextn.shared_head_head': 'shared_head.head',
};

/** Block tensors whose names have no `.weight` or `.bias` of their own. */
const BARE: Readonly<Record<string, string>> = {
  'attn_sinks.weight': 'self_attn.sinks',
  'exp_probs_b.bias': 'mlp.gate.e_score_correction_bias',
};

const SHARED = (name: string): Readonly<Record<string, string>> => ({
  ffn_gate_shexp: `mlp.${name}.gate_proj`,
  ffn_up_shexp: `mlp.${name}.up_proj`,
  ffn_down_shexp: `mlp.${name}.down_proj`,
});

const SPARSE_BLOCK: Readonly<Record<string, string>> = {
  ffn_gate_inp: 'block_sparse_moe.gate',
  ffn_gate_exps: 'block_sparse_moe.experts.gate_proj',
  ffn_up_exps: 'block_sparse_moe.experts.up_proj',
  ffn_down_exps: 'block_sparse_moe.experts.down_proj',
};

const LATENT: Readonly<Record<string, string>> = {
  attn_q_a: 'self_attn.q_a_proj',
  attn_q_a_norm: 'self_attn.q_a_layernorm',
  attn_q_b: 'self_attn.q_b_proj',
  attn_kv_a_mqa: 'self_attn.kv_a_proj_with_mqa',
  attn_kv_a_norm: 'self_attn.kv_a_layernorm',
  attn_kv_b: 'self_attn.kv_b_proj',
  attn_k_b: 'self_attn.k_b_proj',
  attn_v_b: 'self_attn.v_b_proj',
};

const HUNYUAN: Readonly<Record<string, string>> = {
  attn_q_norm: 'self_attn.query_layernorm',
  attn_k_norm: 'self_attn.key_layernorm',
};

const LATER_NORM: Readonly<Record<string, string>> = { post_attention_norm: 'post_attention_layernorm' };

const SANDWICH: Readonly<Record<string, string>> = {
  post_attention_norm: 'post_attention_layernorm',
  ffn_norm: 'pre_feedforward_layernorm',
  post_ffw_norm: 'post_feedforward_layernorm',
};

const SOFTCAPS = ['attn_logit_softcapping', 'final_logit_softcapping'];

/** By `general.architecture`. */
export const GGUF_ARCHES: Readonly<Record<string, GgufArch>> = {
  llama: {
    hf: 'LlamaForCausalLM',
    windowed: 'MistralForCausalLM',
    modelType: 'llama',
    pairedRows: true,
    withExperts: {
      hf: 'MixtralForCausalLM',
      modelType: 'mixtral',
      names: SPARSE_BLOCK,
      pairedRows: true,
      reads: experts.EXPERT_KEYS,
      config: experts.experts,
    },
  },
  qwen2: { hf: 'Qwen2ForCausalLM', modelType: 'qwen2' },
  qwen3: { hf: 'Qwen3ForCausalLM', modelType: 'qwen3' },
  qwen3moe: {
    hf: 'Qwen3MoeForCausalLM',
    modelType: 'qwen3_moe',
    reads: experts.EXPERT_KEYS,
    config: experts.experts,
  },
  qwen2moe: {
    hf: 'Qwen2MoeForCausalLM',
    modelType: 'qwen2_moe',
    names: { ...SHARED('shared_expert'), ffn_gate_inp_shexp: 'mlp.shared_expert_gate' },
    reads: experts.EXPERT_KEYS,
    config: experts.qwen2Experts,
  },
  olmoe: {
    hf: 'OlmoeForCausalLM',
    modelType: 'olmoe',
    reads: [...experts.EXPERT_KEYS, 'attention.clamp_kqv'],
    config: experts.olmoe,
  },
  phimoe: {
    hf: 'PhiMoEForCausalLM',
    modelType: 'phimoe',
    names: SPARSE_BLOCK,
    reads: experts.EXPERT_KEYS,
    config: experts.phiExperts,
  },
  deepseek2: {
    hf: 'DeepseekV2ForCausalLM',
    modelType: 'deepseek_v2',
    names: { ...LATENT, ...SHARED('shared_experts') },
    latent: true,
    drafts: true,
    reads: experts.ROUTING_KEYS,
    config: experts.deepseek,
  },
  glm4moe: {
    hf: 'Glm4MoeForCausalLM',
    modelType: 'glm4_moe',
    names: { ...LATER_NORM, ...SHARED('shared_experts') },
    partialRotary: true,
    drafts: true,
    reads: experts.ROUTING_KEYS,
    config: experts.glmExperts,
  },
  'gpt-oss': {
    hf: 'GptOssForCausalLM',
    modelType: 'gpt_oss',
    names: { ...LATER_NORM, ffn_gate_inp: 'mlp.router' },
    reads: experts.EXPERT_KEYS,
    config: experts.gptOss,
  },
  'hunyuan-dense': {
    hf: 'HunYuanDenseV1ForCausalLM',
    modelType: 'hunyuan_v1_dense',
    names: HUNYUAN,
    config: experts.hunyuan,
  },
  'hunyuan-moe': {
    hf: 'HunYuanMoEV1ForCausalLM',
    modelType: 'hunyuan_v1_moe',
    names: { ...HUNYUAN, ...SHARED('shared_mlp'), ffn_gate_inp: 'mlp.gate.wg' },
    reads: experts.EXPERT_KEYS,
    config: experts.hunyuanExperts,
  },
  ernie4_5: { hf: 'Ernie4_5ForCausalLM', modelType: 'ernie4_5', config: experts.ernieBias },
  'ernie4_5-moe': {
    hf: 'Ernie4_5_MoeForCausalLM',
    modelType: 'ernie4_5_moe',
    names: SHARED('shared_experts'),
    bare: { 'exp_probs_b.bias': 'mlp.moe_statics.e_score_correction_bias' },
    reads: experts.EXPERT_KEYS,
    config: experts.ernieExperts,
  },
  phi3: {
    hf: 'Phi3ForCausalLM',
    modelType: 'phi3',
    names: { ffn_up: 'mlp.gate_up_proj' },
    partialRotary: true,
  },
  gemma: { hf: 'GemmaForCausalLM', modelType: 'gemma', normsAddOne: true },
  gemma2: {
    hf: 'Gemma2ForCausalLM',
    modelType: 'gemma2',
    names: SANDWICH,
    normsAddOne: true,
    reads: SOFTCAPS,
    wideScaleLayers: 46,
  },
  gemma3: {
    hf: 'Gemma3ForCausalLM',
    modelType: 'gemma3_text',
    names: SANDWICH,
    normsAddOne: true,
    localRope: true,
    reads: SOFTCAPS,
    wideScaleLayers: 62,
  },
  smollm3: { hf: 'SmolLM3ForCausalLM', modelType: 'smollm3', pairedRows: true },
  ...DENSE_ARCHES,
  granitehybrid: {
    hf: 'GraniteMoeHybridForCausalLM',
    modelType: 'granitemoehybrid',
    names: hybrid.GRANITE,
    bare: hybrid.MAMBA,
    pairedRows: true,
    mixedLayers: true,
    reads: hybrid.GRANITE_KEYS,
    config: hybrid.granite,
  },
  'falcon-h1': {
    hf: 'FalconH1ForCausalLM',
    modelType: 'falcon_h1',
    ends: { output_norm: 'model.final_layernorm' },
    names: hybrid.FALCON_H1,
    bare: hybrid.MAMBA,
    mixedLayers: true,
    config: hybrid.falconH1,
  },
  qwen3next: {
    hf: 'Qwen3NextForCausalLM',
    modelType: 'qwen3_next',
    names: { ...SHARED('shared_expert'), ...hybrid.DELTA_NET },
    bare: hybrid.DELTA_BARE,
    normsAddOne: true,
    partialRotary: true,
    mixedLayers: true,
    reads: experts.EXPERT_KEYS,
    drafts: true,
    config: hybrid.qwen3Next,
  },
  qwen35: {
    hf: 'Qwen3_5ForCausalLM',
    modelType: 'qwen3_5_text',
    names: hybrid.DELTA_NET,
    bare: hybrid.DELTA_BARE,
    normsAddOne: true,
    partialRotary: true,
    mixedLayers: true,
    drafts: true,
    config: hybrid.qwen35,
  },
  qwen35moe: {
    hf: 'Qwen3_5MoeForCausalLM',
    modelType: 'qwen3_5_moe_text',
    names: { ...SHARED('shared_expert'), ...hybrid.DELTA_NET },
    bare: hybrid.DELTA_BARE,
    normsAddOne: true,
    partialRotary: true,
    mixedLayers: true,
    reads: experts.EXPERT_KEYS,
    drafts: true,
    config: hybrid.qwen35Experts,
  },
  lfm2: {
    hf: 'Lfm2ForCausalLM',
    modelType: 'lfm2',
    ends: hybrid.LFM2_ENDS,
    names: hybrid.LFM2,
    mixedLayers: true,
    config: hybrid.lfm2,
  },
  lfm2moe: {
    hf: 'Lfm2MoeForCausalLM',
    modelType: 'lfm2_moe',
    ends: hybrid.LFM2_ENDS,
    names: hybrid.LFM2,
    bare: { 'exp_probs_b.bias': 'feed_forward.expert_bias' },
    mixedLayers: true,
    reads: experts.ROUTING_KEYS,
    config: hybrid.lfm2Experts,
  },
};

/** `blk.3.attn_q.weight` → `model.layers.3.self_attn.q_proj.weight`; `undefined` for a name the architecture lacks. */
export function hfName(arch: GgufArch, name: string): string | undefined {
  const [, block, whole = name] = /^blk\.(\d+)\.(.+)$/.exec(name) ?? [];
  const at = `${arch.blocks ?? 'model.layers'}.${block}`;
  const bare = { ...BARE, ...arch.bare };
  if (block !== undefined && Object.hasOwn(bare, whole)) return `${at}.${bare[whole]}`;
  const match = /^([\w.]+?)(?:\.(\d+))?\.(weight|bias)$/.exec(whole);
  if (!match) return undefined;
  const [, stem = '', expert, kind] = match;
  const ends = { ...MODEL, ...arch.ends };
  if (block === undefined) return Object.hasOwn(ends, stem) ? `${ends[stem]}.${kind}` : undefined;
  const names = { ...BLOCK, ...arch.names };
  if (expert !== undefined) {
    // Older files keep every expert for itself.
    const found = Object.hasOwn(names, `${stem}_exps`) ? names[`${stem}_exps`] : undefined;
    return found && `${at}.${found.replace('experts.', `experts.${expert}.`)}.${kind}`;
  }
  return Object.hasOwn(names, stem) ? `${at}.${names[stem]}.${kind}` : undefined;
}

/**
 * Hugging Face names of all weights and biases of an architecture with `layers` blocks, and their names in GGUF files: more
 * than one where it depends on the model.
 */
export function ggufNames(arch: GgufArch, layers: number): ReadonlyMap<string, readonly string[]> {
  const out = new Map<string, string[]>();
  const put = (hf: string, name: string) => out.set(hf, [...(out.get(hf) ?? []), name]);
  const add = (stem: string, hf: string, at = '', block = '') => {
    for (const kind of ['weight', 'bias']) put(`${at}${hf}.${kind}`, `${block}${stem}.${kind}`);
  };
  for (const [stem, hf] of Object.entries({ ...arch.ends, ...MODEL, ...arch.ends })) add(stem, hf);
  for (let i = 0; i < layers; i++) {
    const at = `${arch.blocks ?? 'model.layers'}.${i}.`;
    // Names of the architecture's own come first: norms lie elsewhere in some.
    for (const [stem, hf] of Object.entries({ ...arch.names, ...BLOCK, ...arch.names })) add(stem, hf, at, `blk.${i}.`);
    for (const [name, hf] of Object.entries({ ...BARE, ...arch.bare })) put(at + hf, `blk.${i}.${name}`);
  }
  return out;
}
