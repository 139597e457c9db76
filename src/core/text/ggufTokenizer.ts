/** A tokenizer.json as the `tokenizer.ggml.*` keys of GGUF files. */
import { UnsupportedError } from '../errors.ts';
import { type GgufBytes, ggufValue } from '../io/ggufWrite.ts';
import { isRecord } from '../schema.ts';
import { ggufPreTokenizer, ggufPreTokenizerNames } from './ggufPre.ts';
import { GPT2_PATTERN } from './pretokenize.ts';

const NORMAL = 1;
const UNKNOWN = 2;
const CONTROL = 3;
const USER_DEFINED = 4;
const UNUSED = 5;
const BYTE = 6;

/** Names of pre-tokenizers to prefer where several split alike: readers have known these the longest. */
const PRE_NAMES = ['llama-bpe', 'qwen2', 'gpt-2', 'smollm', 'gpt-4o', 'tekken', 'deepseek-v3', 'dbrx'];
/** No vocabulary is larger. */
const MAX_TOKENS = 1 << 22;

type Json = Readonly<Record<string, unknown>>;

export interface TokenizerFiles {
  readonly tokenizer: Json;
  /** tokenizer_config.json. */
  readonly settings: Json;
  readonly chatTemplate: string | undefined;
  readonly bos: number | undefined;
  readonly eos: number | undefined;
  /** Rows of the token table: ids up to there get a text. */
  readonly vocabSize: number;
}

/**
 * The keys for byte-level vocabularies (`gpt2`) and for those made by SentencePiece with merges (`llama`).
 * @throws UnsupportedError for other kinds, and for splitting rules without a name in GGUF files.
 */
export function ggufTokenizer(files: TokenizerFiles): Map<string, GgufBytes> {
  const { tokenizer, settings } = files;
  const model = record(tokenizer['model']);
  if (model['type'] !== 'BPE') throw unsupported('model', 'BPE', model['type']);
  const vocab = record(model['vocab']);
  const merges = (Array.isArray(model['merges']) ? model['merges'] : []).map((m) =>
    Array.isArray(m) ? m.map(String).join(' ') : String(m),
  );
  const spm = model['byte_fallback'] === true;
  checkNormalizer(tokenizer['normalizer'], spm);
  const { texts, types } = tokensOf(files, vocab, spm);
  const { string, strings, i32s, f32s, u32, bool } = ggufValue;
  const out = new Map<string, GgufBytes>();
  const put = (key: string, value: GgufBytes) => out.set(`tokenizer.ggml.${key}`, value);
  put('model', string(spm ? 'llama' : 'gpt2'));
  put('pre', string(spm ? 'default' : preName(tokenizer)));
  put('tokens', strings(texts));
  if (spm) put('scores', f32s(scoresOf(texts, merges)));
  put('token_type', i32s(types));
  if (!spm) put('merges', strings(merges));
  const ids = new Map(texts.map((text, id) => [text, id]));
  const named = (key: string) => {
    const value = settings[key];
    const text = isRecord(value) ? value['content'] : value;
    return typeof text === 'string' ? ids.get(text) : undefined;
  };
  const around = affixesOf(tokenizer['post_processor']);
  const byText = (text: string | undefined) => (text === undefined ? undefined : ids.get(text));
  const special = {
    bos: named('bos_token') ?? files.bos ?? byText(around.first),
    eos: named('eos_token') ?? files.eos ?? byText(around.last),
    unknown: named('unk_token') ?? byText(typeof model['unk_token'] === 'string' ? model['unk_token'] : undefined),
    padding: named('pad_token'),
  };
  for (const [name, id] of Object.entries(special)) if (id !== undefined) put(`${name}_token_id`, u32(id));
  const adds = (key: string, text: string | undefined, id: number | undefined) =>
    typeof settings[key] === 'boolean' ? settings[key] : id !== undefined && byText(text) === id;
  put('add_bos_token', bool(adds('add_bos_token', around.first, special.bos)));
  put('add_eos_token', bool(adds('add_eos_token', around.last, special.eos)));
  if (spm) put('add_space_prefix', bool(prefixesSpace(tokenizer)));
  if (files.chatTemplate !== undefined) out.set('tokenizer.chat_template', string(files.chatTemplate));
  return out;
}

