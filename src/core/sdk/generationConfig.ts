/** The sampling defaults a checkpoint brings along, and how they fill what a request leaves open. */
import type { SamplingParams } from '../engine/types.ts';
import { configError } from '../schema.ts';

/** Defaults of `generation_config.json`; absent fields have none. */
export interface GenerationDefaults {
  /** The checkpoint asks for the most likely token (`do_sample: false`); `topK` is 1 then. */
  readonly greedy?: boolean;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  /** Tokens that are never to be chosen. */
  readonly suppressTokens?: readonly number[];
  /** The checkpoint's own idea of a length; not applied to requests. */
  readonly maxNewTokens?: number;
  readonly eosIds: readonly number[];
}

const SUPPRESSED = -1e9;
const MAX_IDS = 1 << 20;

/**
 * Reads the generation fields of `generation_config.json`, or of `config.json` (its `text_config` included) where the
 * former is absent. `name` stands in errors.
 */
export function generationDefaults(raw: unknown, name: string): GenerationDefaults {
  const root = isObject(raw) ? raw : {};
  const nested = isObject(root['text_config']) ? root['text_config'] : {};
  const get = (key: string): unknown => root[key] ?? nested[key] ?? undefined;
  const real = (key: string): number | undefined => {
    const value = get(key);
    if (value === undefined) return undefined;
    if (typeof value !== 'number' || !Number.isFinite(value)) fail(name, key, 'a number', value);
    return value;
  };
  const ids = (key: string): number[] => {
    const value = get(key);
    const list = value === undefined ? [] : Array.isArray(value) ? value : [value];
    if (list.length > MAX_IDS) fail(name, key, `at most ${MAX_IDS} token ids`, list.length);
    for (const id of list) {
      // -1 is written where a checkpoint has no such token.
      if (!(typeof id === 'number' && Number.isInteger(id) && id >= -1 && id < 2 ** 32))
        fail(name, key, 'token ids', id);
    }
    return (list as number[]).filter((id) => id >= 0);
  };
  const greedy = get('do_sample') === false;
  const suppressTokens = ids('suppress_tokens');
  return {
    ...optional('temperature', greedy ? undefined : real('temperature')),
    ...optional('topK', greedy ? 1 : positive(real('top_k'))),
    ...(greedy ? { greedy } : {}),
    ...optional('topP', real('top_p')),
    ...optional('minP', real('min_p')),
    ...optional('repetitionPenalty', positive(real('repetition_penalty'))),
    ...optional('maxNewTokens', positive(real('max_new_tokens'))),
    ...(suppressTokens.length > 0 ? { suppressTokens } : {}),
    eosIds: ids('eos_token_id'),
  };
}

/**
 * Fills unset fields of `sampling` with the model's defaults. Fields that are set stay, and a request that sets a
 * temperature is not made greedy.
 */
export function fillDefaults(sampling: SamplingParams, defaults: GenerationDefaults): SamplingParams {
  const suppressed = defaults.suppressTokens?.filter((id) => !sampling.logitsBias?.has(id)) ?? [];
  const filled = {
    ...optional('temperature', sampling.temperature ?? defaults.temperature),
    ...optional(
      'topK',
      sampling.topK ?? (defaults.greedy && sampling.temperature !== undefined ? undefined : defaults.topK),
    ),
    ...optional('topP', sampling.topP ?? defaults.topP),
    ...optional('minP', sampling.minP ?? defaults.minP),
    ...optional('repetitionPenalty', sampling.repetitionPenalty ?? defaults.repetitionPenalty),
  };
  const bias =
    suppressed.length === 0
      ? sampling.logitsBias
      : new Map([...(sampling.logitsBias ?? []), ...suppressed.map((id) => [id, SUPPRESSED] as const)]);
  return { ...sampling, ...filled, ...(bias ? { logitsBias: bias } : {}) };
}

function positive(value: number | undefined): number | undefined {
  return value !== undefined && value > 0 ? value : undefined;
}

function optional<K extends string, V>(key: K, value: V | undefined): { [P in K]?: V } {
  return (value === undefined ? {} : { [key]: value }) as { [P in K]?: V };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function fail(name: string, key: string, expected: string, got: unknown): never {
  throw configError(`${name}: ${key}`, expected, got);
}
