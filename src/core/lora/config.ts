/** `adapter_config.json` of PEFT: what of it changes the result is read here, or refused. */
import { messageOf } from '../errors.ts';
import { parseJson } from '../io/json.ts';
import { loraError } from './error.ts';
import { compilePattern } from './pattern.ts';

/** Real ones have a few kilobytes; patterns for every module of a large model stay below this. */
export const MAX_CONFIG_BYTES = 2 ** 20;
const MAX_NAMES = 100_000;
const MAX_INDEX = 2 ** 20;

/** Which modules an adapter changes, and how strongly. Names are paths of modules in the model. */
export interface LoraConfig {
  /** Whether the configuration names a module; `false` too for those that it excludes. */
  targets(module: string): boolean;
  /** Parameters it names, by the ends of their paths. */
  readonly parameters: readonly string[];
  rankOf(module: string): number;
  /** What the product of the two matrices is multiplied by. */
  scaleOf(module: string, rank: number): number;
  readonly maxRank: number;
}

/** Keys that must be absent, null, false or empty: what they ask for is not a plain low-rank sum. */
const REFUSED: Readonly<Record<string, string>> = {
  use_dora: 'DoRA',
  use_qalora: 'QALoRA',
  use_bdlora: 'block-diagonal LoRA',
  lora_bias: 'biases',
  modules_to_save: 'whole saved modules',
  trainable_token_indices: 'trained tokens',
  layer_replication: 'replicated layers',
  alora_invocation_tokens: 'activated LoRA',
  arrow_config: 'Arrow routing',
};
/** Initialisations that change the base weights as well. */
const REFUSED_INITS = /^(pissa|olora|corda|loftq|lora_ga)/i;
const NO_TARGETS = /(^|\.)(embed_tokens|embed_in|embed_out|lm_head|wte|wpe|word_embeddings)$/;

/** Reads the text of a configuration. Throws `LoraAdapterError` with code `config`. */
export function parseLoraConfig(text: string, name: string): LoraConfig {
  const raw = objectOf(text, name);
  const bad = (key: string, expected: string): never => {
    const got = JSON.stringify(raw[key]) ?? 'nothing';
    throw loraError('config', `${name}: ${key}: expected ${expected}, got ${got.slice(0, 100)}`);
  };
  if (raw['peft_type'] !== undefined && raw['peft_type'] !== 'LORA') bad('peft_type', 'LORA');
  for (const [key, what] of Object.entries(REFUSED)) {
    if (!isEmpty(raw[key])) bad(key, `nothing: adapters with ${what} are not supported`);
  }
  if (!isEmpty(raw['bias']) && raw['bias'] !== 'none') bad('bias', '"none": trained biases are not supported');
  const init = raw['init_lora_weights'];
  if (typeof init === 'string' && REFUSED_INITS.test(init)) {
    bad('init_lora_weights', 'an initialisation that leaves the base weights alone; convert the adapter to plain LoRA');
  }
  const rank = raw['r'] === undefined ? 8 : wholeNumber(raw['r']);
  const alpha = raw['lora_alpha'] === undefined ? 8 : raw['lora_alpha'];
  if (rank === undefined) return bad('r', 'a whole number above 0');
  if (!isFiniteNumber(alpha)) return bad('lora_alpha', 'a number');
  const ranks = patternTable(raw, 'rank_pattern', (v) => wholeNumber(v) !== undefined, bad);
  const alphas = patternTable(raw, 'alpha_pattern', isFiniteNumber, bad);
  const root = Boolean(raw['use_rslora']);
  const layers = layersOf(raw, bad);
  const wanted = selector(raw['target_modules'], (e) => bad('target_modules', e));
  const excluded = selector(raw['exclude_modules'], (e) => bad('exclude_modules', e));
  const parameters = names(raw['target_parameters'], (e) => bad('target_parameters', e)) ?? [];
  const named = Array.isArray(raw['target_modules']) ? (raw['target_modules'] as string[]) : [];
  const head = [...named, ...parameters.map((p) => p.replace(/\.weight$/, ''))].find((n) => NO_TARGETS.test(n));
  if (head !== undefined) {
    const key = named.includes(head) ? 'target_modules' : 'target_parameters';
    bad(key, `no embedding and no output head, such as ${JSON.stringify(head)}`);
  }
  if (wanted === undefined && parameters.length === 0) bad('target_modules', 'names, a pattern or "all-linear"');
  return {
    parameters,
    targets: (m) => wanted?.(m) === true && excluded?.(m) !== true && layers(m),
    rankOf: (m) => ranks(m) ?? rank,
    scaleOf: (m, r) => (alphas(m) ?? alpha) / (root ? Math.sqrt(r) : r),
    maxRank: Math.max(rank, ...ranks.all),
  };
}