function tokensOf(files: TokenizerFiles, vocab: Json, spm: boolean) {
  const added = Array.isArray(files.tokenizer['added_tokens']) ? files.tokenizer['added_tokens'].filter(isRecord) : [];
  const entries = Object.entries(vocab);
  let count = Math.max(files.vocabSize, entries.length);
  for (const { id } of added) if (typeof id === 'number') count = Math.max(count, id + 1);
  if (count > MAX_TOKENS) throw unsupported('vocab', `at most ${MAX_TOKENS} tokens`, count);
  const texts = Array.from({ length: count }, (_, id) => `[PAD${id}]`);
  const types = new Int32Array(count).fill(UNUSED);
  for (const [text, id] of entries) {
    if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= count) throw unsupported(text, 'an id', id);
    texts[id as number] = text;
    types[id as number] = spm && /^<0x[0-9A-F]{2}>$/.test(text) ? BYTE : NORMAL;
  }
  const unknown = record(files.tokenizer['model'])['unk_token'];
  for (const { id, content, special } of added) {
    if (typeof id !== 'number' || typeof content !== 'string') continue;
    texts[id] = content;
    types[id] = special === true ? (spm && content === unknown ? UNKNOWN : CONTROL) : USER_DEFINED;
  }
  return { texts, types };
}

/** The earlier a merge, the higher the score of what it makes; tokens that no merge makes come last. */
function scoresOf(texts: readonly string[], merges: readonly string[]): Float32Array {
  const rank = new Map<string, number>();
  merges.forEach((merge, i) => {
    const joined = merge.replace(' ', '');
    if (!rank.has(joined)) rank.set(joined, i);
  });
  return Float32Array.from(texts, (text) => -(rank.get(text) ?? merges.length));
}

function preName(tokenizer: Json): string {
  const patterns = patternsOf(tokenizer['pre_tokenizer']);
  const whole = record(tokenizer['model'])['ignore_merges'] === true;
  const alike = [...PRE_NAMES, ...ggufPreTokenizerNames()].filter((name) => {
    const known = ggufPreTokenizer(name);
    return !known?.plainText && known?.patterns.join('\n') === patterns.join('\n');
  });
  const found = alike.find((name) => (ggufPreTokenizer(name)?.ignoreMerges ?? false) === whole) ?? alike[0];
  if (found !== undefined) return found;
  throw unsupported('pre_tokenizer', 'splitting rules with a name in GGUF files', patterns.join(' then '));
}

function patternsOf(step: unknown): readonly string[] {
  const s = record(step);
  switch (s['type']) {
    case 'Sequence':
      return (Array.isArray(s['pretokenizers']) ? s['pretokenizers'] : []).flatMap(patternsOf);
    case 'Split':
      return [String(record(s['pattern'])['Regex'] ?? record(s['pattern'])['String'])];
    case 'Digits':
      return [s['individual_digits'] === true ? '\\p{N}' : '\\p{N}+'];
    case 'ByteLevel':
      if (s['add_prefix_space'] === true) throw unsupported('pre_tokenizer', 'no space before the text', 'one');
      return s['use_regex'] === false ? [] : [GPT2_PATTERN];
    default:
      throw unsupported('pre_tokenizer', 'Split, Digits or ByteLevel', s['type']);
  }
}

/** The tokens before and after a text, where there is one of them. */
function affixesOf(step: unknown): { readonly first?: string | undefined; readonly last?: string | undefined } {
  const s = record(step);
  switch (s['type']) {
    case 'Sequence':
      return (
        (Array.isArray(s['processors']) ? s['processors'] : []).map(affixesOf).find((a) => a.first ?? a.last) ?? {}
      );
    case 'TemplateProcessing': {
      const parts = Array.isArray(s['single']) ? s['single'].map(record) : [];
      const at = parts.findIndex((part) => 'Sequence' in part);
      const text = (part: Json | undefined) => {
        const id = record(part?.['SpecialToken'])['id'];
        return typeof id === 'string' ? id : undefined;
      };
      return {
        first: at === 1 ? text(parts[0]) : undefined,
        last: at === parts.length - 2 ? text(parts[at + 1]) : undefined,
      };
    }
    default:
      return {};
  }
}

/** Changes of the text that readers make as well: marks for spaces. Composing characters is left to whoever writes the text. */
function checkNormalizer(step: unknown, spm: boolean): void {
  const s = record(step);
  if (s['type'] === 'Sequence' && Array.isArray(s['normalizers'])) {
    for (const one of s['normalizers']) checkNormalizer(one, spm);
    return;
  }
  const marks = s['type'] === 'Prepend' || (s['type'] === 'Replace' && record(s['pattern'])['String'] === ' ');
  if (s['type'] === undefined || s['type'] === 'NFC' || (spm && marks)) return;
  throw unsupported('normalizer', 'none or NFC', s['type']);
}

function prefixesSpace(tokenizer: Json): boolean {
  const text = JSON.stringify([tokenizer['normalizer'] ?? null, tokenizer['pre_tokenizer'] ?? null]);
  return /"type":"Prepend"/.test(text) || /"prepend_scheme":"(first|always)"/.test(text);
}

function record(value: unknown): Json {
  return isRecord(value) ? value : {};
}

function unsupported(what: string, expected: string, got: unknown): UnsupportedError {
  const shown = String(got).slice(0, 200);
  return new UnsupportedError(`tokenizer.json: ${what}: expected ${expected}, got ${shown}`, {
    feature: 'GGUF tokenizer',
  });
}
