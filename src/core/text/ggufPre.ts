/** Pre-tokenizers of byte-level vocabularies in GGUF files, by their name in `tokenizer.ggml.pre`. */
import { GPT2_PATTERN } from './pretokenize.ts';

export interface GgufPreTokenizer {
  /** Patterns that cut the text one after the other; what they do not match stays together. */
  readonly patterns: readonly string[];
  /** A word that is a token is not taken apart. */
  readonly ignoreMerges?: boolean;
  /** A begin token is added unless the file says otherwise. */
  readonly addBos?: boolean;
  /** Text is read as characters with `▁` for spaces, not as bytes. */
  readonly plainText?: boolean;
}

const CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const SPACES = '\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';
const WORD = '[^\\r\\n\\p{L}\\p{N}]?\\p{L}+';
const SYMBOLS = ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*';
const UPPER = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]';
const LOWER = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]';
const LLAMA3 = `${CONTRACTION}|${WORD}|\\p{N}{1,3}|${SYMBOLS}|${SPACES}`;
const QWEN2 = `${CONTRACTION}|${WORD}|\\p{N}|${SYMBOLS}|${SPACES}`;
const CJK = '[一-龥぀-ゟ゠-ヿ]+';
const ASCII_SYMBOL_WORD = '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+';
const DEEPSEEK3 = `${ASCII_SYMBOL_WORD}|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|${SPACES}`;

/** Words that are capitals, then small letters; `suffix` may follow either form. */
function cased(upper: string, lower: string, suffix: string, digits: string, symbols: string): string {
  const lead = '[^\\r\\n\\p{L}\\p{N}]?';
  return `${lead}${upper}*${lower}+${suffix}|${lead}${upper}+${lower}*${suffix}|${digits}|${symbols}|${SPACES}`;
}

const O200K_SYMBOLS = ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*';
const O200K = cased(UPPER, LOWER, `${CONTRACTION}?`, '\\p{N}{1,3}', O200K_SYMBOLS);
const TEKKEN = cased(UPPER, LOWER, '', '\\p{N}', O200K_SYMBOLS);
const NOT_HAN = '&&[^\\p{Han}]]';
const KIMI = `\\p{Han}+|${cased(
  UPPER.replace(/\]$/, NOT_HAN),
  LOWER.replace(/\]$/, NOT_HAN),
  `${CONTRACTION}?`,
  '\\p{N}{1,3}',
  SYMBOLS,
)}`;
const BLOOM = ' ?[^(\\s|.,!?…。，、।۔،)]+';
const DIGIT_TRIPLES = '\\d{1,3}(?=(?:\\d{3})*\\b)';

const gpt2: GgufPreTokenizer = { patterns: [GPT2_PATTERN] };
const digits: GgufPreTokenizer = { patterns: ['\\p{N}', GPT2_PATTERN] };
const llama3: GgufPreTokenizer = { patterns: [LLAMA3] };
const llama3Whole: GgufPreTokenizer = { patterns: [LLAMA3], ignoreMerges: true, addBos: true };
const qwen2: GgufPreTokenizer = { patterns: [QWEN2] };
const o200k: GgufPreTokenizer = { patterns: [O200K] };
const deepseek3: GgufPreTokenizer = { patterns: ['\\p{N}{1,3}', CJK, DEEPSEEK3] };
const bailing: GgufPreTokenizer = {
  patterns: [
    `'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+`,
  ],
};
const bloom: GgufPreTokenizer = { patterns: [BLOOM] };
const plainLines: GgufPreTokenizer = { patterns: ['[^\\n]+|[\\n]+'], plainText: true };
const tinyAya: GgufPreTokenizer = { patterns: [DIGIT_TRIPLES, O200K] };