/** Embeddings and output heads, which adapters may not change here. */
export function isHead(module: string): boolean {
  return NO_TARGETS.test(module);
}

function objectOf(text: string, name: string): Record<string, unknown> {
  let raw: unknown;
  try {
    raw = parseJson(text, { name });
  } catch (error) {
    throw loraError('config', messageOf(error));
  }
  if (typeof raw === 'object' && raw !== null && !Array.isArray(raw)) return raw as Record<string, unknown>;
  throw loraError('config', `${name}: expected an object, got ${JSON.stringify(raw)?.slice(0, 100)}`);
}

type Bad = (key: string, expected: string) => never;
type Matcher = (module: string) => boolean;

/** The first pattern that the end of a module's path matches decides. */
function patternTable(raw: Record<string, unknown>, key: string, fits: (v: unknown) => boolean, bad: Bad) {
  const table = raw[key] ?? {};
  if (typeof table !== 'object' || Array.isArray(table)) bad(key, 'an object of numbers');
  const entries = Object.entries(table as Record<string, unknown>);
  if (entries.length > MAX_NAMES || entries.some(([, v]) => !fits(v))) bad(key, 'an object of numbers');
  const plain = new Map<string, readonly [number, number]>();
  const patterns: (readonly [Matcher, number, number])[] = [];
  entries.forEach(([pattern, value], i) => {
    // Plain names are by far the most frequent: a dot matches any character, which no other module differs in.
    if (/^[\w.]+$/.test(pattern)) plain.set(pattern, [value as number, i]);
    else patterns.push([compilePattern(`(?:.*\\.)?(?:${pattern})`), value as number, i]);
  });
  const find = (module: string): number | undefined => {
    let best: readonly [number, number] | undefined;
    for (let at = 0; at >= 0; at = module.indexOf('.', at) + 1 || -1) {
      const entry = plain.get(module.slice(at));
      if (entry && (!best || entry[1] < best[1])) best = entry;
    }
    const found = patterns.find(([matches]) => matches(module));
    return found && (!best || found[2] < best[1]) ? found[1] : best?.[0];
  };
  return Object.assign(find, { all: entries.map(([, v]) => v as number) });
}

function selector(value: unknown, bad: (expected: string) => never): Matcher | undefined {
  if (value === 'all-linear') return () => true;
  if (typeof value === 'string') return compilePattern(value);
  const list = names(value, bad);
  if (list === undefined) return undefined;
  const set = new Set(list);
  return (module) => {
    for (let at = 0; at >= 0; at = module.indexOf('.', at) + 1 || -1) if (set.has(module.slice(at))) return true;
    return false;
  };
}

function names(value: unknown, bad: (expected: string) => never): readonly string[] | undefined {
  if (isEmpty(value)) return undefined;
  const fits = Array.isArray(value) && value.length <= MAX_NAMES && value.every((v) => typeof v === 'string' && v);
  return fits ? (value as string[]) : bad('a list of names');
}

function layersOf(raw: Record<string, unknown>, bad: Bad): Matcher {
  const value = raw['layers_to_transform'];
  if (isEmpty(value) && typeof value !== 'number') return () => true;
  const list = Array.isArray(value) ? value : [value];
  if (list.length > MAX_NAMES || !list.every((v) => Number.isInteger(v) && v >= 0 && v < MAX_INDEX)) {
    bad('layers_to_transform', 'layer numbers');
  }
  const layers = new Set(list as number[]);
  return (module) => {
    const found = /\.(\d+)\./.exec(module);
    return found !== null && layers.has(Number(found[1]));
  };
}

function isEmpty(value: unknown): boolean {
  if (value === undefined || value === null || value === false || value === '') return true;
  return Array.isArray(value) ? value.length === 0 : typeof value === 'object' && Object.keys(value).length === 0;
}

function isFiniteNumber(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value);
}

function wholeNumber(value: unknown): number | undefined {
  return Number.isInteger(value) && (value as number) > 0 && (value as number) < MAX_INDEX
    ? (value as number)
    : undefined;
}
