/** The list of text architectures, and nothing else knows them all. Code of a family is loaded when it is asked for. */
import { UnsupportedError } from '../core/errors.ts';
import type { Arch } from '../core/model.ts';
import * as s from '../core/schema.ts';
import type { TextArch } from './arch.ts';

export interface SupportedArch {
  /** For tables: `Llama`. */
  readonly title: string;
  /** `architectures` entries of config.json. */
  readonly hf: readonly string[];
  /** `model_type` values, for files that name no architecture. */
  readonly modelTypes: readonly string[];
  /** `general.architecture` values of GGUF files. */
  readonly gguf: readonly string[];
}

interface Row extends SupportedArch {
  load(): Promise<TextArch<unknown>>;
}

/** Erases the configuration's type: what `config` returns is only ever given to `build` of the same architecture. */
function erased<C>(arch: TextArch<C>): TextArch<unknown> {
  return { config: (raw) => arch.config(raw), build: (w, c, extras) => arch.build(w, c as C, extras) };
}

const rows: readonly Row[] = [
  {
    title: 'Llama',
    hf: ['LlamaForCausalLM'],
    modelTypes: ['llama'],
    gguf: ['llama'],
    load: async () => erased((await import('./text/llama.ts')).llama),
  },
  {
    title: 'Mistral',
    hf: ['MistralForCausalLM'],
    modelTypes: ['mistral'],
    gguf: [],
    load: async () => erased((await import('./text/llama.ts')).mistral),
  },
  {
    title: 'Ministral',
    hf: ['MinistralForCausalLM'],
    modelTypes: ['ministral'],
    gguf: [],
    load: async () => erased((await import('./text/llama.ts')).ministral),
  },
  {
    title: 'Ministral 3',
    hf: ['Ministral3ForCausalLM'],
    modelTypes: ['ministral3'],
    gguf: ['mistral3'],
    load: async () => erased((await import('./text/llama.ts')).ministral3),
  },
  {
    title: 'Seed-OSS',
    hf: ['SeedOssForCausalLM'],
    modelTypes: ['seed_oss'],
    gguf: ['seed_oss'],
    load: async () => erased((await import('./text/llama.ts')).seedOss),
  },
  {
    title: 'Granite',
    hf: ['GraniteForCausalLM'],
    modelTypes: ['granite'],
    gguf: ['granite'],
    load: async () => erased((await import('./text/llama.ts')).granite),
  },
  {
    title: 'Qwen 2',
    hf: ['Qwen2ForCausalLM'],
    modelTypes: ['qwen2'],
    gguf: ['qwen2'],
    load: async () => erased((await import('./text/qwen.ts')).qwen2),
  },
  {
    title: 'Qwen 3',
    hf: ['Qwen3ForCausalLM'],
    modelTypes: ['qwen3'],
    gguf: ['qwen3'],
    load: async () => erased((await import('./text/qwen.ts')).qwen3),
  },
  {
    title: 'Qwen 3 MoE',
    hf: ['Qwen3MoeForCausalLM'],
    modelTypes: ['qwen3_moe'],
    gguf: ['qwen3moe'],
    load: async () => erased((await import('./text/qwen.ts')).qwen3Moe),
  },
  {
    title: 'Qwen3-Next',
    hf: ['Qwen3NextForCausalLM'],
    modelTypes: ['qwen3_next'],
    gguf: ['qwen3next'],
    load: async () => erased((await import('./text/qwenHybrid.ts')).qwen3Next),
  },
  {
    title: 'Qwen 3.5',
    hf: ['Qwen3_5ForCausalLM'],
    modelTypes: ['qwen3_5_text'],
    gguf: ['qwen35'],
    load: async () => erased((await import('./text/qwenHybrid.ts')).qwen35),
  },
  {
    title: 'Qwen 3.5 MoE',
    hf: ['Qwen3_5MoeForCausalLM'],
    modelTypes: ['qwen3_5_moe_text'],
    gguf: ['qwen35moe'],
    load: async () => erased((await import('./text/qwenHybrid.ts')).qwen35Moe),
  },
  {
    title: 'Phi 2',
    hf: ['PhiForCausalLM'],
    modelTypes: ['phi'],
    gguf: ['phi2'],
    load: async () => erased((await import('./text/phi.ts')).phi),
  },
  {
    title: 'Phi 3',
    hf: ['Phi3ForCausalLM'],
    modelTypes: ['phi3'],
    gguf: ['phi3'],
    load: async () => erased((await import('./text/phi3.ts')).phi3),
  },
  {
    title: 'Gemma',
    hf: ['GemmaForCausalLM'],
    modelTypes: ['gemma'],
    gguf: ['gemma'],
    load: async () => erased((await import('./text/gemma.ts')).gemma),
  },
  {
    title: 'Gemma 2',
    hf: ['Gemma2ForCausalLM'],
    modelTypes: ['gemma2'],
    gguf: ['gemma2'],
    load: async () => erased((await import('./text/gemma.ts')).gemma2),
  },
  {
    title: 'Gemma 3',
    hf: ['Gemma3ForCausalLM'],
    modelTypes: ['gemma3_text'],
    gguf: ['gemma3'],
    load: async () => erased((await import('./text/gemma3.ts')).gemma3),
  },
  {
    title: 'Gemma 4',
    hf: ['Gemma4ForCausalLM'],
    modelTypes: ['gemma4_text'],
    gguf: ['gemma4'],
    load: async () => erased((await import('./text/gemma4.ts')).gemma4),
  },
  {
    title: 'GLM 4',
    hf: ['GlmForCausalLM'],
    modelTypes: ['glm'],
    gguf: ['chatglm'],
    load: async () => erased((await import('./text/glm.ts')).glm),
  },
  {
    title: 'GLM 4 (0414)',
    hf: ['Glm4ForCausalLM'],
    modelTypes: ['glm4'],
    gguf: ['glm4'],
    load: async () => erased((await import('./text/glm.ts')).glm4),
  },
  {
    title: 'Starcoder 2',
    hf: ['Starcoder2ForCausalLM'],
    modelTypes: ['starcoder2'],
    gguf: ['starcoder2'],
    load: async () => erased((await import('./text/layerNorm.ts')).starcoder2),
  },
  {
    title: 'Nemotron',
    hf: ['NemotronForCausalLM'],
    modelTypes: ['nemotron'],
    gguf: ['nemotron'],
    load: async () => erased((await import('./text/layerNorm.ts')).nemotron),
  },
  {
    title: 'OLMo',
    hf: ['OlmoForCausalLM'],
    modelTypes: ['olmo'],
    gguf: ['olmo'],
    load: async () => erased((await import('./text/olmo.ts')).olmo),
  },
  {
    title: 'OLMo 2',
    hf: ['Olmo2ForCausalLM'],
    modelTypes: ['olmo2'],
    gguf: ['olmo2'],
    load: async () => erased((await import('./text/olmo.ts')).olmo2),
  },
  {
    title: 'OLMo 3',
    hf: ['Olmo3ForCausalLM'],
    modelTypes: ['olmo3'],
    gguf: ['olmo2'],
    load: async () => erased((await import('./text/olmo.ts')).olmo3),
  },
  {
    title: 'Cohere',
    hf: ['CohereForCausalLM'],
    modelTypes: ['cohere'],
    gguf: ['command-r'],
    load: async () => erased((await import('./text/cohere.ts')).cohere),
  },
  {
    title: 'Cohere 2',
    hf: ['Cohere2ForCausalLM'],
    modelTypes: ['cohere2'],
    gguf: ['cohere2'],
    load: async () => erased((await import('./text/cohere.ts')).cohere2),
  },
  {
    title: 'GPT-2',
    hf: ['GPT2LMHeadModel'],
    modelTypes: ['gpt2'],
    gguf: ['gpt2'],
    load: async () => erased((await import('./text/gpt2.ts')).gpt2),
  },
  {
    title: 'GPT-NeoX',
    hf: ['GPTNeoXForCausalLM'],
    modelTypes: ['gpt_neox'],
    gguf: ['gptneox'],
    load: async () => erased((await import('./text/gptNeox.ts')).gptNeox),
  },
  {
    title: 'StableLM',
    hf: ['StableLmForCausalLM'],
    modelTypes: ['stablelm'],
    gguf: ['stablelm'],
    load: async () => erased((await import('./text/stablelm.ts')).stablelm),
  },
  {
    title: 'EXAONE 4',
    hf: ['Exaone4ForCausalLM'],
    modelTypes: ['exaone4'],
    gguf: ['exaone4'],
    load: async () => erased((await import('./text/exaone4.ts')).exaone4),
  },
  {
    title: 'SmolLM 3',
    hf: ['SmolLM3ForCausalLM'],
    modelTypes: ['smollm3'],
    gguf: ['smollm3'],
    load: async () => erased((await import('./text/smollm3.ts')).smollm3),
  },
  {
    title: 'Granite hybrid',
    hf: ['GraniteMoeHybridForCausalLM'],
    modelTypes: ['granitemoehybrid'],
    gguf: ['granitehybrid'],
    load: async () => erased((await import('./text/granite.ts')).graniteHybrid),
  },
  {
    title: 'Falcon-H1',
    hf: ['FalconH1ForCausalLM'],
    modelTypes: ['falcon_h1'],
    gguf: ['falcon-h1'],
    load: async () => erased((await import('./text/falconH1.ts')).falconH1),
  },
  {
    title: 'LFM2',
    hf: ['Lfm2ForCausalLM'],
    modelTypes: ['lfm2'],
    gguf: ['lfm2'],
    load: async () => erased((await import('./text/lfm2.ts')).lfm2),
  },
  {
    title: 'LFM2 MoE',
    hf: ['Lfm2MoeForCausalLM'],
    modelTypes: ['lfm2_moe'],
    gguf: ['lfm2moe'],
    load: async () => erased((await import('./text/lfm2.ts')).lfm2Moe),
  },
  {
    title: 'Mixtral',
    hf: ['MixtralForCausalLM'],
    modelTypes: ['mixtral'],
    gguf: ['llama'],
    load: async () => erased((await import('./text/mixtral.ts')).mixtral),
  },
  {
    title: 'Phi 3.5 MoE',
    hf: ['PhimoeForCausalLM', 'PhiMoEForCausalLM'],
    modelTypes: ['phimoe'],
    gguf: ['phimoe'],
    load: async () => erased((await import('./text/mixtral.ts')).phiMoe),
  },
  {
    title: 'DeepSeek V2',
    hf: ['DeepseekV2ForCausalLM'],
    modelTypes: ['deepseek_v2'],
    gguf: ['deepseek2'],
    load: async () => erased((await import('./text/deepseek.ts')).deepseekV2),
  },
  {
    title: 'DeepSeek V3',
    hf: ['DeepseekV3ForCausalLM'],
    modelTypes: ['deepseek_v3'],
    gguf: ['deepseek2'],
    load: async () => erased((await import('./text/deepseek.ts')).deepseekV3),
  },
  {
    title: 'GLM 4 MoE',
    hf: ['Glm4MoeForCausalLM'],
    modelTypes: ['glm4_moe'],
    gguf: ['glm4moe'],
    load: async () => erased((await import('./text/glm4Moe.ts')).glm4Moe),
  },
  {
    title: 'GLM 4 MoE Lite',
    hf: ['Glm4MoeLiteForCausalLM'],
    modelTypes: ['glm4_moe_lite'],
    gguf: [],
    load: async () => erased((await import('./text/glm4Moe.ts')).glm4MoeLite),
  },
  {
    title: 'HunYuan',
    hf: ['HunYuanDenseV1ForCausalLM'],
    modelTypes: ['hunyuan_v1_dense'],
    gguf: ['hunyuan-dense'],
    load: async () => erased((await import('./text/hunyuan.ts')).hunyuanDense),
  },
  {
    title: 'HunYuan MoE',
    hf: ['HunYuanMoEV1ForCausalLM', 'HunYuanMoEForCausalLM'],
    modelTypes: ['hunyuan_v1_moe'],
    gguf: ['hunyuan-moe'],
    load: async () => erased((await import('./text/hunyuan.ts')).hunyuanMoe),
  },
  {
    title: 'GPT-OSS',
    hf: ['GptOssForCausalLM'],
    modelTypes: ['gpt_oss'],
    gguf: ['gpt-oss'],
    load: async () => erased((await import('./text/gptOss.ts')).gptOss),
  },
  {
    title: 'Qwen 2 MoE',
    hf: ['Qwen2MoeForCausalLM'],
    modelTypes: ['qwen2_moe'],
    gguf: ['qwen2moe'],
    load: async () => erased((await import('./text/qwen.ts')).qwen2Moe),
  },
  {
    title: 'Ernie 4.5',
    hf: ['Ernie4_5ForCausalLM', 'Ernie4_5_ForCausalLM'],
    modelTypes: ['ernie4_5'],
    gguf: ['ernie4_5'],
    load: async () => erased((await import('./text/ernie.ts')).ernie),
  },
  {
    title: 'Ernie 4.5 MoE',
    hf: ['Ernie4_5_MoeForCausalLM'],
    modelTypes: ['ernie4_5_moe'],
    gguf: ['ernie4_5-moe'],
    load: async () => erased((await import('./text/ernie.ts')).ernieMoe),
  },
  {
    title: 'OLMoE',
    hf: ['OlmoeForCausalLM'],
    modelTypes: ['olmoe'],
    gguf: ['olmoe'],
    load: async () => erased((await import('./text/olmoe.ts')).olmoe),
  },
];