const GROUPS: readonly (readonly [names: string, GgufPreTokenizer])[] = [
  ['default', { patterns: ['[\\p{P}\\$\\+<=>\\^~\\|]+', GPT2_PATTERN, '\\p{N}+', '[0-9][0-9][0-9]'] }],
  ['llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano', llama3Whole],
  ['dbrx smaug-bpe glm4 chatglm-bpe', llama3],
  [
    'gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert mpt olmo jais trillion ' +
      'granite-docling exaone4 jina-v1-en jina-v2-code roberta-bpe',
    gpt2,
  ],
  ['starcoder refact command-r smollm codeshell exaone minerva-7b mellum2', digits],
  ['qwen2 deepseek-r1-qwen kormo f2llmv2 stablelm2 hunyuan megrez grok-2 solar-open', qwen2],
  ['gpt-4o llama4 kanana2 talkie minimax-m2', o200k],
  ['tekken', { patterns: [TEKKEN], ignoreMerges: true, addBos: true }],
  ['deepseek-v3 hunyuan-dense joyai-llm hy_v4', deepseek3],
  ['spark2_5', { patterns: ['\\p{N}{1,3}', CJK, DEEPSEEK3.replace('[\\r\\n]*|\\s*[\\r\\n]+', '|[\\r\\n]'), '\\p{N}'] }],
  [
    'deepseek-llm',
    {
      patterns: [
        '[\\r\\n]',
        // Letters with case, but not the Georgian ones that got case later.
        '\\s?[\\p{LC}&&[^\\u10d0-\\u10ff]]+',
        '\\s?[!-/:-~！-／：-～‘-‟　-。]+',
        '\\s+$',
        '[一-龥ࠀ-一가-퟿]+',
        '\\p{N}+',
      ],
    },
  ],
  ['deepseek-coder', { patterns: ['[\\r\\n]', '\\s?\\p{L}+', '\\s?\\p{P}+', '[一-龥ࠀ-一가-퟿]+', '\\p{N}'] }],
  ['falcon', { patterns: ['[\\p{P}\\$\\+<=>\\^~\\|`]+', GPT2_PATTERN, '[0-9][0-9][0-9]'] }],
  [
    'qwen35',
    {
      patterns: [
        QWEN2.replace(WORD, '[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+').replace('[^\\s\\p{L}', '[^\\s\\p{L}\\p{M}'),
      ],
    },
  ],
  ['ufakzeka', { patterns: [QWEN2.slice(CONTRACTION.length + 1)] }],
  ['seed-coder', { patterns: [QWEN2.replace(SYMBOLS, ' ?[^\\s\\p{L}\\p{N}\\r\\n]+')] }],
  [
    'exaone-moe',
    {
      patterns: [
        `${CONTRACTION}|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+`,
      ],
    },
  ],
  ['laguna', { patterns: ['[^\\n]+|[\\n]+', QWEN2] }],
  ['minicpm5', { patterns: ['\\p{N}{1,3}', QWEN2.replace('|\\p{N}|', '|\\p{N}+|')], ignoreMerges: true }],
  ['bailingmoe bailingmoe2 llada-moe', bailing],
  ['poro-chat bloom gpt3-finnish', bloom],
  ['viking', { patterns: [BLOOM, '\\p{N}'] }],
  ['granite-embed-multi-97m', { patterns: [O200K], ignoreMerges: true }],
  ['tiny_aya cohere2moe', tinyAya],
  ['superbpe', { patterns: ['\\p{N}+', '(?=(\\d{3})+(?!\\d))'] }],
  ['kimi-k2', { patterns: [KIMI] }],
  [
    'youtu',
    {
      patterns: [
        '[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+',
        O200K.replace('\\p{N}{1,3}', '\\p{N}'),
      ],
      ignoreMerges: true,
    },
  ],
  [
    'afmoe',
    {
      patterns: [
        '\\p{N}{1,3}(?=(?:\\p{N}{3})*(?!\\p{N}))',
        '[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+',
        DEEPSEEK3,
      ],
    },
  ],
  [
    'jais-2',
    {
      patterns: [
        `${CONTRACTION}|${WORD}|\\p{N}{1,3}|${SYMBOLS}|\\s*[\\r\\n]+|${[512, 256, 128, 64, 32, 16, 8, 4, '1,2']
          .map((n) => `\\s{${n}}(?!\\S)|`)
          .join('')}\\s`,
      ],
    },
  ],
  [
    'chameleon',
    {
      patterns: [
        '<sentinel:[0-9]+>',
        '(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z',
        '([\\t\\n]|    |  )',
        '\\p{N}',
        '[\\p{P}!-/:-@\\[-`{-~]',
        GPT2_PATTERN,
      ],
      addBos: true,
    },
  ],
  ['gemma4 granite-embed-multi-311m', { ...plainLines, addBos: true }],
  ['sarvam-moe', plainLines],
];

/** The pre-tokenizer of a name, or `undefined`. */
export function ggufPreTokenizer(name: string): GgufPreTokenizer | undefined {
  return GROUPS.find(([names]) => names.split(' ').includes(name))?.[1];
}

/** All names, for messages. */
export function ggufPreTokenizerNames(): readonly string[] {
  return GROUPS.flatMap(([names]) => names.split(' '));
}
