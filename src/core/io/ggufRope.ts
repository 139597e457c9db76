/** Rotary settings of GGUF files as `rope_parameters`. */
import { FormatError, UnsupportedError } from '../errors.ts';
import { sizeOf } from '../tensor.ts';
import type { SourceTensor } from '../weights.ts';
import type { GgufKeys } from './ggufKeys.ts';
import type { GgufArch } from './ggufNames.ts';

const FREQS = 'rope_freqs.weight';
const LONG = 'rope_factors_long.weight';
const SHORT = 'rope_factors_short.weight';

/** Tensors that become part of the configuration. */
export const ROPE_TENSORS: readonly string[] = [FREQS, LONG, SHORT];

/** Base of windowed layers where the file does not state it. */
const LOCAL_THETA = 10000;

type Tensors = ReadonlyMap<string, SourceTensor>;

export async function ropeParameters(keys: GgufKeys, arch: GgufArch, headDim: number, tensors: Tensors) {
  const theta = keys.optionalNumber('rope.freq_base') ?? 10000;
  const rotation = {
    rope_theta: theta,
    partial_rotary_factor: partial(keys, arch, headDim),
    ...(await scaling(keys, arch, tensors)),
  };
  if (!arch.localRope) return rotation;
  const local = { rope_type: 'default', rope_theta: keys.optionalNumber('rope.freq_base_swa') ?? LOCAL_THETA };
  return { full_attention: rotation, sliding_attention: local };
}

function partial(keys: GgufKeys, arch: GgufArch, headDim: number): number | undefined {
  const rotated = keys.optionalCount('rope.dimension_count') ?? headDim;
  if (rotated === headDim) return arch.partialRotary ? 1 : undefined;
  if (!arch.partialRotary) {
    throw new UnsupportedError(`rope.dimension_count: expected the head size ${headDim}, got ${rotated}`, {
      feature: 'partial rotation',
    });
  }
  // The reader of the share truncates its product with the head size, which must give the count back.
  const share = rotated / headDim;
  return Math.trunc(share * headDim) === rotated ? share : (rotated + 0.5) / headDim;
}

async function scaling(keys: GgufKeys, arch: GgufArch, tensors: Tensors): Promise<Record<string, unknown>> {
  const factor = keys.optionalNumber('rope.scaling.factor') || keys.optionalNumber('rope.scale_linear') || undefined;
  const type = keys.optionalString('rope.scaling.type') ?? (factor === undefined ? 'none' : 'linear');
  const attention = keys.optionalNumber('rope.scaling.attn_factor');
  const original = keys.optionalCount('rope.scaling.original_context_length');
  const [freqs, long, short] = await Promise.all([FREQS, LONG, SHORT].map((name) => factors(tensors.get(name))));
  if (long || short) {
    if (!long || !short) throw new FormatError(`${long ? SHORT : LONG}: expected this tensor, got none`);
    return {
      rope_type: 'longrope',
      long_factor: long,
      short_factor: short,
      attention_factor: attention,
      original_max_position_embeddings: original,
    };
  }
  const plain = type === 'none' || (type === 'linear' && (factor ?? 1) === 1);
  if (freqs) {
    if (!plain && type !== 'linear') throw refused(`${type} with ${FREQS}`);
    // Divisors of the frequencies, the same at every length.
    const divisors = freqs.map((f) => f * (plain ? 1 : (factor as number)));
    return { rope_type: 'longrope', long_factor: divisors, short_factor: divisors, attention_factor: attention ?? 1 };
  }
  if (type === 'yarn') return yarn(keys, arch, factor, attention ?? 1, original);
  if ((attention ?? 1) !== 1) throw refused(`attn_factor ${attention} with ${type}`);
  if (plain) return { rope_type: 'default' };
  if (type === 'linear') return { rope_type: 'linear', factor };
  throw refused(type);
}

function yarn(
  keys: GgufKeys,
  arch: GgufArch,
  factor: number | undefined,
  attention: number,
  original: number | undefined,
) {
  const mix = keys.optionalNumber('rope.scaling.yarn_ext_factor') ?? 1;
  const log = keys.optionalNumber('rope.scaling.yarn_log_multiplier') ?? 0;
  if (mix !== 1 && mix !== -1) throw refused(`yarn_ext_factor ${mix}`);
  if (log !== 0 && !arch.latent && !arch.yarnMagnitude) throw refused(`yarn_log_multiplier ${log}`);
  if (factor === undefined) throw new FormatError('rope.scaling.factor: expected a number for yarn, got nothing');
  const stretch = arch.latent ? { mscale: 10 * log, mscale_all_dim: 10 * log } : { mscale: 1, mscale_all_dim: log };
  const scale = attention * (keys.optionalNumber('rope.scaling.yarn_attn_factor') ?? 1);
  return {
    rope_type: 'yarn',
    factor,
    original_max_position_embeddings: original,
    beta_fast: keys.optionalNumber('rope.scaling.yarn_beta_fast'),
    beta_slow: keys.optionalNumber('rope.scaling.yarn_beta_slow'),
    // With latent attention the scale of scores grows instead, by as much as the file says.
    ...(log !== 0
      ? { ...stretch, attention_factor: scale === 1 ? undefined : scale }
      : { attention_factor: scale * (factor <= 1 ? 1 : 0.1 * Math.log(factor) + 1) }),
  };
}

function refused(what: string): UnsupportedError {
  return new UnsupportedError(`rope.scaling: expected none, linear, yarn or longrope, got ${what}`, { feature: what });
}

/** More than half a head of any model. */
const MAX_FACTORS = 4096;

async function factors(t: SourceTensor | undefined): Promise<readonly number[] | undefined> {
  if (!t) return undefined;
  const n = sizeOf(t.shape);
  if (t.type.name !== 'F32' || t.shape.length !== 1 || n > MAX_FACTORS) {
    throw new FormatError(
      `tensor "${t.name}": expected up to ${MAX_FACTORS} F32 values, got ${t.type.name} [${t.shape}]`,
    );
  }
  const bytes = new Uint8Array(4 * n);
  await t.readRows(0, 1, bytes);
  return Array.from(new Float32Array(bytes.buffer));
}