/** Every architecture that can be loaded, for listings. */
export function supported(): readonly SupportedArch[] {
  return rows.map(({ title, hf, modelTypes, gguf }) => ({ title, hf, modelTypes, gguf }));
}

const naming = s.object({
  architectures: s.or(s.array(s.string), []),
  model_type: s.optional(s.string),
});

/**
 * The architecture a configuration names.
 * @throws UnsupportedError naming the nearest supported ones.
 */
export async function archOf(config: unknown): Promise<Arch> {
  const { architectures, model_type: type } = naming.parse(config, '');
  const row =
    rows.find((r) => architectures.some((name) => r.hf.includes(name))) ??
    (architectures.length === 0 && type !== undefined ? rows.find((r) => r.modelTypes.includes(type)) : undefined);
  if (row) return { hf: row.hf, gguf: row.gguf, ...(await row.load()) };
  const asked = architectures[0] ?? type;
  if (asked === undefined) {
    throw s.configError(
      'architectures',
      'the name of an architecture',
      config && (config as { architectures?: unknown }).architectures,
    );
  }
  const near = nearest(
    asked,
    rows.flatMap((r) => r.hf),
  );
  throw new UnsupportedError(
    `architecture: expected a supported one, got "${asked.slice(0, QUOTED)}"; nearest: ${near.join(', ')}`,
    {
      feature: asked,
    },
  );
}

/** Names offered in place of an unknown one. */
const OFFERED = 3;
/** Characters of an unknown name that a message quotes. */
const QUOTED = 100;

/** Names that share most pairs of letters with `name`. */
function nearest(name: string, names: readonly string[]): readonly string[] {
  const pairs = (text: string) => {
    const lower = text.replace(/For\w+$/, '').toLowerCase();
    return new Set(Array.from({ length: Math.max(lower.length - 1, 0) }, (_, i) => lower.slice(i, i + 2)));
  };
  const wanted = pairs(name.slice(0, QUOTED));
  const score = (other: string) => {
    const own = pairs(other);
    const common = [...own].filter((p) => wanted.has(p)).length;
    return common / Math.max(own.size + wanted.size - common, 1);
  };
  return names
    .map((n) => ({ n, at: score(n) }))
    .sort((a, b) => b.at - a.at)
    .slice(0, OFFERED)
    .map(({ n }) => n);
}
