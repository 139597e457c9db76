/** Configuration keys of Mamba 2 layers inside hybrid models. */
import * as s from '../../core/schema.ts';
import type { MambaSpec } from '../blocks/mamba.ts';

/** Numbers of which JSON has no way to say that they are infinite. */
const limit: s.Schema<number> = {
  parse(value, path) {
    const text = s.isRecord(value) ? value.__float__ : value;
    if (typeof text === 'number' && !Number.isNaN(text)) return text;
    if (text === 'Infinity' || text === 'inf') return Number.POSITIVE_INFINITY;
    throw s.configError(path, 'a number', value);
  },
};

export const mambaFields = {
  mamba_n_heads: s.or(s.count, 128),
  mamba_n_groups: s.or(s.count, 1),
  mamba_d_state: s.or(s.count, 256),
  /** A number, or `auto`. */
  mamba_d_head: s.unknown,
  mamba_d_conv: s.or(s.count, 4),
  mamba_expand: s.or(s.positive, 2),
  mamba_conv_bias: s.or(s.boolean, true),
  mamba_proj_bias: s.or(s.boolean, false),
  time_step_limit: s.optional(s.array(limit)),
};

type Sizes = Omit<MambaSpec, 'hidden' | 'activation' | 'eps' | 'normGroups'>;

/** Sizes of the layer; `inner` is the number of its channels where the file states one. */
export function mambaSizes(
  c: s.Parsed<typeof mambaFields> & { readonly hidden_size: number },
  inner = Math.floor(c.mamba_expand * c.hidden_size),
): Sizes {
  const heads = c.mamba_n_heads;
  const auto = c.mamba_d_head == null || c.mamba_d_head === 'auto';
  const headDim = auto ? Math.floor(inner / heads) : s.count.parse(c.mamba_d_head, 'mamba_d_head');
  if (headDim * heads !== inner) throw s.configError('mamba_n_heads', `heads of ${headDim} to fill ${inner}`, heads);
  if (heads % c.mamba_n_groups !== 0) throw s.configError('mamba_n_groups', `a divisor of ${heads}`, c.mamba_n_groups);
  const [least = 0, most = Number.POSITIVE_INFINITY] = c.time_step_limit ?? [];
  return {
    ...{ heads, headDim, groups: c.mamba_n_groups, stateDim: c.mamba_d_state, kernel: c.mamba_d_conv },
    ...{ convBias: c.mamba_conv_bias, bias: c.mamba_proj_bias, steps: [least, most] },
  };
}
