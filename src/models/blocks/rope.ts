/** Rotary position embeddings of every published kind, in the float32 arithmetic of the reference implementation. */
import type { Rope } from '../../core/model.ts';
import * as s from '../../core/schema.ts';

const fround = Math.fround;

export type RopeKind = 'default' | 'linear' | 'dynamic' | 'yarn' | 'longrope' | 'llama3' | 'proportional';

const kind = s.named<RopeKind>({
  default: 'default',
  linear: 'linear',
  dynamic: 'dynamic',
  yarn: 'yarn',
  longrope: 'longrope',
  su: 'longrope',
  llama3: 'llama3',
  proportional: 'proportional',
});

/** Keys of `rope_parameters`, or of the older `rope_scaling`. */
const parameters = s.object({
  rope_type: s.alias(s.or(kind, 'default'), 'type'),
  rope_theta: s.optional(s.positive),
  partial_rotary_factor: s.optional(s.positive),
  factor: s.optional(s.positive),
  original_max_position_embeddings: s.optional(s.count),
  attention_factor: s.optional(s.number),
  beta_fast: s.optional(s.number),
  beta_slow: s.optional(s.number),
  mscale: s.optional(s.number),
  mscale_all_dim: s.optional(s.number),
  truncate: s.or(s.boolean, true),
  short_factor: s.optional(s.array(s.positive)),
  long_factor: s.optional(s.array(s.positive)),
  low_freq_factor: s.optional(s.positive),
  high_freq_factor: s.optional(s.positive),
  /** Keys that single architectures have: a stretch of the base, and magnitudes. */
  alpha: s.optional(s.number),
  short_mscale: s.optional(s.number),
  long_mscale: s.optional(s.number),
  llama_4_scaling_beta: s.optional(s.number),
});

/** Where a configuration speaks of rotation: the nested object, and the top-level keys of older files. */
export const ropeFields = {
  rope_parameters: s.unknown,
  rope_scaling: s.unknown,
  rope_theta: s.optional(s.positive),
  partial_rotary_factor: s.optional(s.positive),
  original_max_position_embeddings: s.optional(s.count),
  max_position_embeddings: s.or(s.count, 2048),
};
export type RopeConfig = s.Parsed<typeof ropeFields>;

export interface RopeSpec {
  readonly kind: RopeKind;
  readonly theta: number;
  /** Share of each head that rotates. */
  readonly partial: number;
  readonly maxPositions: number;
  readonly originalMax: number;
  readonly parameters: s.Infer<typeof parameters>;
  /** Factors of sines and cosines in sequences up to the original length, and in longer ones. */
  readonly magnitudes?: { readonly short: number; readonly long: number } | undefined;
  /** For messages. */
  readonly path: string;
}

/**
 * Resolves the newer and older key forms; what stands in the nested object wins over top-level keys. `theta` is the
 * architecture's default base.
 */
export function ropeSpec(c: RopeConfig, theta = 10000): RopeSpec {
  const older = s.isRecord(c.rope_scaling) && Object.keys(c.rope_scaling).length > 0;
  const path = older ? 'rope_scaling' : 'rope_parameters';
  const raw = (older ? c.rope_scaling : c.rope_parameters) ?? {};
  if (s.isRecord(raw) && Object.values(raw).some(s.isRecord)) {
    throw s.configError(path, 'one rotation for all layers of this architecture', raw);
  }
  const p = parameters.parse(raw, path);
  return {
    kind: p.rope_type,
    theta: p.rope_theta ?? c.rope_theta ?? theta,
    partial: p.partial_rotary_factor ?? c.partial_rotary_factor ?? 1,
    maxPositions: c.max_position_embeddings,
    originalMax: c.original_max_position_embeddings ?? p.original_max_position_embeddings ?? c.max_position_embeddings,
    parameters: p,
    path,
  };
}

/** The same for architectures that rotate whole heads: the plain kind takes no notice of a partial factor. */
export function wholeRopeSpec(c: RopeConfig, theta?: number): RopeSpec {
  const spec = ropeSpec(c, theta);
  return spec.kind === 'default' ? { ...spec, partial: 1 } : spec;
}

/** Of the layers of one kind. */
export interface LayerRope {
  readonly headDim: number;
  /** Base where the file states none. */
  readonly theta: number;
  /** Base of older files, outside of the nested object. */
  readonly stated: number | undefined;
}

/**
 * Rotations of full and of windowed layers. Newer files nest one for each layer type; older ones scale full layers only.
 */
