/** `rope_parameters` as the keys and tensors of GGUF files: the way back of `ggufRope.ts`. */
import { UnsupportedError } from '../errors.ts';
import type { Rope } from '../model.ts';
import { isRecord } from '../schema.ts';
import type { GgufKeyValues } from './ggufExportKeys.ts';
import type { GgufArch } from './ggufNames.ts';

type Config = Readonly<Record<string, unknown>>;

export interface RopeSizes {
  readonly headDim: number;
  /** Entries of a head that rotate where the configuration does not say. */
  readonly rotated?: number | undefined;
  /** As the model has it, for a base that the configuration leaves to the class. */
  readonly table: unknown;
  readonly localTable: unknown;
}

interface GgufRope {
  /** Without the prefix of the architecture. */
  readonly keys: GgufKeyValues;
  readonly tensors: readonly (readonly [name: string, values: Float32Array])[];
}

const DEFAULT_BASE = 10000;
/** Of published bases that no configuration states. */
const BASE_DIGITS = 5;
/** Divides a frequency until nothing is left of it. */
const STILL = 1e30;

/** Whether a value of a parsed configuration is a rotation. */
export const isRope = (v: unknown): v is Rope => isRecord(v) && typeof v['fill'] === 'function';

const number = (c: Config, key: string): number | undefined => (typeof c[key] === 'number' ? c[key] : undefined);

/** @throws UnsupportedError for kinds of rotation that such files cannot express. */
export function ropeKeys(c: Config, arch: GgufArch, sizes: RopeSizes): GgufRope {
  const older =
    isRecord(c['rope_scaling']) && Object.keys(c['rope_scaling']).length > 0 ? c['rope_scaling'] : undefined;
  const own = c['rope_parameters'];
  const nested = isRecord(own) && ['full_attention', 'sliding_attention'].some((k) => isRecord(own[k]));
  const part = (kind: string): Config => (isRecord(own) && isRecord(own[kind]) ? (own[kind] as Config) : {});
  const full = { ...(nested ? part('full_attention') : isRecord(own) ? own : {}), ...older };
  const theta =
    number(full, 'rope_theta') ?? number(c, 'rope_theta') ?? number(c, 'rotary_emb_base') ?? baseOf(sizes.table);
  const local =
    number(part('sliding_attention'), 'rope_theta') ?? number(c, 'rope_local_base_freq') ?? baseOf(sizes.localTable);
  const { headDim } = sizes;
  const proportional = full['rope_type'] === 'proportional';
  const share =
    number(full, 'partial_rotary_factor') ?? number(c, 'partial_rotary_factor') ?? number(c, 'rotary_pct') ?? 1;
  const rotated = sizes.rotated ?? (arch.partialRotary ? Math.trunc(headDim * share) : headDim);
  const { keys, tensors } = scaling(full, c, arch, { theta, rotated, share: proportional ? share : 1 });
  return {
    keys: {
      'rope.freq_base': theta,
      'rope.dimension_count': rotated,
      'rope.freq_base_swa': arch.localRope ? local : undefined,
      ...keys,
    },
    tensors,
  };
}

/** The base of a plain rotation, from its slowest frequency. */
function baseOf(table: unknown): number {
  if (!isRope(table) || table.width < 4) return DEFAULT_BASE;
  const out = new Float32Array(table.width);
  table.fill(out, 0, 1, 1);
  const slowest = Math.atan2(out[table.width - 1]!, out[table.width / 2 - 1]!);
  return Math.fround(Number((slowest ** (-table.width / (table.width - 2))).toPrecision(BASE_DIGITS)));
}

interface Turn {
  readonly theta: number;
  readonly rotated: number;
  readonly share: number;
}

