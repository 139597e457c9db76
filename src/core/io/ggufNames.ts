/** GGUF architectures in Hugging Face terms: class, tensor names, and what their files store differently. */

export interface GgufArch {
  /** The `architectures` entry. `windowed` stands in its place where the file states a sliding window. */
  readonly hf: string;
  readonly windowed?: string;
  readonly modelType: string;
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
  /** Layers route to experts. */
  readonly experts?: boolean;
  /** Keys that only some architectures have. */
  readonly reads?: readonly string[];
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
};

const SANDWICH: Readonly<Record<string, string>> = {
  post_attention_norm: 'post_attention_layernorm',
  ffn_norm: 'pre_feedforward_layernorm',
  post_ffw_norm: 'post_feedforward_layernorm',
};

const SOFTCAPS = ['attn_logit_softcapping', 'final_logit_softcapping'];

/** By `general.architecture`. */
export const GGUF_ARCHES: Readonly<Record<string, GgufArch>> = {
  llama: { hf: 'LlamaForCausalLM', windowed: 'MistralForCausalLM', modelType: 'llama', pairedRows: true },
  qwen2: { hf: 'Qwen2ForCausalLM', modelType: 'qwen2' },
  qwen3: { hf: 'Qwen3ForCausalLM', modelType: 'qwen3' },
  qwen3moe: {
    hf: 'Qwen3MoeForCausalLM',
    modelType: 'qwen3_moe',
    experts: true,
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
};

/** `blk.3.attn_q.weight` → `model.layers.3.self_attn.q_proj.weight`; `undefined` for a name the architecture lacks. */
export function hfName(arch: GgufArch, name: string): string | undefined {
  const match = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(name);
  if (!match) return undefined;
  const [, block, stem = '', kind] = match;
  if (block === undefined) return Object.hasOwn(MODEL, stem) ? `${MODEL[stem]}.${kind}` : undefined;
  const names = { ...BLOCK, ...arch.names };
  return Object.hasOwn(names, stem) ? `model.layers.${block}.${names[stem]}.${kind}` : undefined;
}