export function layerRopes(c: RopeConfig, full: LayerRope, local: LayerRope): { full: Rope; local: Rope } {
  const given = s.isRecord(c.rope_parameters) ? c.rope_parameters : {};
  if (Object.keys(given).length > 0 && !('full_attention' in given) && !('sliding_attention' in given)) {
    throw s.configError('rope_parameters', 'full_attention and sliding_attention', given);
  }
  const part = (type: string) => (s.isRecord(given[type]) ? given[type] : {});
  const scaling = s.isRecord(c.rope_scaling) ? c.rope_scaling : {};
  const rope = (own: Record<string, unknown>, { headDim, theta, stated }: LayerRope) => {
    const config = { ...c, rope_scaling: undefined, rope_parameters: own, rope_theta: stated };
    return createRope(wholeRopeSpec(config, theta), headDim);
  };
  return {
    full: rope({ ...part('full_attention'), ...scaling }, full),
    local: rope(part('sliding_attention'), local),
  };
}

/** Published heads have at most 512 dimensions. */
const MAX_HEAD_DIM = 1 << 14;

/** The rotation of one layer. */
export function createRope(spec: RopeSpec, headDim: number): Rope {
  // A proportional rotation covers the whole head; the frequencies beyond its share are zero.
  const dim = spec.kind === 'proportional' ? headDim : Math.trunc(headDim * spec.partial);
  const pairs = Math.ceil(dim / 2);
  if (headDim > MAX_HEAD_DIM) throw s.configError('head_dim', `at most ${MAX_HEAD_DIM}`, headDim);
  if (dim < 1 || 2 * pairs > headDim) {
    throw s.configError(spec.path, `a rotation of at least 1 and at most ${headDim} dimensions of each head`, dim);
  }
  return new RopeTable(spec, headDim, 2 * pairs, frequenciesOf(spec, dim, pairs));
}

/** Inverse frequencies, by the length of the sequence. */
interface Frequencies {
  at(length: number): Float32Array;
  readonly switchLength?: number | undefined;
  readonly growsBeyond?: number | undefined;
  readonly maxPositions?: number | undefined;
}

class RopeTable implements Rope {
  readonly rotaryDim: number;
  readonly width: number;
  readonly key: string;
  readonly switchLength: number | undefined;
  readonly growsBeyond: number | undefined;
  readonly maxPositions: number | undefined;
  readonly #frequencies: Frequencies;
  readonly #factor: number;
  readonly #longFactor: number;
  readonly #originalMax: number;

  constructor(spec: RopeSpec, headDim: number, rotaryDim: number, frequencies: Frequencies) {
    this.rotaryDim = this.width = rotaryDim;
    this.key = JSON.stringify([{ ...spec, path: '' }, headDim]);
    const { short, long } = spec.magnitudes ?? {};
    this.switchLength = short === long ? frequencies.switchLength : spec.originalMax;
    this.growsBeyond = frequencies.growsBeyond;
    this.maxPositions = frequencies.maxPositions;
    this.#frequencies = frequencies;
    this.#factor = short ?? attentionFactor(spec);
    this.#longFactor = long ?? this.#factor;
    this.#originalMax = spec.originalMax;
  }

  fill(out: Float32Array, at: number, position: number, length: number): void {
    const inverse = this.#frequencies.at(length);
    const pairs = inverse.length;
    const factor = length > this.#originalMax ? this.#longFactor : this.#factor;
    const p = fround(position);
    for (let i = 0; i < pairs; i++) {
      const angle = fround(p * inverse[i]!);
      out[at + i] = fround(Math.cos(angle)) * factor;
      out[at + pairs + i] = fround(Math.sin(angle)) * factor;
    }
  }
}

function frequenciesOf(spec: RopeSpec, dim: number, pairs: number): Frequencies {
  const { kind, theta, originalMax, maxPositions, parameters: p, path } = spec;
  const need = <T>(value: T | undefined, key: string): T => {
    if (value === undefined) throw s.configError(`${path}.${key}`, `a value for the rotation "${kind}"`, undefined);
    return value;
  };
  const fixed = (inverse: Float32Array): Frequencies => ({ at: () => inverse });
  const plain = powers(new Float32Array(pairs), theta, dim);
  switch (kind) {
    case 'default':
      return fixed(plain);
    case 'linear': {
      const factor = fround(need(p.factor, 'factor'));
      return fixed(plain.map((f) => f / factor));
    }
    case 'proportional': {
      const rotated = Math.floor((spec.partial * dim) / 2);
      const factor = fround(p.factor ?? 1);
      return fixed(plain.map((f, i) => (i < rotated ? f / factor : 0)));
    }
    case 'dynamic':
      return dynamic(theta, dim, pairs, need(p.factor, 'factor'), maxPositions);
    case 'yarn':
      return fixed(yarn(plain, spec, dim));
    case 'llama3': {
      const low = need(p.low_freq_factor, 'low_freq_factor');
      const high = need(p.high_freq_factor, 'high_freq_factor');
      return fixed(llama3(plain, need(p.factor, 'factor'), low, high, originalMax));
    }
    case 'longrope': {
      const scaled = (factors: readonly number[], key: string): Float32Array => {
        if (factors.length !== pairs) throw s.configError(`${path}.${key}`, `${pairs} numbers`, factors.length);
        return plain.map((_, i) => 1 / fround(fround(factors[i]!) * power(theta, 2 * i, dim)));
      };
      const short = scaled(need(p.short_factor, 'short_factor'), 'short_factor');
      const long = scaled(need(p.long_factor, 'long_factor'), 'long_factor');
      const differ = short.some((f, i) => f !== long[i]);
      return { at: (length) => (length > originalMax ? long : short), switchLength: differ ? originalMax : undefined };
    }
  }
}