function scaling(rope: Config, c: Config, arch: GgufArch, { theta, rotated, share }: Turn): GgufRope {
  const type = rope['rope_type'] ?? rope['type'] ?? 'default';
  const max = number(c, 'max_position_embeddings') ?? 0;
  const original =
    number(c, 'original_max_position_embeddings') ?? number(rope, 'original_max_position_embeddings') ?? max;
  const factor = number(rope, 'factor');
  switch (type) {
    case 'default':
      return { keys: {}, tensors: [] };
    case 'linear':
      return { keys: { 'rope.scaling.type': 'linear', 'rope.scaling.factor': factor }, tensors: [] };
    case 'yarn':
      return { keys: yarn(rope, arch, factor ?? max / original, original), tensors: [] };
    case 'dynamic': {
      // A fixed stretch of the base, which is written instead.
      const alpha = number(rope, 'alpha');
      if (alpha === undefined) throw refused(String(type));
      return { keys: { 'rope.freq_base': theta * alpha ** (rotated / (rotated - 2)) }, tensors: [] };
    }
    case 'llama3':
      return { keys: {}, tensors: [['rope_freqs.weight', llama3Factors(rope, theta, rotated, original)]] };
    case 'proportional': {
      const turning = Math.floor((share * rotated) / 2);
      const divisors = Float32Array.from({ length: rotated / 2 }, (_, i) => (i < turning ? (factor ?? 1) : STILL));
      return { keys: {}, tensors: [['rope_freqs.weight', divisors]] };
    }
    case 'longrope':
    case 'su': {
      const ratio = factor ?? max / original;
      const scale = ratio <= 1 ? 1 : Math.sqrt(1 + Math.log(ratio) / Math.log(original));
      const mscale = number(rope, 'short_mscale') ?? number(rope, 'long_mscale');
      const factors = (key: string) => Float32Array.from(Array.isArray(rope[key]) ? (rope[key] as number[]) : []);
      return {
        keys: {
          'rope.scaling.type': 'longrope',
          'rope.scaling.original_context_length': original,
          'rope.scaling.attn_factor': mscale ?? number(rope, 'attention_factor') ?? scale,
        },
        tensors: [
          ['rope_factors_long.weight', factors('long_factor')],
          ['rope_factors_short.weight', factors('short_factor')],
        ],
      };
    }
    default:
      throw refused(String(type));
  }
}

/** Readers multiply the magnitude that belongs to the factor; `attn_factor` is what is left of the stated one. */
function yarn(rope: Config, arch: GgufArch, factor: number, original: number): GgufKeyValues {
  const grown = (m: number) => (factor <= 1 ? 1 : 0.1 * m * Math.log(factor) + 1);
  const [one, all] = [number(rope, 'mscale'), number(rope, 'mscale_all_dim')];
  const stated = number(rope, 'attention_factor');
  const magnitude = stated ?? (one && all ? grown(one) / grown(all) : grown(1));
  const logarithmic = Boolean(arch.latent || arch.yarnMagnitude) && all !== undefined && all !== 0;
  const usual = logarithmic ? (arch.latent ? 1 : grown(1) / grown(all)) : grown(1);
  const left = magnitude / usual;
  return {
    'rope.scaling.type': 'yarn',
    'rope.scaling.factor': factor,
    'rope.scaling.original_context_length': original,
    'rope.scaling.yarn_log_multiplier': logarithmic ? (arch.latent ? 0.1 * all : all) : undefined,
    'rope.scaling.yarn_beta_fast': number(rope, 'beta_fast'),
    'rope.scaling.yarn_beta_slow': number(rope, 'beta_slow'),
    'rope.scaling.attn_factor': Math.abs(left - 1) < 1e-6 ? undefined : left,
  };
}

/** Divisors of the frequencies: long waves are stretched, short ones stay, those between are mixed. */
function llama3Factors(rope: Config, theta: number, dims: number, original: number): Float32Array {
  const factor = number(rope, 'factor') ?? 8;
  const low = number(rope, 'low_freq_factor') ?? 1;
  const high = number(rope, 'high_freq_factor') ?? 4;
  return Float32Array.from({ length: dims / 2 }, (_, i) => {
    const wave = 2 * Math.PI * theta ** ((2 * i) / dims);
    if (wave < original / high) return 1;
    if (wave > original / low) return factor;
    const smooth = (original / wave - low) / (high - low);
    return 1 / ((1 - smooth) / factor + smooth);
  });
}

function refused(type: string): UnsupportedError {
  return new UnsupportedError(
    `rope_type: expected default, linear, yarn, llama3, longrope or proportional, got ${type}`,
    { feature: `rope_type ${type} in GGUF files` },
  );
}