function power(theta: number, exponent: number, dim: number): number {
  return fround(fround(theta) ** fround(exponent / dim));
}

/** `theta ** (-2i / dim)`. */
function powers(out: Float32Array, theta: number, dim: number): Float32Array {
  for (let i = 0; i < out.length; i++) out[i] = 1 / power(theta, 2 * i, dim);
  return out;
}

/** "NTK by parts" without parts: the base grows with the length of the sequence once that exceeds the trained one. */
function dynamic(theta: number, dim: number, pairs: number, factor: number, max: number): Frequencies {
  const inverse = new Float32Array(pairs);
  let known = -1;
  return {
    growsBeyond: max,
    maxPositions: Math.floor(max * factor),
    at(length) {
      const reached = Math.max(length, max);
      if (reached !== known) {
        known = reached;
        const grown = fround(fround(fround(factor * reached) / max) - (factor - 1));
        powers(inverse, reached === max ? theta : theta * fround(grown ** (dim / (dim - 2))), dim);
      }
      return inverse;
    },
  };
}

/** YaRN (arXiv 2309.00071): fast dimensions keep their frequency, slow ones are interpolated, with a ramp between. */
function yarn(plain: Float32Array, spec: RopeSpec, dim: number): Float32Array {
  const { theta, originalMax, parameters: p } = spec;
  const factor = yarnFactor(spec);
  const turns = (n: number) => (dim * Math.log(originalMax / (n * 2 * Math.PI))) / (2 * Math.log(theta));
  const first = turns(p.beta_fast || 32);
  const last = turns(p.beta_slow || 1);
  const low = Math.max(p.truncate ? Math.floor(first) : first, 0);
  let high = Math.min(p.truncate ? Math.ceil(last) : last, dim - 1);
  if (low === high) high += 0.001;
  return plain.map((fast, i) => {
    const ramp = Math.min(Math.max(fround(fround(i - fround(low)) / fround(high - low)), 0), 1);
    const keep = fround(1 - ramp);
    const slow = fround(1 / fround(fround(factor) * power(theta, 2 * i, dim)));
    return fround(slow * fround(1 - keep)) + fround(fast * keep);
  });
}

function yarnFactor({ parameters, maxPositions, originalMax }: RopeSpec): number {
  return parameters.factor ?? maxPositions / originalMax;
}

/** Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between mixed. */
function llama3(plain: Float32Array, factor: number, low: number, high: number, originalMax: number): Float32Array {
  return plain.map((f) => {
    const wavelength = fround(fround(2 * Math.PI) / f);
    if (wavelength > fround(originalMax / low)) return f / fround(factor);
    if (wavelength < fround(originalMax / high)) return f;
    const smooth = fround(fround(fround(originalMax / wavelength) - fround(low)) / fround(high - low));
    return fround(fround(fround(1 - smooth) * f) / fround(factor)) + fround(smooth * f);
  });
}

/** What cosines and sines are multiplied with. */
function attentionFactor(spec: RopeSpec): number {
  const { kind, maxPositions, originalMax, parameters: p } = spec;
  if (kind !== 'yarn' && kind !== 'longrope') return 1;
  if (p.attention_factor !== undefined) return p.attention_factor;
  if (kind === 'longrope') {
    const factor = p.factor ?? maxPositions / originalMax;
    return factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(originalMax));
  }
  const scale = (m: number) => magnitude(yarnFactor(spec), m);
  return p.mscale && p.mscale_all_dim ? scale(p.mscale) / scale(p.mscale_all_dim) : scale(1);
}

function magnitude(factor: number, m: number): number {
  return factor <= 1 ? 1 : 0.1 * m * Math.log(factor) + 1;
}

/** What queries and keys of latent attention are each scaled with, for `mscale_all_dim`. */
export function yarnScale(spec: RopeSpec): number {
  const { kind, parameters: p } = spec;
  return kind !== 'default' && p.mscale_all_dim ? magnitude(yarnFactor(spec), p.mscale_all_dim) : 1;
}
